//! How to train, and until when.

use serde::{Deserialize, Serialize};

use super::trainable::LOGITS;
use super::{AdamW, Decay, Evaluate, TrainError};
use crate::config::DropoutRates;
use crate::layers::Precision;
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
    /// Rates of the model's own dropout: all 0 for none, or [`crate::ModelConfig::dropout`].
    pub model_dropout: DropoutRates,
    /// Let several examples share a row of at most so many tokens, kept apart by attention masks; none for one example a
    /// row.
    pub packing: Option<usize>,
    /// What matrix products are computed in. Weights, moments, norms, softmax and losses stay f32.
    pub precision: Precision,
    /// Keep only what goes into each block, and compute the rest again in the backward: a step takes a third longer and
    /// holds the activations of one block at a time. The gradients are the same.
    pub recompute: bool,
    /// Most logits that are held at once. Above, unembedding and cross-entropy go through the rows in chunks, each with
    /// its gradients before the next: all f32 logits of a batch, `[tokens, vocab]`, would be by far the largest tensor
    /// of a step.
    pub logits: usize,
    /// Evaluation on held-out examples while training.
    pub evaluate: Option<Evaluate>,
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
    /// All of the weights that LoRA would adapt at these targets, what learns beside adapters (a classifier's head), and
    /// no others: full finetuning as a control.
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
            model_dropout: DropoutRates::default(),
            packing: None,
            precision: Precision::F32,
            recompute: false,
            logits: LOGITS,
            evaluate: None,
            seed: 0,
        }
    }
}

impl TrainConfig {
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let (Length::Steps(length) | Length::Epochs(length)) = self.length;
        let evaluate = self.evaluate.as_ref();
        let counts = [
            ("length", length),
            ("micro_batch", self.micro_batch),
            ("accumulation", self.accumulation),
            ("packing", self.packing.unwrap_or(1)),
            ("evaluate.every", evaluate.map_or(1, |evaluate| evaluate.every)),
            ("evaluate.patience", evaluate.and_then(|evaluate| evaluate.patience).unwrap_or(1)),
        ];
        for (field, value) in counts {
            if value == 0 {
                return Err(TrainError::Value { field, value: 0.0, expected: "at least 1" });
            }
        }
        let wrong = |field, value, expected| Err(TrainError::Value { field, value, expected });
        for (field, value) in [("rate", self.rate), ("weight_decay", self.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(field, value, "a number from 0 up");
            }
        }
        if let Some(rate) = self.model_dropout.wrong() {
            return wrong("model_dropout", rate, "a probability below 1");
        }
        for (field, value) in [("beta1", self.adamw.beta1), ("beta2", self.adamw.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return wrong(field, value, "a number from 0 to below 1");
            }
        }
        for (field, value) in [("eps", Some(self.adamw.eps)), ("clip", self.clip)] {
            if let Some(value) = value
                && (value.is_nan() || value <= 0.0)
            {
                return wrong(field, value, "a positive number");
            }
        }
        Ok(())
    }
}
