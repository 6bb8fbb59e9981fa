//! Rows padded on the left to a common length, for GPUs: kernels are compiled and tuned for each shape, so that
//! lengths and numbers of rows are rounded up, and rows that ended stay until half of all have.

use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};

use super::Which;
use crate::layers::{Pass, Precision, ops};

/// Lengths are rounded up to a multiple of this.
const COLUMNS: usize = 32;

/// Keys and values by layer, with a mask that says which columns of a row hold tokens.
#[derive(Debug, Clone)]
pub(crate) struct PaddedCache {
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    /// Which row of the buffers each row of the batch is.
    pub(super) order: Vec<usize>,
    /// Columns used, by row of the buffers.
    valid: Vec<Vec<bool>>,
    used: usize,
    capacity: usize,
    columns: usize,
    seq: usize,
}

impl PaddedCache {
    pub(crate) fn new(layers: usize, capacity: usize) -> Self {
        let layers = (0..layers).map(|_| None).collect();
        PaddedCache { layers, order: Vec::new(), valid: Vec::new(), used: 0, capacity, columns: 0, seq: 0 }
    }

    pub(super) fn len(&self, row: usize) -> usize {
        self.order.get(row).map_or(0, |&row| self.valid[row].iter().filter(|&&real| real).count())
    }

    pub(super) fn keep(&mut self, rows: &[usize]) {
        let order: Vec<usize> = rows.iter().map(|&row| self.order[row]).collect();
        let again = order.iter().enumerate().any(|(at, row)| order[..at].contains(row));
        if !again && 2 * order.len() > self.valid.len() {
            self.order = order;
            return;
        }
        // Rows that nobody asks for fill up to a number that comes up often.
        let mut select = order;
        let count = select.len();
        select.resize(rounded_rows(count), select.first().copied().unwrap_or(0));
        self.valid = select.iter().map(|&row| self.valid[row].clone()).collect();
        self.order = (0..count).collect();
        let select: Vec<i32> = select.into_iter().map(|row| row as i32).collect();
        for (keys, values) in self.layers.iter_mut().flatten() {
            let rows = ops::ints(select.clone(), [select.len()], &keys.device());
            *keys = keys.clone().select(0, rows.clone());
            *values = values.clone().select(0, rows);
        }
    }

    pub(super) fn pass(&mut self, tokens: &[&[u32]], device: &Device) -> Pass {
        let longest = tokens.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        // The first tokens set the number of rows and columns; later ones come one by one, most of the time.
        self.seq = if self.order.is_empty() { longest.next_multiple_of(COLUMNS) } else { longest };
        if self.order.is_empty() {
            self.order = (0..tokens.len()).collect();
            self.valid = vec![Vec::new(); rounded_rows(tokens.len())];
            self.columns = self.seq + self.capacity;
        }
        let (rows, seq, start) = (self.valid.len(), self.seq, self.used);
        self.columns = self.columns.max(start + seq);
        let keys = (start + seq).next_multiple_of(COLUMNS).min(self.columns);
        let mut given: Vec<&[u32]> = vec![&[0]; rows];
        self.order.iter().zip(tokens).for_each(|(&row, tokens)| given[row] = tokens);
        let (mut ids, mut positions) = (Vec::with_capacity(rows * seq), Vec::with_capacity(rows * seq));
        let mut bias = Vec::with_capacity(rows * seq * keys);
        for (tokens, valid) in given.iter().zip(&self.valid) {
            let padding = seq - tokens.len();
            let before = valid.iter().filter(|&&real| real).count();
            for at in 0..seq {
                ids.push(if at < padding { 0 } else { tokens[at - padding] as i32 });
                positions.push(if at < padding { 0 } else { (before + at - padding) as i32 });
                let seen = |key: usize| match key.checked_sub(start) {
                    None => valid[key],
                    Some(key) => key >= padding && key <= at,
                };
                bias.extend((0..keys).map(|key| if seen(key) { 0.0 } else { f32::MIN }));
            }
        }
        Pass {
            dims: [rows, seq],
            start,
            ids: ops::ints(ids, [rows * seq], device),
            positions: Some(ops::ints(positions, [rows * seq], device)),
            bias: Some(ops::from_vec(bias, [rows, 1, seq, keys], device)),
            dropout: None,
            place: Default::default(),
            precision: Precision::F32,
            rope: OnceLock::new(),
            padding_ids: None,
            types: None,
            spans: Vec::new(),
        }
    }

    /// Adds keys and values of a layer, `[rows, kv_heads, seq, head]`, behind those that are there; gives as many
    /// columns as the pass's bias has.
    pub(crate) fn append(&mut self, layer: usize, k: Tensor<4>, v: Tensor<4>, keys: usize) -> (Tensor<4>, Tensor<4>) {
        let [rows, heads, seq, head] = k.dims();
        let empty = || Tensor::zeros([rows, heads, self.columns, head], &k.device());
        let (mut all_k, mut all_v) = self.layers[layer].take().unwrap_or_else(|| (empty(), empty()));
        let missing = self.columns - all_k.dims()[2];
        if missing > 0 {
            let more = || Tensor::zeros([rows, heads, missing, head], &k.device());
            (all_k, all_v) = (Tensor::cat(vec![all_k, more()], 2), Tensor::cat(vec![all_v, more()], 2));
        }
        let place = [0..rows, 0..heads, self.used..self.used + seq, 0..head];
        let all_k = all_k.slice_assign(place.clone(), k);
        let all_v = all_v.slice_assign(place, v);
        let held = (all_k.clone().narrow(2, 0, keys), all_v.clone().narrow(2, 0, keys));
        self.layers[layer] = Some((all_k, all_v));
        held
    }

    pub(super) fn places(&self, tokens: &[&[u32]], which: Which) -> Option<Vec<i32>> {
        let all = self.order.iter().zip(tokens).flat_map(|(&row, tokens)| {
            let end = (row + 1) * self.seq;
            let first = if which == Which::All { end - tokens.len() } else { end - 1 };
            (first..end).map(|at| at as i32)
        });
        Some(all.collect())
    }

    pub(super) fn advance(&mut self, tokens: &[&[u32]]) {
        let mut counts = vec![1; self.valid.len()];
        self.order.iter().zip(tokens).for_each(|(&row, tokens)| counts[row] = tokens.len());
        for (valid, count) in self.valid.iter_mut().zip(counts) {
            valid.extend((0..self.seq).map(|at| at + count >= self.seq));
        }
        self.used += self.seq;
    }
}

/// Up to 8 a power of two, then a multiple of 8.
fn rounded_rows(rows: usize) -> usize {
    if rows <= 8 { rows.next_power_of_two() } else { rows.next_multiple_of(8) }
}
