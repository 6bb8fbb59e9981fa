//! Training of causal language models: each token is predicted from those before it.

use std::ops::Range;

use burn::tensor::{Gradients, Tensor};

use super::layout::Layout;
use super::loss::cross_entropy;
use super::recompute::{self, pull};
use super::{LossPass, Sample, Trainable};
use crate::error::ModelError;
use crate::layers::{Batch, ops};
use crate::model::CausalLm;

/// A text to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The loss is taken on the tokens from this place on: the length of the prompt, or 0 for all tokens.
    pub loss_from: usize,
}

impl Example {
    /// The places of `ids` that the loss is taken at. The first token has nothing before it to be predicted from.
    pub(crate) fn predicted(&self) -> Range<usize> {
        let end = self.ids.len();
        self.loss_from.max(1).min(end)..end
    }
}

impl Sample for Example {
    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn targets(&self) -> usize {
        self.predicted().len()
    }
}

/// Most logits that are held at once (128 MiB): above, unembedding and cross-entropy go through the rows in chunks, each
/// with its gradients before the next. The f32 logits of a whole batch `[tokens, vocab]` would be the largest tensor of a
/// training step by far.
const LOGITS: usize = 1 << 25;

impl Trainable for CausalLm {
    type Sample = Example;

    fn loss(&self, rows: &[&Example], pass: &LossPass) -> Result<Tensor<1>, ModelError> {
        let layout = Layout::new(rows, pass.packing);
        let hidden = self.hidden_at(&batch(&layout, pass)?, &layout)?;
        let chunk = self.rows_at_once();
        let losses = layout.targets.chunks(chunk).enumerate().map(|(number, targets)| {
            let rows = part(&hidden, number * chunk, targets.len());
            cross_entropy(self.unembed_in(rows, pass.precision), targets, pass.denominator)
        });
        losses.reduce(|sum, loss| sum + loss).ok_or(ModelError::EmptyBatch)
    }

    fn backward(
        &self,
        rows: &[&Example],
        pass: &LossPass,
        gather: &mut dyn FnMut(Gradients),
    ) -> Result<f64, ModelError> {
        let layout = Layout::new(rows, pass.packing);
        let batch = batch(&layout, pass)?;
        if pass.recompute {
            return recompute::backward(self, &batch, gather, |hidden, gather| {
                let (loss, gradient) = self.head(&at(hidden.clone(), &layout), &layout.targets, pass, gather)?;
                Ok((loss, spread(gradient, &layout, hidden.dims())))
            });
        }
        let hidden = self.hidden_at(&batch, &layout)?;
        if layout.targets.len() <= self.rows_at_once() {
            let logits = self.unembed_in(hidden, pass.precision);
            let loss = cross_entropy(logits, &layout.targets, pass.denominator);
            let value = loss.clone().into_scalar::<f32>();
            gather(loss.backward());
            return Ok(f64::from(value));
        }
        let (loss, gradient) = self.head(&hidden.clone().inner(), &layout.targets, pass, gather)?;
        pull(hidden, gradient, gather);
        Ok(loss)
    }
}

impl CausalLm {
    /// The residual stream behind the last block `[targets, hidden]`, at the places whose successors are predicted.
    fn hidden_at(&self, batch: &Batch, layout: &Layout) -> Result<Tensor<2>, ModelError> {
        let last = self.hidden(batch)?.pop().ok_or(ModelError::EmptyBatch)?;
        Ok(at(last, layout))
    }

    /// The loss of rows `[n, hidden]` that no graph hangs on, and its gradient by them. Chunk by chunk: final norm,
    /// unembedding (tied or not, adapted or not), cross-entropy, and the gradients of all of these, which `gather`
    /// hears.
    fn head(
        &self,
        hidden: &Tensor<2>,
        targets: &[u32],
        pass: &LossPass,
        gather: &mut dyn FnMut(Gradients),
    ) -> Result<(f64, Tensor<2>), ModelError> {
        let chunk = self.rows_at_once();
        let mut loss = 0.0;
        let mut gradients = Vec::with_capacity(targets.len().div_ceil(chunk));
        for (number, targets) in targets.chunks(chunk).enumerate() {
            let rows = part(hidden, number * chunk, targets.len()).autodiff().require_grad();
            let part = cross_entropy(self.unembed_in(rows.clone(), pass.precision), targets, pass.denominator);
            loss += f64::from(part.clone().into_scalar::<f32>());
            let mut parts = part.backward();
            gradients.extend(rows.grad_remove(&mut parts));
            gather(parts);
        }
        Ok((loss, Tensor::cat(gradients, 0)))
    }

    /// Rows whose logits are held at once.
    fn rows_at_once(&self) -> usize {
        (LOGITS / self.config().vocab_size).max(1)
    }
}

fn batch(layout: &Layout, pass: &LossPass) -> Result<Batch, ModelError> {
    let batch = layout.batch()?.with_precision(pass.precision);
    Ok(match pass.dropout {
        Some(key) => batch.with_dropout(key),
        None => batch,
    })
}

/// Some of the rows; all of them without a copy.
fn part(rows: &Tensor<2>, start: usize, count: usize) -> Tensor<2> {
    match rows.dims()[0] == count {
        true => rows.clone(),
        false => rows.clone().narrow(0, start, count),
    }
}

/// The rows at the places of a layout.
fn at(rows: Tensor<2>, layout: &Layout) -> Tensor<2> {
    if layout.places.len() == rows.dims()[0] {
        return rows;
    }
    let device = rows.device();
    rows.select(0, indices(layout, &device))
}

/// The other way round: rows at their places among `dims`, zeros elsewhere.
fn spread(rows: Tensor<2>, layout: &Layout, dims: [usize; 2]) -> Tensor<2> {
    if layout.places.len() == dims[0] {
        return rows;
    }
    let device = rows.device();
    let zeros = Tensor::zeros(dims, &device);
    zeros.select_assign(0, indices(layout, &device), rows, burn::tensor::IndexingUpdateOp::Add)
}

fn indices(layout: &Layout, device: &burn::tensor::Device) -> Tensor<1, burn::tensor::Int> {
    let places = layout.places.iter().map(|&place| place as i32).collect();
    ops::ints(places, [layout.places.len()], device)
}
