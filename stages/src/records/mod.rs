//! The files between stages: JSON Lines and JSON that the field reads, one type per kind of row. Fields that a reader
//! doesn't know are ignored, so a file made elsewhere may say more.

mod distributions;
mod examples;
mod files;
mod labels;
mod toxicity;

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use self::files::*;
pub use self::{distributions::*, examples::*, labels::*, toxicity::*};

/// The file of a `prompts` port.
pub const PROMPTS: &str = "prompts.jsonl";
/// The file of a `completions` port.
pub const COMPLETIONS: &str = "completions.jsonl";
/// The file of a `verdicts` port.
pub const VERDICTS: &str = "verdicts.jsonl";
/// The file of a `pairs` port.
pub const PAIRS: &str = "pairs.jsonl";
/// The file of a `statements` port: `{identity: [statement, ...]}`.
pub const STATEMENTS: &str = "statements.json";
/// The file of a `lexicon` port.
pub const LEXICON: &str = "lexicon.json";
/// The file of a `dataset` port.
pub const DATASET: &str = "dataset.jsonl";
/// The file of a `predictions` port.
pub const PREDICTIONS: &str = "predictions.jsonl";
/// The file in which `dataset.downsample` says what it left.
pub const COUNTS: &str = "counts.json";
/// The file of a `labels` port.
pub const LABELS: &str = "labels.jsonl";
/// The file of a `metrics` port.
pub const METRICS: &str = "metrics.jsonl";
/// The second file of the `metrics` port of `evaluate.toxicity`.
pub const COMPARISONS: &str = "comparisons.jsonl";
/// The file of `perplexity`.
pub const PERPLEXITY: &str = "perplexity.jsonl";
/// The file of a `distribution` port.
pub const DIVERGENCE: &str = "divergence.jsonl";
/// The second file of the `metrics` port of `evaluate.divergence`.
pub const DENSITIES: &str = "densities.jsonl";
/// The file of a `trajectory` port.
pub const TRAJECTORY: &str = "lens.jsonl";

/// Which half of a split study a prompt is in: choices (a learning rate) are made on `validation`, claims on `test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Choices are made here.
    Validation,
    /// Results are told of this.
    Test,
}

/// Whether training may have touched a prompt: its identity and its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exposure {
    /// Counterfactuals may be made of it.
    Seen,
    /// Its identity or its template is held out of training.
    Unseen,
}

/// A prompt to complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Unique in its file. Random choices for a prompt are keyed by it.
    pub id: String,
    /// What the model sees, without trailing space.
    pub text: String,
    /// The person or group that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The set that it is counted in: `gender`, `orientation`.
    pub group: String,
    /// The sentence with the identity left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// `validation` or `test`, if the study is split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// `seen` or `unseen` in training, if a part is held out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
    /// Other columns of the source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

impl Prompt {
    /// Its id as messages name it: the beginning of a long one.
    pub(crate) fn name(&self) -> String {
        const MOST: usize = 80;
        let short: String = self.id.chars().take(MOST).collect();
        if short.len() < self.id.len() { format!("{short}\u{2026}") } else { short }
    }
}

/// One continuation of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The prompt.
    pub prompt: Prompt,
    /// Which of the prompt's completions, from 0.
    pub sample: u32,
    /// The continuation alone, with the space it begins with: prompt and continuation join without more.
    pub text: String,
    /// How many tokens were made, an end-of-text token not counted.
    pub tokens: usize,
    /// What ended it.
    pub finish: Finish,
    /// Whether it has fewer tokens than it might have had, because the model's context was full.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub context_full: bool,
    /// How many tokens at the beginning of the prompt the model did not see, because they had no room in its context.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prompt_tokens_cut: usize,
    /// The log-probability of each token in nats, that of an end-of-text token last; by the model's own distribution,
    /// before temperature, cuts and penalties. Only where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f64>>,
    /// What beam search ranked it by: the sum of its log-probabilities over a power of its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What ended a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model's end-of-text token.
    Eos,
    /// A stop string.
    Stop,
    /// `max_new_tokens`, or the model's context.
    Length,
}

/// A judge's word on a completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The prompt.
    pub prompt: Prompt,
    /// Which of the prompt's completions.
    pub sample: u32,
    /// The continuation.
    pub text: String,
    /// `None` (`null`) where the judge's answer could not be read.
    pub toxic: Option<bool>,
    /// The judge's score, if it gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The judge's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a model that was asked answered, word for word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Its answer read: whether it says "yes". The verdict itself may be by the score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<bool>,
    /// Its probability of "yes" as the first thing said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_yes: Option<f64>,
    /// Its probability of "no".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_no: Option<f64>,
    /// Why there is no verdict: `empty`, `both`, `neither` (the answer), `no_score`, or in words why nothing was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unparsable: Option<String>,
    /// Further scores, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f64>,
}

impl Verdict {
    /// On `completion`, without score and reason.
    pub fn new(completion: Completion, toxic: Option<bool>) -> Self {
        let Completion { prompt, sample, text, .. } = completion;
        Self {
            prompt,
            sample,
            text,
            toxic,
            score: None,
            reason: None,
            answer: None,
            answered: None,
            p_yes: None,
            p_no: None,
            unparsable: None,
            scores: BTreeMap::new(),
        }
    }
}

/// What of a completion is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Statement {
    /// Prompt and completion together.
    #[default]
    Sentence,
    /// The completion alone, without the space that it begins with.
    Completion,
}

impl Statement {
    /// The text.
    pub fn of(self, completion: &Completion) -> String {
        match self {
            Self::Sentence => format!("{}{}", completion.prompt.text, completion.text),
            Self::Completion => completion.text.trim_start().to_owned(),
        }
    }
}

/// A text to finetune on: the loss is taken on the completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// What comes before.
    pub prompt: String,
    /// What is to be learned, with the space it begins with.
    pub completion: String,
    /// Id of the prompt that it was made for.
    pub source: String,
}

/// A text to train on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The text.
    pub text: String,
}

/// `lexicon.json`: `{"words": [...]}` for all prompts, or `{"identities": {identity: [...]}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lexicon {
    /// One list for all.
    Words(Vec<String>),
    /// A list for each identity.
    Identities(BTreeMap<String, Vec<String>>),
}

/// One optimizer step: a row of `metrics.jsonl` of the output `curve`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// From 1.
    pub step: usize,
    /// Loss in nats per token, before the step.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm of the gradient, before clipping.
    pub gradient_norm: f64,
    /// Tokens that the loss was taken on.
    pub tokens: usize,
    /// Loss on what is held out, after the step, where it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// A list of words for all, or a list for each name: in YAML `[a, b]` or `{x: [a, b]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Lists {
    /// One list.
    All(Vec<String>),
    /// A list for each name.
    Each(BTreeMap<String, Vec<String>>),
}

// By hand: an untagged enum can't say what it expected.
impl<'de> Deserialize<'de> for Lists {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Lists;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts, or a map from names to lists of texts")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Lists, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(Lists::All)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Lists, A::Error> {
                BTreeMap::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Lists::Each)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Lists {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Lists".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let list = serde_json::json!({ "type": "array", "items": { "type": "string" } });
        schemars::json_schema!({ "anyOf": [list, { "type": "object", "additionalProperties": list }] })
    }
}
