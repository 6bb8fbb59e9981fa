//! The param `adamw`: what of the optimizer is seldom changed.

use palinode_engine::stage::ParamProblem;
use palinode_models::train::AdamW;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::positive;

/// Hyperparameters of AdamW beside the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Adam {
    /// Decay rate of the mean of the gradient.
    beta1: f64,
    /// Decay rate of the mean of its square.
    beta2: f64,
    /// Added to the root of that.
    eps: f64,
}

impl Default for Adam {
    fn default() -> Self {
        let AdamW { beta1, beta2, eps } = AdamW::default();
        Adam { beta1, beta2, eps }
    }
}

impl Adam {
    pub(crate) fn config(self) -> AdamW {
        AdamW { beta1: self.beta1, beta2: self.beta2, eps: self.eps }
    }

    pub(crate) fn problems(self) -> Vec<ParamProblem> {
        let beta = |(field, value): (&str, f64)| {
            let wrong = !(0.0..1.0).contains(&value);
            wrong.then(|| ParamProblem::new(field, format!("{value} is not a number from 0 to below 1")))
        };
        let mut problems: Vec<_> =
            [("beta1", self.beta1), ("beta2", self.beta2)].into_iter().filter_map(beta).collect();
        problems.extend(positive("eps", self.eps));
        problems.iter_mut().for_each(|problem| problem.path.insert(0, "adamw".to_owned()));
        problems
    }
}
