//! Causal self-attention over heads, with grouped queries and an optional cache.

use burn::tensor::Tensor;

use super::{KvCache, Pass, Rope, ops};

/// How the width of a row is cut into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head: usize,
}

/// Rows of queries `[n, heads * head]`, keys and values `[n, kv_heads * head]` to rows `[n, heads * head]`.
/// `cache` is the cache and the number of this layer in it.
pub fn attend(
    [q, k, v]: [Tensor<2>; 3],
    shape: AttentionShape,
    pass: &Pass,
    rope: Option<&Rope>,
    cache: Option<(&mut KvCache, usize)>,
) -> Tensor<2> {
    let AttentionShape { heads, kv_heads, head } = shape;
    let [rows, seq] = pass.dims;
    let by_head = |x: Tensor<2>, heads: usize| x.reshape([rows, seq, heads, head]).swap_dims(1, 2);
    let (mut q, mut k, mut v) = (by_head(q, heads), by_head(k, kv_heads), by_head(v, kv_heads));
    if let Some(rope) = rope {
        (q, k) = (rope.rotate(q), rope.rotate(k));
    }
    if let Some((cache, layer)) = cache {
        let capacity = cache.capacity();
        (k, v) = cache.layers[layer].append(k, v, pass.start, capacity);
    }
    // Queries that share a key head lie one after another, so grouping them is a reshape and copies no key.
    let group = heads / kv_heads;
    let q = if group == 1 { q } else { q.reshape([rows, kv_heads, group * seq, head]) };
    let mixed = ops::attention([q, k, v], group, pass.bias.as_ref(), pass.precision);
    let mixed = if group == 1 { mixed } else { mixed.reshape([rows, heads, seq, head]) };
    mixed.swap_dims(1, 2).reshape([rows * seq, heads * head])
}
