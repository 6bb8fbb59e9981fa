//! What the kinds that train share: params, how a run goes as a stage, which examples are held out.

mod adam;
mod dropout;
mod examples;
mod learn;
mod tensorboard;

use std::time::Duration;

use palinode_engine::stage::{ParamProblem, StageError};
use palinode_models::train::{self, Decay};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use adam::Adam;
pub(crate) use dropout::ModelDropout;
pub(crate) use examples::{Examples, fit};
pub(crate) use learn::learn;

/// The optional input of examples to evaluate on.
pub(crate) const VALIDATION: &str = "validation";

/// Evaluation while training, on examples that are not learned from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evaluate {
    /// After every so many optimizer steps, and after the last.
    pub(crate) every: usize,
    /// The share of the examples that is held out, if the input `validation` brings no others.
    #[serde(default)]
    pub(crate) share: Option<f64>,
    /// Stop when so many evaluations in a row were no better than the best before them.
    #[serde(default)]
    pub(crate) patience: Option<usize>,
    /// Which weights are the result: those after the last step, or those of the best evaluation.
    #[serde(default)]
    pub(crate) keep: Keep,
}

/// Which weights are the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Keep {
    #[default]
    Last,
    Best,
}

/// What matrix products are computed in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits (bfloat16) for products, 32 for all else: for GPUs.
    Bf16,
}

/// How a run is watched over.
pub(crate) struct Watch {
    /// Also write the curve for TensorBoard.
    pub(crate) tensorboard: bool,
    /// How often a checkpoint is kept.
    pub(crate) checkpoints_every: Duration,
}

impl Watch {
    pub(crate) fn new(tensorboard: bool, checkpoint_minutes: f64) -> Self {
        // What is no duration was refused before.
        let every = Duration::try_from_secs_f64(checkpoint_minutes * 60.0).unwrap_or(Duration::MAX);
        Watch { tensorboard, checkpoints_every: every }
    }
}

impl From<Precision> for train::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => train::Precision::F32,
            Precision::Bf16 => train::Precision::Bf16,
        }
    }
}

impl Evaluate {
    pub(crate) fn config(&self) -> train::Evaluate {
        let keep = match self.keep {
            Keep::Last => train::Keep::Last,
            Keep::Best => train::Keep::Best,
        };
        train::Evaluate { every: self.every, patience: self.patience, keep }
    }

    pub(crate) fn problems(&self) -> Vec<ParamProblem> {
        let inner = |mut problem: ParamProblem| {
            problem.path.insert(0, "evaluate".to_owned());
            problem
        };
        let mut problems = at_least_one(&[("every", self.every), ("patience", self.patience.unwrap_or(1))]);
        let wrong = self.share.filter(|share| !(*share > 0.0 && *share < 1.0));
        problems.extend(wrong.map(|share| {
            ParamProblem::new("share", format!("{share} is not a share")).hint("give a number between 0 and 1")
        }));
        problems.into_iter().map(inner).collect()
    }

    /// What is held out by these params, where the input `validation` brings examples or doesn't.
    pub(crate) fn split<S>(
        evaluate: Option<&Self>,
        examples: Vec<S>,
        validation: Option<Vec<S>>,
    ) -> Result<Examples<S>, StageError> {
        let failed = |message: &str| Err(StageError::failed(message));
        match (evaluate, validation) {
            (None, None) => Ok(Examples::all(examples)),
            (None, Some(_)) => failed("there is an input `validation`, and `evaluate` doesn't say when to use it"),
            (Some(Evaluate { share: Some(_), .. }), Some(_)) => {
                failed("the input `validation` brings what is evaluated on: drop `evaluate.share`")
            }
            (Some(Evaluate { share: None, .. }), None) => {
                failed("nothing is held out to evaluate on: give `evaluate.share`, or link the input `validation`")
            }
            (Some(Evaluate { share: Some(share), .. }), None) => Examples::held_out(examples, *share),
            (Some(_), Some(validation)) if validation.is_empty() => {
                failed("the input `validation` holds no example that can be evaluated on")
            }
            (Some(_), Some(validation)) => Ok(Examples { train: examples, validation }),
        }
    }
}

/// The learning rate after warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Schedule {
    /// A straight line to 0.
    #[default]
    Linear,
    /// Half a cosine to 0.
    Cosine,
    /// No decay.
    Constant,
}

impl From<Schedule> for Decay {
    fn from(schedule: Schedule) -> Decay {
        match schedule {
            Schedule::Linear => Decay::Linear,
            Schedule::Cosine => Decay::Cosine,
            Schedule::Constant => Decay::Constant,
        }
    }
}

pub(crate) fn batch_size() -> usize {
    8
}

/// Minutes between checkpoints.
pub(crate) fn checkpoint_minutes() -> f64 {
    10.0
}

/// Whether a field has the value that it has when it is left out: then it is no part of the key.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(crate) fn clip() -> f64 {
    1.0
}

pub(crate) fn at_least_one(fields: &[(&str, usize)]) -> Vec<ParamProblem> {
    let zero = fields.iter().filter(|(_, value)| *value == 0);
    zero.map(|(field, _)| ParamProblem::new(field, "0 is too few, give at least 1")).collect()
}

pub(crate) fn positive(field: &str, value: f64) -> Option<ParamProblem> {
    let wrong = !(value.is_finite() && value > 0.0);
    wrong.then(|| ParamProblem::new(field, format!("{value} is not a positive number")))
}

pub(crate) fn not_negative(field: &str, value: f64) -> Option<ParamProblem> {
    let wrong = !(value.is_finite() && value >= 0.0);
    wrong.then(|| ParamProblem::new(field, format!("{value} is not a number from 0 up")))
}
