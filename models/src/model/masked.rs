//! What a masked language model does beside what all models do.

use burn::tensor::Tensor;

use super::MaskedLm;
use crate::error::Result;
use crate::layers::Batch;

impl MaskedLm {
    /// Logits `[batch, seq, vocab]` of each token, masked or not, from all real tokens around it. Those at padding mean
    /// nothing.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor<3>> {
        let [rows, seq] = batch.dims();
        Ok(self.forward_rows(batch)?.reshape([rows, seq, self.config.vocab_size]))
    }

    /// Logits as rows `[batch * seq, vocab]`.
    pub fn forward_rows(&self, batch: &Batch) -> Result<Tensor<2>> {
        self.token_logits(batch)
    }
}
