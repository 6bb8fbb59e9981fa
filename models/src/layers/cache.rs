//! Keys and values of the tokens so far, in buffers made once for the whole context.

use burn::tensor::{Int, Tensor};

/// One pair of buffers per layer.
#[derive(Debug)]
pub struct KvCache {
    /// Buffers by layer.
    pub layers: Vec<LayerCache>,
    capacity: usize,
    len: usize,
}

/// Keys and values of one layer, `[batch, kv_heads, capacity, head]`.
#[derive(Debug, Default)]
pub struct LayerCache {
    buffers: Option<(Tensor<4>, Tensor<4>)>,
}

impl KvCache {
    /// Room for `capacity` tokens.
    pub fn new(layers: usize, capacity: usize) -> Self {
        KvCache { layers: (0..layers).map(|_| LayerCache::default()).collect(), capacity, len: 0 }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is held yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Keeps only these rows of the batch, in this order.
    pub fn keep(&mut self, rows: Tensor<1, Int>) {
        for layer in &mut self.layers {
            if let Some((k, v)) = layer.buffers.take() {
                layer.buffers = Some((k.select(0, rows.clone()), v.select(0, rows.clone())));
            }
        }
    }
}

impl LayerCache {
    /// Adds keys and values behind the `start` that are there; gives all of them.
    pub fn append(&mut self, k: Tensor<4>, v: Tensor<4>, start: usize, capacity: usize) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, seq, head] = k.dims();
        let (keys, values) = self.buffers.take().unwrap_or_else(|| {
            let empty = || Tensor::zeros([batch, heads, capacity, head], &k.device());
            (empty(), empty())
        });
        let place = [0..batch, 0..heads, start..start + seq, 0..head];
        let keys = keys.slice_assign(place.clone(), k);
        let values = values.slice_assign(place, v);
        let held = (keys.clone().narrow(2, 0, start + seq), values.clone().narrow(2, 0, start + seq));
        self.buffers = Some((keys, values));
        held
    }
}
