//! What a model says at each position and layer, and how far two models are apart.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One cell of a logit lens: what the model would say at `layer` after reading up to `position`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LensCell {
    /// The prompt's text.
    pub prompt: String,
    /// 0 is the embedding, `n` the output of the n-th block.
    pub layer: usize,
    /// Position of the token, from 0 (the beginning-of-text token, if the model has one).
    pub position: usize,
    /// The token at this position, as text.
    pub token: String,
    /// The most probable next token, as text.
    pub top: String,
    /// Its probability.
    pub max_probability: f64,
    /// Entropy of the next-token distribution, in nats.
    pub entropy: f64,
    /// Which of the prompt's completions goes on behind it.
    #[serde(default)]
    pub sample: u32,
    /// Whether the token at this position belongs to the completion.
    #[serde(default)]
    pub continuation: bool,
    /// The token that truly comes next, as text; none behind the last.
    #[serde(default)]
    pub next: Option<String>,
    /// The most probable next tokens as text, with their probabilities.
    #[serde(default)]
    pub top_k: Vec<(String, f64)>,
    /// Place here, from 1, of the token that the last layer says.
    #[serde(default)]
    pub final_rank: Option<usize>,
    /// `KL(last layer || this layer)`, in nats.
    #[serde(default)]
    pub kl: Option<f64>,
    /// Jensen and Shannon's divergence of this layer and the last, in nats.
    #[serde(default)]
    pub js: Option<f64>,
    /// Total variation between this layer and the last, from 0 to 1.
    #[serde(default)]
    pub tv: Option<f64>,
}

/// How far two models' next-token distributions are apart at one position: one row of `divergence.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DivergenceRow {
    /// Id of the prompt, which is in `prompts.jsonl` beside.
    pub prompt: String,
    /// Which of the prompt's completions was read.
    pub sample: u32,
    /// Position of the token, from 0 (the beginning-of-text token, if the model has one).
    pub position: usize,
    /// The token at this position, as text.
    pub token: String,
    /// The token that truly comes next, as text; none behind the last.
    pub next: Option<String>,
    /// `KL(base || tuned)`, in nats.
    pub kl: f64,
    /// `KL(tuned || base)`, in nats.
    pub reverse_kl: f64,
    /// Jensen and Shannon's divergence, in nats: at most ln 2.
    pub js: f64,
    /// Total variation, from 0 to 1.
    pub tv: f64,
}

/// A mean over positions: one row of `metrics.jsonl` of `evaluate.divergence`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DivergenceMean {
    /// `kl`, `reverse_kl`, `js` or `tv`.
    pub measure: String,
    /// Coordinates (axis, label) in the order of `axes:`, without the pooled axes.
    pub coords: Vec<(String, Value)>,
    /// The axes that this row pools over; empty for one instance.
    pub pooled: Vec<String>,
    /// `all`, `validation` or `test`.
    pub split: String,
    /// `all`, `seen` or `unseen`.
    pub exposure: String,
    /// `all`, or one of the prompts' groups.
    pub group: String,
    /// `all`, or one of the prompts' identities.
    pub identity: String,
    /// How many instances are in it.
    pub instances: usize,
    /// How many points of the gather were missing and dropped.
    pub missing: usize,
    /// Distinct prompts.
    pub prompts: usize,
    /// Positions that it is a mean over.
    pub positions: usize,
    /// Each position weighing the same.
    pub mean: Option<f64>,
    /// Lower end of its interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Its level.
    pub confidence: f64,
    /// What was resampled.
    pub resampling: Vec<String>,
    /// Quantiles of the positions' values, each with its level.
    pub quantiles: Vec<(f64, f64)>,
}

/// A kernel density of positions' values: one row of `densities.jsonl` of `evaluate.divergence`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DensityRow {
    /// `kl`, `reverse_kl`, `js` or `tv`.
    pub measure: String,
    /// Coordinates without the pooled axes.
    pub coords: Vec<(String, Value)>,
    /// The axes that this row pools over.
    pub pooled: Vec<String>,
    /// `all`, `validation` or `test`.
    pub split: String,
    /// `all`, `seen` or `unseen`.
    pub exposure: String,
    /// `all`, or one of the prompts' groups.
    pub group: String,
    /// What `x` is: the value, or its logarithm to base 10.
    pub scale: Scale,
    /// `gaussian`.
    pub kernel: String,
    /// `silverman`: 0.9 min(sd, IQR / 1.34) n^(-1/5).
    pub rule: String,
    /// Standard deviation of the kernel; none where all values are one, and so there is no density.
    pub bandwidth: Option<f64>,
    /// Values that it is made of.
    pub values: usize,
    /// Values of 0, which have no logarithm; in no density.
    pub zeros: usize,
    /// Where.
    pub x: Vec<f64>,
    /// How dense, per unit of `x`.
    pub density: Vec<f64>,
}

/// What a density is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// The logarithm to base 10: divergences spread over many powers of ten.
    #[default]
    Log10,
    /// The value itself.
    Linear,
}
