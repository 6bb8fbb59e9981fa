//! What a causal language model does beside what all models do.

use burn::tensor::Tensor;

use super::CausalLm;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::layers::{AttentionShape, Batch, KvCache, Layout, Which, ops};

impl CausalLm {
    /// Logits `[batch, seq, vocab]`. Those at padding mean nothing.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor<3>> {
        let [rows, seq] = batch.dims();
        Ok(self.forward_rows(batch)?.reshape([rows, seq, self.config.vocab_size]))
    }

    /// Logits as rows `[batch * seq, vocab]`.
    pub fn forward_rows(&self, batch: &Batch) -> Result<Tensor<2>> {
        self.token_logits(batch)
    }

    /// Final norm and unembedding: rows `[n, hidden]` of any layer to logits `[n, vocab]`.
    pub fn unembed(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.token_head(hidden)
    }

    /// A cache for rows of up to `tokens` tokens, at most the context, in the form that suits the device.
    pub fn cache(&self, tokens: usize) -> KvCache {
        self.cache_in(Layout::of(&self.device()), tokens)
    }

    /// A cache of a given form.
    pub fn cache_in(&self, layout: Layout, tokens: usize) -> KvCache {
        let ModelConfig { layers, heads, kv_heads, head, context, .. } = self.config;
        KvCache::new(layout, layers, AttentionShape { heads, kv_heads, head }, tokens.min(context))
    }

    /// Takes in tokens behind those that each row of the cache holds, at least one for each; rows beyond those held
    /// are new. Gives the logits `[rows, vocab]` of each row's last token.
    pub fn decode<R: AsRef<[u32]>>(&self, rows: &[R], cache: &mut KvCache) -> Result<Tensor<2>> {
        self.extend(rows, cache, Which::Last)
    }

    /// As [`CausalLm::decode`], with the logits of all tokens given, row after row: `[tokens, vocab]`.
    pub fn decode_all<R: AsRef<[u32]>>(&self, rows: &[R], cache: &mut KvCache) -> Result<Tensor<2>> {
        self.extend(rows, cache, Which::All)
    }

    fn extend<R: AsRef<[u32]>>(&self, rows: &[R], cache: &mut KvCache, which: Which) -> Result<Tensor<2>> {
        let rows: Vec<&[u32]> = rows.iter().map(AsRef::as_ref).collect();
        let vocab = self.config.vocab_size;
        if let Some(&id) = rows.iter().copied().flatten().find(|&&id| id as usize >= vocab) {
            return Err(ModelError::TokenId { id, vocab });
        }
        let pass = cache.pass(&rows, &self.device())?;
        let mut x = self.network.run(&pass, Some(cache), &mut |_| {});
        cache.advance(&rows);
        if let Some(places) = cache.places(&rows, which) {
            let count = places.len();
            x = x.select(0, ops::ints(places, [count], &self.device()));
        }
        Ok(self.network.unembed(x, &pass))
    }
}
