//! Loss and gradients of a model with logits over the vocabulary, at some places of a batch: what causal and masked
//! language models have in common.

use burn::tensor::{Device, Gradients, IndexingUpdateOp, Int, Tensor};

use super::LossPass;
use super::loss::cross_entropy;
use super::recompute::{self, pull};
use crate::error::ModelError;
use crate::layers::{Batch, ops};
use crate::model::{Model, Task};

/// What is to be told, and where it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Targets {
    /// Places `row * width + position`.
    pub(super) places: Vec<usize>,
    /// Token ids, in the order of `places`.
    pub(super) ids: Vec<u32>,
}

/// The loss `[1]`, with its graph.
pub(super) fn loss<T: Task>(
    model: &Model<T>,
    batch: &Batch,
    targets: &Targets,
    pass: &LossPass,
) -> Result<Tensor<1>, ModelError> {
    let hidden = hidden_at(model, batch, targets)?;
    let chunk = rows_at_once(model, pass);
    let losses = targets.ids.chunks(chunk).enumerate().map(|(number, ids)| {
        let rows = part(&hidden, number * chunk, ids.len());
        cross_entropy(model.unembed_in(rows, pass.precision), ids, pass.denominator)
    });
    losses.reduce(|sum, loss| sum + loss).ok_or(ModelError::EmptyBatch)
}

/// The loss as a number; its gradients go to `gather`.
pub(super) fn backward<T: Task>(
    model: &Model<T>,
    batch: &Batch,
    targets: &Targets,
    pass: &LossPass,
    gather: &mut dyn FnMut(Gradients),
) -> Result<f64, ModelError> {
    if pass.recompute {
        return recompute::backward(model, batch, gather, |hidden, gather| {
            let (loss, gradient) = head(model, &at(hidden.clone(), targets), &targets.ids, pass, gather)?;
            Ok((loss, spread(gradient, targets, hidden.dims())))
        });
    }
    let hidden = hidden_at(model, batch, targets)?;
    if targets.ids.len() <= rows_at_once(model, pass) {
        let logits = model.unembed_in(hidden, pass.precision);
        let loss = cross_entropy(logits, &targets.ids, pass.denominator);
        let value = loss.clone().into_scalar::<f32>();
        gather(loss.backward());
        return Ok(f64::from(value));
    }
    let (loss, gradient) = head(model, &hidden.clone().inner(), &targets.ids, pass, gather)?;
    pull(hidden, gradient, gather);
    Ok(loss)
}

/// The residual stream behind the last block `[targets, hidden]`, at the places of the targets.
fn hidden_at<T: Task>(model: &Model<T>, batch: &Batch, targets: &Targets) -> Result<Tensor<2>, ModelError> {
    let last = model.hidden(batch)?.pop().ok_or(ModelError::EmptyBatch)?;
    Ok(at(last, targets))
}

/// The loss of rows `[n, hidden]` that no graph hangs on, and its gradient by them. Chunk by chunk: final norm,
/// unembedding (tied or not, adapted or not), cross-entropy, and the gradients of all of these, which `gather`
/// hears.
fn head<T: Task>(
    model: &Model<T>,
    hidden: &Tensor<2>,
    targets: &[u32],
    pass: &LossPass,
    gather: &mut dyn FnMut(Gradients),
) -> Result<(f64, Tensor<2>), ModelError> {
    let chunk = rows_at_once(model, pass);
    let mut loss = 0.0;
    let mut gradients = Vec::with_capacity(targets.len().div_ceil(chunk));
    for (number, targets) in targets.chunks(chunk).enumerate() {
        let rows = part(hidden, number * chunk, targets.len()).autodiff().require_grad();
        let part = cross_entropy(model.unembed_in(rows.clone(), pass.precision), targets, pass.denominator);
        loss += f64::from(part.clone().into_scalar::<f32>());
        let mut parts = part.backward();
        gradients.extend(rows.grad_remove(&mut parts));
        gather(parts);
    }
    Ok((loss, Tensor::cat(gradients, 0)))
}

/// Rows whose logits are held at once.
fn rows_at_once<T: Task>(model: &Model<T>, pass: &LossPass) -> usize {
    (pass.logits / model.config().vocab_size).max(1)
}

/// Some of the rows; all of them without a copy.
fn part(rows: &Tensor<2>, start: usize, count: usize) -> Tensor<2> {
    match rows.dims()[0] == count {
        true => rows.clone(),
        false => rows.clone().narrow(0, start, count),
    }
}

/// The rows at the places of the targets.
fn at(rows: Tensor<2>, targets: &Targets) -> Tensor<2> {
    if targets.places.len() == rows.dims()[0] {
        return rows;
    }
    let device = rows.device();
    rows.select(0, indices(targets, &device))
}

/// The other way round: rows at their places among `dims`, zeros elsewhere.
fn spread(rows: Tensor<2>, targets: &Targets, dims: [usize; 2]) -> Tensor<2> {
    if targets.places.len() == dims[0] {
        return rows;
    }
    let device = rows.device();
    let zeros = Tensor::zeros(dims, &device);
    zeros.select_assign(0, indices(targets, &device), rows, IndexingUpdateOp::Add)
}

fn indices(targets: &Targets, device: &Device) -> Tensor<1, Int> {
    let places = targets.places.iter().map(|&place| place as i32).collect();
    ops::ints(places, [targets.places.len()], device)
}
