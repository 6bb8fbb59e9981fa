//! Gradient checkpointing by block (Chen et al. 2016, arXiv 1604.06174): the forward keeps only what goes into each
//! block; the backward runs a block again, with its graph, when its turn comes. A step holds the activations of one block
//! at a time, for one more forward. Dropout masks are functions of their key, so they come out the same again.

use burn::tensor::{Gradients, Tensor};

use super::select::untracked;
use crate::error::ModelError;
use crate::layers::Batch;
use crate::model::{Model, Task};

/// Loss and gradients of a batch. `head` is given the stream behind the last block `[batch * seq, hidden]`, and gives the
/// loss and its gradient by that.
pub(super) fn backward<T: Task>(
    model: &Model<T>,
    batch: &Batch,
    gather: &mut dyn FnMut(Gradients),
    head: impl FnOnce(&Tensor<2>, &mut dyn FnMut(Gradients)) -> Result<(f64, Tensor<2>), ModelError>,
) -> Result<f64, ModelError> {
    // The same weights, of which nothing is recorded; through the same operations, for the same bits.
    let plain = untracked(model.clone());
    let pass = plain.pass(batch, false)?;
    let mut kept = Vec::with_capacity(plain.network().blocks());
    let mut x = plain.network().embed(&pass);
    for block in 0..plain.network().blocks() {
        let next = plain.network().block(block, x.clone(), &pass, None);
        kept.push(std::mem::replace(&mut x, next));
    }
    let (loss, mut gradient) = head(&x.inner(), gather)?;
    let pass = model.pass(batch, false)?;
    for (block, x) in kept.into_iter().enumerate().rev() {
        let x = x.inner().autodiff().require_grad();
        let y = model.network().block(block, x.clone(), &pass, None);
        let mut gradients = (y * gradient.autodiff()).sum().backward();
        gradient = x.grad_remove(&mut gradients).ok_or(ModelError::EmptyBatch)?;
        gather(gradients);
    }
    pull(model.network().embed(&pass), gradient, gather);
    Ok(loss)
}

/// Takes the gradient by `y` on to what `y` was made of, if anything of it learns.
pub(super) fn pull(y: Tensor<2>, gradient: Tensor<2>, gather: &mut dyn FnMut(Gradients)) {
    if y.is_tracked() {
        // Its gradient by `y` is `gradient`, to the bit.
        gather((y * gradient.autodiff()).sum().backward());
    }
}
