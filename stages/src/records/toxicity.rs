//! What `evaluate.toxicity` counts, compares, and sets beside it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Prompt;

/// What was counted and how sure it is: one row of `metrics.jsonl` of `evaluate.toxicity`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// `after` for the port `verdicts`, `before` for the port `before`.
    pub phase: Phase,
    /// Coordinates (axis, label) in the order of `axes:`, without the pooled axes.
    pub coords: Vec<(String, Value)>,
    /// The axes that this row pools over; empty for one instance.
    pub pooled: Vec<String>,
    /// `all`, `validation` or `test`.
    pub split: String,
    /// `all`, `seen` or `unseen`.
    #[serde(default = "all")]
    pub exposure: String,
    /// `all`, or one of the prompts' groups.
    pub group: String,
    /// `all`, or one of the prompts' identities.
    #[serde(default = "all")]
    pub identity: String,
    /// How many instances (points of the pooled axes) are in it.
    pub instances: usize,
    /// How many points of the gather were missing and dropped.
    pub missing: usize,
    /// Distinct prompts.
    pub prompts: usize,
    /// Completions, the unparsable ones among them.
    pub n: usize,
    /// Completions judged toxic.
    pub toxic: usize,
    /// Completions whose verdict could not be read; in no share.
    pub unparsable: usize,
    /// `toxic / (n - unparsable)`; `None` if that is 0 / 0.
    pub share: Option<f64>,
    /// Lower end of the interval.
    pub low: Option<f64>,
    /// Upper end of the interval.
    pub high: Option<f64>,
    /// Its level: 0.95.
    pub confidence: f64,
    /// How it was got; none where nothing could be resampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<IntervalOf>,
    /// What was resampled: `identity`, `template`, `prompt`, the pooled axes; those of one level are not among them.
    #[serde(default)]
    pub resampling: Vec<String>,
    /// Scores above this count as toxic; without, the judge's verdict does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The paper's Eq. 2, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criterion: Option<Criterion>,
    /// Perplexity of the completions, where it was measured: `exp(nll / tokens)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<PerplexityOf>,
    /// What a reader must know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// In a field that names a part of the prompts: none left out.
pub const ALL: &str = "all";

fn all() -> String {
    ALL.to_owned()
}

/// How an interval was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalOf {
    /// Percentiles of a bootstrap over `resampling`.
    Bootstrap,
    /// Clopper and Pearson's, over prompts: at a share of 0 or 1 a bootstrap sees no spread.
    Exact,
}

/// Eq. 2 of the paper: `Pr(c > alpha) <= 1 - gamma`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Criterion {
    /// The share that must not be toxic.
    pub gamma: f64,
    /// `1 - gamma`: the largest share that passes.
    pub bar: f64,
    /// Whether the share passes.
    pub passes: Option<bool>,
    /// Whether the upper end of its interval does.
    pub upper_passes: Option<bool>,
}

/// Perplexity over some completions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerplexityOf {
    /// `exp` of the mean loss in nats per token.
    pub value: f64,
    /// Lower end of its interval, resampled as the share's.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Tokens that it is a mean over.
    pub tokens: usize,
}

/// Two models on the same prompts: one row of `comparisons.jsonl` of `evaluate.toxicity`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// One model.
    pub left: Side,
    /// What it is compared with.
    pub right: Side,
    /// The axes that both pool over.
    pub pooled: Vec<String>,
    /// `all`, `validation` or `test`.
    pub split: String,
    /// `all`, `seen` or `unseen`.
    pub exposure: String,
    /// `all`, or one of the prompts' groups.
    pub group: String,
    /// Pairs of a prompt and a run in which both were judged.
    pub pairs: usize,
    /// Pairs left out, since one was not judged, or not completed at all.
    pub left_out: usize,
    /// Distinct prompts in the pairs.
    pub prompts: usize,
    /// The left's share less the right's.
    pub difference: Option<f64>,
    /// Lower end of its interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Its level.
    pub confidence: f64,
    /// What was resampled.
    pub resampling: Vec<String>,
    /// Two-sided p-value of no difference.
    pub p: Option<f64>,
    /// Adjusted by Holm's method over the family.
    pub p_holm: Option<f64>,
    /// How many comparisons the family has: those of this split, exposure and group that have a p-value.
    pub family: usize,
    /// What a reader must know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One side of a [`Comparison`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// `before` is the untouched base.
    pub phase: Phase,
    /// Coordinates without the pooled axes.
    pub coords: Vec<(String, Value)>,
    /// Share of toxic completions over the pairs.
    pub share: Option<f64>,
}

/// How well a model foresees a completion: one row of `perplexity.jsonl` of `perplexity`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// The prompt.
    pub prompt: Prompt,
    /// Which of the prompt's completions.
    pub sample: u32,
    /// Tokens of the completion.
    pub tokens: usize,
    /// Their summed negative log-probability behind the prompt, in nats.
    pub nll: f64,
    /// `exp(nll / tokens)`; none of no tokens.
    pub perplexity: Option<f64>,
}

/// Whose verdicts a [`Rate`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The untouched base.
    Before,
    /// The finetuned models.
    After,
}
