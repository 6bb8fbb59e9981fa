//! Causal self-attention over heads, with grouped queries and an optional cache.

use burn::tensor::Tensor;

use super::cache::{HeadRows, PackedCache, Store, attend_packed};
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
    let rotated = |x: Tensor<2>, heads: usize| {
        let x = by_head(x, heads);
        if let Some(rope) = rope { rope.rotate(x) } else { x }
    };
    let (q, k, v) = match cache {
        Some((KvCache { store: Store::Packed(cache), .. }, layer)) => {
            return packed([rotated(q, heads), rotated(k, kv_heads), by_head(v, kv_heads)], cache, layer, pass);
        }
        Some((KvCache { store: Store::Padded(cache), .. }, layer)) => {
            let keys = pass.bias.as_ref().map_or(seq, |bias| bias.dims()[3]);
            let (k, v) = cache.append(layer, rotated(k, kv_heads), by_head(v, kv_heads), keys);
            (rotated(q, heads), k, v)
        }
        None => (rotated(q, heads), rotated(k, kv_heads), by_head(v, kv_heads)),
    };
    // Queries that share a key head lie one after another, so grouping them is a reshape and copies no key.
    let group = heads / kv_heads;
    let q = if group == 1 { q } else { q.reshape([rows, kv_heads, group * seq, head]) };
    let mixed = ops::attention([q, k, v], group, pass.bias.as_ref(), pass.precision, |weights| {
        pass.drop(weights, |rates| rates.attention)
    });
    let mixed = if group == 1 { mixed } else { mixed.reshape([rows, heads, seq, head]) };
    mixed.swap_dims(1, 2).reshape([rows * seq, heads * head])
}

/// Attention of rows of different lengths one behind the other; queries, keys and values `[1, heads, n, head]`.
fn packed(tensors: [Tensor<4>; 3], cache: &mut PackedCache, layer: usize, pass: &Pass) -> Tensor<2> {
    let device = tensors[0].device();
    let [_, heads, count, head] = tensors[0].dims();
    let [q, k, v] = tensors.map(ops::to_vec);
    let rows = |values| HeadRows { values, token: head, head: count * head, width: head };
    let mixed = attend_packed([rows(&q), rows(&k), rows(&v)], cache, layer, &pass.spans);
    ops::from_vec(mixed, [count, heads * head], &device)
}
