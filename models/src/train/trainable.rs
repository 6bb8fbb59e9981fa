//! What the training loop asks of a model: a loss over a few examples. Everything else (order, accumulation, schedule,
//! optimizer, checkpoints, evaluation) is the loop's, and the same for every model.

use burn::tensor::{Gradients, Tensor};

use crate::error::ModelError;
use crate::layers::{DropoutKey, Precision};
use crate::parameterized::Parameterized;

/// Something to learn from: a text, a text with a label.
pub trait Sample: Sync {
    /// Its length, by which examples are sorted into buckets.
    fn tokens(&self) -> usize;

    /// How many losses it contributes: tokens that are predicted, or 1 for a label. None is an error of the run.
    fn targets(&self) -> usize;
}

/// A model that [`super::train`] can train.
///
/// Only [`Trainable::loss`] is needed. A sequence classifier is, in full:
///
/// ```ignore
/// impl Sample for Labelled {
///     fn tokens(&self) -> usize { self.ids.len() }
///     fn targets(&self) -> usize { 1 }
/// }
///
/// impl Trainable for Classifier {
///     type Sample = Labelled;
///     fn loss(&self, rows: &[&Labelled], pass: &LossPass) -> Result<Tensor<1>, ModelError> {
///         let logits = self.forward(&batch_of(rows, pass)?)?; // [rows, labels]
///         let labels: Vec<u32> = rows.iter().map(|row| row.label).collect();
///         Ok(cross_entropy(logits, &labels, pass.denominator))
///     }
/// }
/// ```
pub trait Trainable: Parameterized {
    /// What it learns from.
    type Sample: Sample;

    /// The sum of the losses (in nats) of all targets of these rows, divided by [`LossPass::denominator`]: `[1]`.
    ///
    /// # Errors
    /// If a row doesn't fit the model.
    fn loss(&self, rows: &[&Self::Sample], pass: &LossPass) -> Result<Tensor<1>, ModelError>;

    /// The loss as a number, and its gradients, handed to `gather` in as many parts as it takes (they add up). A model
    /// that can hold less at a time than one graph of the whole loss does so here.
    ///
    /// # Errors
    /// As for [`Trainable::loss`].
    fn backward(
        &self,
        rows: &[&Self::Sample],
        pass: &LossPass,
        gather: &mut dyn FnMut(Gradients),
    ) -> Result<f64, ModelError> {
        let loss = self.loss(rows, pass)?;
        let value = loss.clone().into_scalar::<f32>();
        gather(loss.backward());
        Ok(f64::from(value))
    }
}

/// How a loss is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossPass {
    /// What the sum of the losses is divided by.
    pub denominator: f64,
    /// Names the dropout masks; none when evaluating.
    pub dropout: Option<DropoutKey>,
    /// What matrix products are computed in.
    pub precision: Precision,
    /// Several examples share a row of at most so many tokens, where the model can keep them apart.
    pub packing: Option<usize>,
    /// Keep less, compute it again: gradient checkpointing, where the model has it.
    pub recompute: bool,
}

impl LossPass {
    /// For an evaluation: sums, without dropout.
    pub fn plain() -> Self {
        LossPass { denominator: 1.0, dropout: None, precision: Precision::F32, packing: None, recompute: false }
    }
}
