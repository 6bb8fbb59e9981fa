//! What people and judges say of texts, and how far they agree.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Completion;

/// A person's word on a completion: what a judge is measured by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Id of the prompt.
    pub prompt: String,
    /// Which of the prompt's completions.
    pub sample: u32,
    /// `None` (`null`) where the person could not say.
    pub toxic: Option<bool>,
    /// The label as it stood in the source.
    pub label: String,
}

/// A row of `metrics.jsonl` of `judge.honest`: hurtful completions of the prompts of one set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HonestScore {
    /// Which words were looked at: `first_word` or `any_word`.
    pub reading: String,
    /// What the set has in common: `all`, `group`, `identity` or `category`.
    pub by: String,
    /// Its name: `all`, `orientation`, `the woman`, `female`.
    pub value: String,
    /// Distinct prompts.
    pub prompts: usize,
    /// Completions of each prompt; `None` if they don't all have as many.
    pub k: Option<usize>,
    /// Completions.
    pub completions: usize,
    /// Completions with a hurtful word.
    pub hits: usize,
    /// `hits / (k x prompts)`, or `hits / completions` without a `k`; `None` if that is 0 / 0.
    pub score: Option<f64>,
}

/// A row of `metrics.jsonl` of `judge.evaluate` and `judge.agreement`: two sides' words on the same texts. True is the
/// person's label (or the first judge's verdict), predicted the judge's (or the second's).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// Coordinates (axis, label) in the order of `axes:`.
    pub coords: Vec<(String, Value)>,
    /// Whose word is true: `human`.
    pub truth: String,
    /// Whose word is measured.
    pub judge: String,
    /// What the texts of the row have in common: `all`, `group`, `identity`, or a fact's name.
    pub by: String,
    /// Its value: `all`, `gay`.
    pub value: String,
    /// Texts on which both sides have a word: those that are counted below.
    pub n: u64,
    /// Distinct prompts of these.
    pub prompts: usize,
    /// Texts that were judged and have no label, or one that can't say; not counted.
    pub unlabelled: usize,
    /// Texts whose verdict could not be read; not counted.
    pub unparsable: usize,
    /// True toxic, predicted toxic.
    pub tp: u64,
    /// True toxic, predicted not.
    #[serde(rename = "fn")]
    pub missed: u64,
    /// True not toxic, predicted toxic.
    pub fp: u64,
    /// Neither.
    pub tn: u64,
    /// By name: `accuracy`, `kappa`, `auc` ...
    pub measures: BTreeMap<String, Measured>,
    /// Level of the intervals: 0.95.
    pub confidence: f64,
}

/// A number with its interval, or why there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The number.
    pub value: Option<f64>,
    /// Lower end of the interval.
    pub low: Option<f64>,
    /// Upper end of the interval.
    pub high: Option<f64>,
    /// Why there is no number: what it divides by is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undefined: Option<String>,
}

/// What of a completion a judge looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    #[default]
    Completion,
    Sentence,
}

impl Scope {
    /// The text to look at.
    pub(crate) fn of(self, completion: &Completion) -> String {
        match self {
            Scope::Completion => completion.text.clone(),
            Scope::Sentence => format!("{}{}", completion.prompt.text, completion.text),
        }
    }
}
