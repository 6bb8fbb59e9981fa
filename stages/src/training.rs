//! Params that the kinds which train share.

use palinode_engine::stage::ParamProblem;
use palinode_models::train::Decay;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
