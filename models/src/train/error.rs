//! What can go wrong with a training run, and in what words.

use crate::error::ModelError;
use crate::lora::LoraError;

/// An error of a training run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Nothing to learn from.
    #[error("there are no examples to train on")]
    NoExamples,
    /// An example without a token to predict.
    #[error("example {example} has no token to predict: it has {tokens}, and the loss begins behind them")]
    NoTargets {
        /// Which, counted from 0.
        example: usize,
        /// Its tokens.
        tokens: usize,
    },
    /// A value that can't be trained with.
    #[error("training's {field} is {value}, expected {expected}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// Adapters are to be trained, and the model has none.
    #[error("the model has no adapters to train")]
    NoAdapters,
    /// Targets that the model doesn't have.
    #[error(transparent)]
    Targets(#[from] LoraError),
    /// A loss or gradient that is no number.
    #[error("the {what} became {value} at step {} (learning rate {rate:e}): try a lower rate or clipping", .step + 1)]
    NotFinite {
        /// `loss`, `norm of the gradient` or `loss of the evaluation`.
        what: &'static str,
        /// NaN or infinity.
        value: f64,
        /// Counted from 0; in words from 1, as in the loss curve.
        step: usize,
        /// The rate of that step.
        rate: f64,
    },
    /// The caller asked to stop.
    #[error("training was cancelled after step {}", .step + 1)]
    Cancelled {
        /// The last one done, counted from 0.
        step: usize,
    },
    /// A state of another run: of another model, other data, another config.
    #[error("the checkpoint is of another training run: what learns there has other names or shapes")]
    Foreign,
    /// The state could not be kept.
    #[error("the checkpoint can't be written: {0}")]
    Save(String),
    /// An example that the model can't take in.
    #[error(transparent)]
    Model(#[from] ModelError),
}
