//! How to train, and until when.

use serde::{Deserialize, Serialize};

use super::{AdamW, Decay};
use crate::lora::Targets;

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// When to stop.
    pub length: Length,
    /// Examples that go through the model at once.
    pub micro_batch: usize,
    /// Micro-batches per optimizer step; the last step of an epoch takes what is left.
    pub accumulation: usize,
    /// How the losses of the tokens of a step are put together.
    pub reduction: Reduction,
    /// Highest learning rate.
    pub rate: f64,
    /// Optimizer steps of linear warm-up.
    pub warmup: usize,
    /// The rate after warm-up.
    pub decay: Decay,
    /// The optimizer.
    pub adamw: AdamW,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Also decay biases and the weights of norms.
    pub decay_vectors: bool,
    /// Largest norm of a step's gradient; longer ones are scaled down to it.
    pub clip: Option<f64>,
    /// Which parameters learn.
    pub trained: Trained,
    /// Shuffle the examples anew for each epoch.
    pub shuffle: bool,
    /// Sort the examples of a step by length before cutting them into micro-batches, for less padding.
    pub bucket: bool,
    /// Seed of order and dropout.
    pub seed: u64,
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// After this many optimizer steps.
    Steps(usize),
    /// After this many passes over the examples.
    Epochs(usize),
}

/// How the losses of the tokens of a step are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Mean over all tokens of the step, as the Hugging Face Trainer has it.
    Tokens,
    /// Mean over micro-batches of the mean over their tokens, as a plain accumulation loop has it.
    MicroBatches,
}

/// Which parameters learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trained {
    /// Only the factors of LoRA's adapters.
    Adapters,
    /// All weights.
    All,
    /// All of the weights that LoRA would adapt at these targets, and no others: full finetuning as a control.
    Weights(Targets),
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            length: Length::Epochs(1),
            micro_batch: 8,
            accumulation: 1,
            reduction: Reduction::Tokens,
            rate: 1e-3,
            warmup: 0,
            decay: Decay::Linear,
            adamw: AdamW::default(),
            weight_decay: 0.0,
            decay_vectors: false,
            clip: Some(1.0),
            trained: Trained::All,
            shuffle: true,
            bucket: true,
            seed: 0,
        }
    }
}
