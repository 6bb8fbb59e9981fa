//! The files between stages: JSON Lines and JSON that the field reads, one type per kind of row. Fields that a reader
//! doesn't know are ignored, so a file made elsewhere may say more.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use palinode_engine::{
    context::{Context, each_jsonl, read_jsonl},
    job::InputFiles,
    stage::{PathParam, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

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

/// Which part of a data set a text belongs to: models learn from `train`, choices are made on `validation`, results are
/// told of `test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Learned from.
    Train,
    /// Choices are made here.
    Validation,
    /// Results are told of this.
    Test,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 3] = [Part::Train, Part::Validation, Part::Test];

    /// The name of its port, and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Validation => "validation",
            Part::Test => "test",
        }
    }
}

/// A labelled text: a row of `dataset.jsonl`. Readers of [`Text`] can read it, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Unique in its data set. Random choices for it are keyed by it.
    pub id: String,
    /// The text.
    pub text: String,
    /// Its class.
    pub label: String,
    /// What it is counted as when groups are compared: the label, or anything else that is known of it.
    pub group: String,
    /// The part that it belongs to.
    pub split: Part,
}

/// What a classifier says of a text: a row of `predictions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Of the [`Example`].
    pub id: String,
    /// The right class.
    pub label: String,
    /// Of the [`Example`].
    pub group: String,
    /// Of the [`Example`].
    pub split: Part,
    /// The class decided for; `None` (`null`) where an answer names none.
    pub predicted: Option<String>,
    /// By class; they add up to 1. Empty where a model was only asked to write an answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub probabilities: BTreeMap<String, f64>,
    /// What the model wrote, if it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

impl Prediction {
    /// Whether it is right.
    pub fn correct(&self) -> bool {
        self.predicted.as_ref() == Some(&self.label)
    }
}

/// How many training examples there are, in `counts.json` of `dataset.downsample`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainCounts {
    /// The group that was made smaller.
    pub group: String,
    /// The share of it that was kept.
    pub share: f64,
    /// By group, before.
    pub before: BTreeMap<String, usize>,
    /// By group, after.
    pub after: BTreeMap<String, usize>,
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

/// The rows of the JSON Lines file `name` of `files`.
pub(crate) fn rows<T: DeserializeOwned>(files: &InputFiles, name: &str) -> Result<Vec<T>, StageError> {
    read_jsonl(place(files, name)?)
}

/// Hands the rows of the JSON Lines file `name` of `files` to `each`, one after the other.
pub(crate) fn each_row<T: DeserializeOwned>(
    files: &InputFiles,
    name: &str,
    each: impl FnMut(T) -> Result<(), StageError>,
) -> Result<(), StageError> {
    each_jsonl(place(files, name)?, each)
}

/// The JSON file `name` of `files`.
pub(crate) fn json<T: DeserializeOwned>(files: &InputFiles, name: &str) -> Result<T, StageError> {
    let path = place(files, name)?;
    let text = fs::read_to_string(path).map_err(StageError::io(path))?;
    serde_json::from_str(&text).map_err(|error| StageError::failed(format!("{name}: {error}")))
}

fn place<'f>(files: &'f InputFiles, name: &str) -> Result<&'f Path, StageError> {
    let have = || files.files.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    files.get(name).ok_or_else(|| StageError::failed(format!("the input has no `{name}`; it holds: {}", have())))
}

/// Writes `value` as the only file of the output `port`: JSON, indented for people.
pub(crate) fn write_json(
    ctx: &Context<'_>,
    port: &'static str,
    name: &str,
    value: &impl Serialize,
) -> Result<(), StageError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| StageError::failed(error.to_string()))?;
    text.push(b'\n');
    ctx.output(port)?.write(name, text)
}

/// Says how many prompts there are, and how many of the source's rows said the same as another.
pub(crate) fn summarize_prompts(ctx: &Context<'_>, prompts: &[Prompt], rows: usize) {
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    prompts.iter().for_each(|prompt| *groups.entry(&prompt.group).or_default() += 1);
    ctx.summary("prompts", prompts.len());
    ctx.summary("repeated_rows", rows - prompts.len());
    ctx.summary("groups", serde_json::json!(groups));
    let validation = prompts.iter().filter(|prompt| prompt.split == Some(Split::Validation)).count();
    ctx.summary("validation_prompts", validation);
}

/// Columns by name.
pub(crate) type Row = BTreeMap<String, Value>;

/// The rows of a CSV file with a header, or of a JSON Lines file (which begins with `{`), each with the number of its
/// line.
pub(crate) fn table_of(path: &Path) -> Result<Vec<(u64, Row)>, StageError> {
    let text = fs::read_to_string(path).map_err(StageError::io(path))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let wrong = |line: u64, error: String| StageError::failed(format!("{}:{line}: {error}", path.display()));
    if text.trim_start().starts_with('{') {
        let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        let parse = |(line, number): (&str, u64)| {
            Ok((number, serde_json::from_str(line).map_err(|error| wrong(number, error.to_string()))?))
        };
        return lines.map(parse).collect();
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| wrong(1, error.to_string()))?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| StageError::failed(format!("{}: {error}", path.display())))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |(name, value): (&str, &str)| (name.trim().to_owned(), Value::from(value));
        rows.push((line, header.iter().zip(&record).map(field).collect()));
    }
    Ok(rows)
}

/// The one file behind the path param `param`.
pub(crate) fn only_file<'c>(ctx: &'c Context<'_>, param: &PathParam) -> Result<&'c Path, StageError> {
    let single = ctx.files(param)?.single();
    let (_, path) = single.ok_or_else(|| StageError::failed(format!("`{}` is a folder; a file is wanted", param.0)))?;
    Ok(path)
}

/// What `table` holds for the identity of `prompt`.
pub(crate) fn of_identity<'t, T>(
    table: &'t BTreeMap<String, T>,
    prompt: &Prompt,
    what: &str,
) -> Result<&'t T, StageError> {
    let identity = prompt.identity.as_ref().ok_or_else(|| {
        StageError::failed(format!("the prompt `{}` names no identity, and {what} goes by identity", prompt.id))
    })?;
    table.get(identity).ok_or_else(|| {
        let known: Vec<&str> = table.keys().take(8).map(String::as_str).collect();
        StageError::failed(format!("{what} has nothing for the identity `{identity}`; it knows {}", known.join(", ")))
    })
}

/// A label of an axis as people read it: texts without quotes.
pub(crate) fn of_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `statement` as it follows a prompt: with one space before it, unless it begins with punctuation.
pub(crate) fn continuation(statement: &str) -> String {
    let text = statement.trim_start();
    if text.starts_with(|c: char| c.is_ascii_punctuation() && !"\"'([{".contains(c)) {
        text.to_owned()
    } else {
        format!(" {text}")
    }
}
