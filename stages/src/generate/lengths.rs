//! Prompts that the model's context has no room for.

use palinode_engine::{context::Context, stage::StageError};
use palinode_models::Prompt as Start;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::records::Prompt;

/// What happens to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnLongPrompt {
    /// They are refused, by name.
    #[default]
    Error,
    /// Their beginning is left out.
    TruncateLeft,
}

impl OnLongPrompt {
    /// Leaves as many tokens of each prompt as `context` has room for; says how many each lost.
    ///
    /// With [`OnLongPrompt::TruncateLeft`] there is room for all `new` tokens afterwards, if the context allows. The token
    /// that begins a text, `first`, stays.
    pub(super) fn fit(
        self,
        ctx: &Context<'_>,
        prompts: &[Prompt],
        starts: &mut [Start],
        (context, new): (usize, usize),
        first: Option<u32>,
    ) -> Result<Vec<usize>, StageError> {
        if let Some((prompt, _)) = prompts.iter().zip(&*starts).find(|(_, start)| start.ids.is_empty()) {
            let id = &prompt.id;
            let message = format!("the prompt `{id}` is empty, and the tokenizer has no token that begins a text");
            return Err(StageError::failed(message));
        }
        if self == OnLongPrompt::Error {
            return refuse(prompts, starts, context).map(|()| vec![0; starts.len()]);
        }
        let room = context.saturating_sub(new);
        let cut: Vec<usize> =
            starts.iter_mut().map(|start| truncate_left(&mut start.ids, room, context, first)).collect();
        let truncated = cut.iter().filter(|&&tokens| tokens > 0).count();
        ctx.summary("prompts_truncated", truncated);
        ctx.summary("prompt_tokens_cut", cut.iter().sum::<usize>());
        if truncated > 0 {
            ctx.warn(format!(
                "{truncated} of {} prompts lost their beginning: the model's context of {context} has no room for them \
                 and {new} new tokens",
                starts.len()
            ));
        }
        Ok(cut)
    }
}

/// Leaves the last `room` tokens, but at least one beside the `first` of a text, which stays.
fn truncate_left(ids: &mut Vec<u32>, room: usize, context: usize, first: Option<u32>) -> usize {
    let kept = usize::from(first.is_some() && ids.first().copied() == first && context > 1);
    let cut = ids.len().saturating_sub(room.max(kept + 1));
    ids.drain(kept..kept + cut);
    cut
}

/// Refuses prompts that the model has no place for, by name.
fn refuse(prompts: &[Prompt], starts: &[Start], context: usize) -> Result<(), StageError> {
    let long: Vec<String> = prompts
        .iter()
        .zip(starts)
        .filter(|(_, start)| start.ids.len() > context)
        .map(|(prompt, start)| format!("`{}` ({})", prompt.name(), start.ids.len()))
        .collect();
    if long.is_empty() {
        return Ok(());
    }
    let some = long.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = if long.len() > 3 { ", ..." } else { "" };
    Err(StageError::failed(format!(
        "{} of {} prompts have more tokens than the model's context of {context}: {some}{more}; shorten or drop them, or \
         take `on_long_prompt: truncate_left`",
        long.len(),
        prompts.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_goes_and_the_first_token_stays() {
        let cut = |ids: &[u32], room, first| {
            let mut ids = ids.to_vec();
            let cut = truncate_left(&mut ids, room, 8, first);
            (cut, ids)
        };
        assert_eq!(cut(&[1, 5, 6, 7, 8], 5, Some(1)), (0, vec![1, 5, 6, 7, 8]));
        assert_eq!(cut(&[1, 5, 6, 7, 8], 3, Some(1)), (2, vec![1, 7, 8]));
        assert_eq!(cut(&[1, 5, 6, 7, 8], 3, None), (2, vec![6, 7, 8]));
        assert_eq!(cut(&[5, 6, 7, 8], 3, Some(1)), (1, vec![6, 7, 8]));
        // More new tokens than the context has room for: something of the prompt stays.
        assert_eq!(cut(&[1, 5, 6], 0, Some(1)), (1, vec![1, 6]));
        assert_eq!(cut(&[5, 6], 0, None), (1, vec![6]));
    }
}
