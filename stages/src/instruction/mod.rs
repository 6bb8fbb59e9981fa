//! Classification as an instruction: a prompt asks for one of some options, and the model answers.

pub(crate) mod finetune;
pub(crate) mod predict;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use palinode_engine::stage::{ParamProblem, StageError};
use palinode_models::Tokenizer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    records::{Example, continuation},
    runtime::failed,
};

/// How a text is asked about.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Instruction {
    /// What the model sees. `{text}` is the text, `{options}` the answers that there are.
    #[serde(default = "template")]
    template: String,
    /// What is to be answered, by label: `{"0": negative, "1": positive}`.
    options: BTreeMap<String, String>,
}

fn template() -> String {
    "{text}\nIs this {options}? Answer with one of them.\nAnswer:".to_owned()
}

impl Instruction {
    fn problems(&self) -> Vec<ParamProblem> {
        let at = |field: &str, message: String| ParamProblem {
            path: vec!["instruction".to_owned(), field.to_owned()],
            message,
            hint: None,
        };
        let mut problems = Vec::new();
        match self.template.matches("{text}").count() {
            1 => {}
            count => problems.push(at("template", format!("`{{text}}` must stand in it once, not {count} times"))),
        }
        if self.options.len() < 2 {
            problems.push(at("options", "give an answer for each of two or more labels".to_owned()));
        }
        let mut answers: Vec<String> = self.options.values().map(|answer| answer.trim().to_lowercase()).collect();
        answers.sort();
        if answers.iter().any(String::is_empty) || answers.windows(2).any(|pair| pair[0] == pair[1]) {
            problems.push(at("options", "answers must be different, and none empty".to_owned()));
        }
        problems
    }

    /// What follows the prompt if the answer is the one for `label`.
    fn answer(&self, label: &str) -> Option<String> {
        self.options.get(label).map(|answer| continuation(answer))
    }

    /// Labels with their answers, in the order of the labels.
    fn answers(&self) -> Vec<(&str, String)> {
        self.options.iter().map(|(label, answer)| (label.as_str(), continuation(answer))).collect()
    }

    /// Refuses examples with a label that has no answer.
    fn check(&self, examples: &[Example]) -> Result<(), StageError> {
        let unknown: Vec<&Example> =
            examples.iter().filter(|example| !self.options.contains_key(&example.label)).collect();
        let Some(first) = unknown.first() else { return Ok(()) };
        Err(StageError::failed(format!(
            "{} of {} examples have a label that is not among the options (`{}` of `{}` is the first); the options are \
             for {}",
            unknown.len(),
            examples.len(),
            first.label,
            first.id,
            self.options.keys().cloned().collect::<Vec<_>>().join(", ")
        )))
    }

    /// The prompt for a text; what it holds is not looked at for placeholders.
    fn prompt(&self, text: &str) -> String {
        let options: Vec<&str> = self.options.values().map(|answer| answer.trim()).collect();
        let options = match options.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => options.join(""),
        };
        let (before, after) = self.template.split_once("{text}").unwrap_or((&self.template, ""));
        [&before.replace("{options}", &options), text, &after.replace("{options}", &options)].concat()
    }

    /// The prompt for a text in at most `room` tokens, the longest answer or what is generated not counted: of a text
    /// that is too long the beginning is kept, since what asks stands behind it. Says whether it was cut.
    fn fitted(&self, text: &str, tokenizer: &Tokenizer, room: usize) -> Result<(String, bool), StageError> {
        let fits = |text: &str| -> Result<bool, StageError> {
            Ok(tokenizer.encode(&self.prompt(text), true).map_err(failed)?.len() <= room)
        };
        if fits(text)? {
            return Ok((self.prompt(text), false));
        }
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let (mut low, mut high) = (0, ends.len());
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fits(&text[..ends[middle]])? { low = middle } else { high = middle }
        }
        let kept = ends.get(low).map_or("", |&end| &text[..end]);
        if kept.is_empty() {
            return Err(StageError::failed(format!(
                "the prompt's template alone has more than the {room} tokens that the model leaves for it: shorten it"
            )));
        }
        Ok((self.prompt(kept), true))
    }
}
