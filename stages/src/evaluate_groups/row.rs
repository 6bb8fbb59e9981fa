//! The rows of `metrics.jsonl` of `evaluate.groups`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A number, and how sure it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    /// The number, over all runs; none where it is undefined.
    pub(crate) value: Option<f64>,
    /// Lower end of its interval, where it has one: a number that can't be negative has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) low: Option<f64>,
    /// Upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) high: Option<f64>,
    /// Two-sided p-value of its being 0, of differences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p: Option<f64>,
    /// Mean over the runs of the number in each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mean: Option<f64>,
    /// Standard deviation over the runs (n - 1), of two or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sd: Option<f64>,
    /// Why it is undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undefined: Option<String>,
}

impl Estimate {
    pub(crate) fn undefined(why: impl Into<String>) -> Self {
        Estimate { undefined: Some(why.into()), ..Estimate::default() }
    }

    /// A number with its value in each run.
    pub(crate) fn of(value: f64, runs: &[f64]) -> Self {
        let mean = runs.iter().sum::<f64>() / runs.len().max(1) as f64;
        let square = runs.iter().map(|run| (run - mean) * (run - mean)).sum::<f64>();
        let several = runs.len() > 1;
        Estimate {
            value: Some(value),
            mean: several.then_some(mean),
            sd: several.then(|| (square / (runs.len() - 1) as f64).sqrt()),
            ..Estimate::default()
        }
    }

    pub(crate) fn within(self, (low, high): (f64, f64)) -> Self {
        Estimate { low: Some(low), high: Some(high), ..self }
    }
}

/// What a group is in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The protected group.
    Minority,
    /// The group that it is compared with.
    Majority,
}

/// How one group fares in one run, or in the runs of the pooled axes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupRow {
    /// Coordinates (axis, label) in the order of `axes:`, without the pooled axes.
    pub(crate) coords: Vec<(String, Value)>,
    /// The axes that this row pools over; empty for one run.
    pub(crate) pooled: Vec<String>,
    /// How many runs are in it.
    pub(crate) runs: usize,
    /// How many points of the gather were missing and dropped.
    pub(crate) missing: usize,
    /// The group; none for all texts together.
    pub(crate) group: Option<String>,
    /// What it is in the comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<Role>,
    /// Training examples (mean over runs), where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) train: Option<f64>,
    /// Test items.
    pub(crate) items: usize,
    /// Right predictions, over all runs.
    pub(crate) correct: usize,
    /// Predictions that name no class, over all runs; they count as wrong.
    pub(crate) undecided: usize,
    /// Share of right predictions.
    pub(crate) accuracy: Estimate,
    /// Mean over the classes (macro) of F1, among the texts of the group.
    pub(crate) f1: Estimate,
    /// Expected calibration error of the decided class.
    pub(crate) ece: Estimate,
    /// By label, then by what was predicted, over all runs.
    pub(crate) confusion: BTreeMap<String, BTreeMap<String, usize>>,
    /// Accuracy minus that of the reference run of the same point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) against_reference: Option<Estimate>,
    /// Its absolute value: the harmful bias gap. A point estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hbg: Option<Estimate>,
    /// Accuracy minus that of the majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) against_majority: Option<Estimate>,
    /// That minus the same of the reference: how much wider the gap between the two groups is than there (narrower, if
    /// it has the other sign than the gap).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) change_against_majority: Option<Estimate>,
    /// Of the row of all texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parity: Option<Parity>,
}

/// The groups beside each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Parity {
    /// Highest minus lowest accuracy of a group: accuracy parity. A point estimate.
    pub(crate) ap: Estimate,
    /// That minus the reference's, signed. Both are sizes, which resampling makes larger where they are near 0: for two
    /// groups, `change_against_majority` of the smaller one is free of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) against_reference: Option<Estimate>,
    /// The group with the highest accuracy.
    pub(crate) best: Option<String>,
    /// The group with the lowest accuracy.
    pub(crate) worst: Option<String>,
    /// The group whose accuracy fell most against the reference, or rose least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) worst_against_reference: Option<String>,
    /// The training examples of the minority over those of the majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proportion: Option<f64>,
    /// The share of the downsampled group that was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<f64>,
    /// Level of all intervals.
    pub(crate) confidence: f64,
}
