//! What a training run tells of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Counted from 0.
    pub step: usize,
    /// Loss in nats per token, before the step.
    pub loss: f64,
    /// Learning rate of the step.
    pub rate: f64,
    /// Norm of the gradient, before clipping.
    pub gradient_norm: f64,
    /// Tokens that the loss was taken on.
    pub tokens: usize,
}

/// One evaluation on examples that are not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Optimizer steps that were done.
    pub steps: usize,
    /// Loss in nats per token.
    pub loss: f64,
}

/// What a training run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Examples per full optimizer step.
    pub effective_batch: usize,
    /// Examples seen, repeats counted.
    pub examples: usize,
    /// Tokens that losses were taken on, repeats counted.
    pub tokens: usize,
    /// Values that were trained.
    pub trained_parameters: usize,
    /// Each optimizer step.
    pub steps: Vec<StepReport>,
    /// Each evaluation.
    pub evaluations: Vec<Evaluation>,
    /// The evaluation whose weights are the result, if not the last one's.
    pub best: Option<Evaluation>,
    /// Whether it ended before its time since the evaluations got no better.
    pub stopped_early: bool,
    /// Frobenius norm of the change of each weight that changed; for an adapted layer that of `scale * A B`.
    pub delta_norms: BTreeMap<String, f64>,
    /// All of them together.
    pub delta_norm: f64,
    /// Frobenius norm, before training, of the weights that changed: what `delta_norm` is to be seen beside.
    pub base_norm: f64,
}
