//! Training of causal language models: each token is predicted from those before it.

use std::ops::Range;

use burn::tensor::{Gradients, Tensor};

use super::layout::Layout;
use super::{LossPass, Sample, Trainable, tokens};
use crate::error::ModelError;
use crate::layers::Batch;
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

impl Trainable for CausalLm {
    type Sample = Example;

    fn loss(&self, rows: &[&Example], pass: &LossPass) -> Result<Tensor<1>, ModelError> {
        let layout = Layout::new(rows, pass.packing);
        tokens::loss(self, &batch(&layout, pass, self.config().context)?, &layout.targets, pass)
    }

    fn backward(
        &self,
        rows: &[&Example],
        pass: &LossPass,
        gather: &mut dyn FnMut(Gradients),
    ) -> Result<f64, ModelError> {
        let layout = Layout::new(rows, pass.packing);
        tokens::backward(self, &batch(&layout, pass, self.config().context)?, &layout.targets, pass, gather)
    }
}

fn batch(layout: &Layout, pass: &LossPass, context: usize) -> Result<Batch, ModelError> {
    let batch = layout.batch()?.with_precision(pass.precision);
    let [_, length] = batch.dims();
    if length > context && pass.packing.is_some_and(|packing| packing > context) {
        return Err(ModelError::PackedLength { length, context });
    }
    Ok(match pass.dropout {
        Some(key) => batch.with_dropout(key),
        None => batch,
    })
}
