//! Labelled texts to classify, and what classifiers say of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
