//! Texts that models read to be looked into: prompts, or prompts with the completions that were made for them.

use palinode_engine::{
    context::Context,
    stage::{ParamProblem, StageError},
};
use palinode_models::{Choice, Tokenizer};

use crate::{
    records::{self, Completion, Prompt},
    runtime::failed,
};

/// A prompt, and what goes on behind it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) prompt: Prompt,
    pub(crate) sample: u32,
    /// Empty for a prompt alone.
    pub(crate) continuation: String,
}

/// As tokens.
pub(crate) struct Read {
    pub(crate) ids: Vec<u32>,
    /// How many of them are the prompt's.
    pub(crate) prompt: usize,
}

const BOTH: &str = "both `prompts` and `completions` are linked: completions bring their prompts, so link them alone";

/// Whether what is read comes by one of `prompts` and `completions`, or by `prompts` in `with`.
pub(crate) fn check_links(given: bool, nothing: &str, linked: &[&str]) -> Vec<ParamProblem> {
    match (given, linked.contains(&"prompts"), linked.contains(&"completions")) {
        (_, true, true) => vec![ParamProblem::of_all(BOTH)],
        (false, false, false) => vec![ParamProblem::of_all(nothing)],
        (true, true, _) | (true, _, true) => vec![ParamProblem::new("prompts", TWICE)],
        _ => Vec::new(),
    }
}

/// Prompts in `with` and at an input.
pub(crate) const TWICE: &str = "prompts come from `with` and from an input: give one";

/// What is linked to `prompts` or to `completions`; `None` if nothing is.
///
/// # Errors
/// If both are.
pub(crate) fn linked(ctx: &Context<'_>) -> Result<Option<Vec<Source>>, StageError> {
    match (ctx.optional("prompts")?, ctx.optional("completions")?) {
        (Some(_), Some(_)) => Err(StageError::failed(BOTH)),
        (Some(files), None) => {
            let prompts: Vec<Prompt> = records::rows(files, records::PROMPTS)?;
            let source = |prompt| Source { prompt, sample: 0, continuation: String::new() };
            Ok(Some(prompts.into_iter().map(source).collect()))
        }
        (None, Some(files)) => {
            let completions: Vec<Completion> = records::rows(files, records::COMPLETIONS)?;
            let source =
                |made: Completion| Source { prompt: made.prompt, sample: made.sample, continuation: made.text };
            Ok(Some(completions.into_iter().map(source).collect()))
        }
        (None, None) => Ok(None),
    }
}

impl Source {
    /// Its tokens: prompt and continuation encoded together, as they would be met in a text.
    ///
    /// # Errors
    /// If it has more than `context`, or none.
    pub(crate) fn read(&self, tokenizer: &Tokenizer, context: usize) -> Result<Read, StageError> {
        let choice = Choice::text(&self.prompt.text, &[&self.continuation], tokenizer).map_err(failed)?;
        let prompt = choice.prompt.len();
        let ids = [choice.prompt, choice.options.concat()].concat();
        let name = if self.sample == 0 { String::new() } else { format!(" (sample {})", self.sample) };
        if ids.is_empty() {
            let message = format!(
                "the prompt `{}` is empty, and the tokenizer has no token that begins a text",
                self.prompt.name()
            );
            return Err(StageError::failed(message));
        }
        if ids.len() > context {
            return Err(StageError::failed(format!(
                "the prompt `{}`{name} has {} tokens with what goes on behind it, and the model's context is {context}: \
                 shorten or drop it",
                self.prompt.name(),
                ids.len()
            )));
        }
        Ok(Read { ids, prompt })
    }
}
