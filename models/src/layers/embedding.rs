//! A table of vectors, looked up by id; also the unembedding of models with tied embeddings.

use burn::module::{Module, Param};
use burn::tensor::{DType, FloatDType, Int, Tensor};

use super::{Pass, ops};

/// `[count, width]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[count, width]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// A table.
    pub fn new(weight: Tensor<2>) -> Self {
        Embedding { weight: Param::from_tensor(weight) }
    }

    /// Rows `[n, width]` for ids `[n]`.
    pub fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        widened(self.weight.val().select(0, ids))
    }

    /// The same, with no gradient to the rows of padding: torch's `padding_idx`.
    pub fn forward_padded(&self, pass: &Pass) -> Tensor<2> {
        let rows = self.forward(pass.ids.clone());
        match &pass.padding_ids {
            Some(padding) if rows.is_tracked() => {
                let real = padding.clone().neg().add_scalar(1.0);
                rows.clone() * real + rows.detach() * padding.clone()
            }
            _ => rows,
        }
    }

    /// The first rows from `start` on, without a gather.
    pub fn range(&self, start: usize, count: usize) -> Tensor<2> {
        widened(self.weight.val().narrow(0, start, count))
    }

    /// Logits `[n, count]` of rows `[n, width]`: `x W^T`, without a copy of the table.
    pub fn unembed(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        ops::linear_in(pass.precision, x, self.weight.val().transpose(), None)
    }
}

/// A frozen table may be kept in 16 bits.
fn widened(rows: Tensor<2>) -> Tensor<2> {
    if rows.dtype() == DType::F32 { rows } else { rows.cast(FloatDType::F32) }
}
