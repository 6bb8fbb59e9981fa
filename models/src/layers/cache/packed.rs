//! Rows of different lengths one behind the other, for the CPU: attention as loops over each row's own keys.

use std::sync::OnceLock;

use burn::tensor::Device;
use rayon::prelude::*;

use super::Which;
use crate::layers::fused::wide;
use crate::layers::kernels::{TASK, attend_cached};
use crate::layers::{AttentionShape, Pass, Precision, ops};

/// Keys and values of rows, each row in buffers of its own.
#[derive(Debug)]
pub(crate) struct PackedCache {
    pub(super) rows: Vec<PackedRow>,
    layers: usize,
    shape: AttentionShape,
    capacity: usize,
}

/// One row's keys and values, `[layers, kv_heads, capacity, head]`.
#[derive(Debug)]
pub(super) struct PackedRow {
    keys: Vec<f32>,
    values: Vec<f32>,
    pub(super) len: usize,
}

/// Where the tokens of one row lie in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first one's place among all.
    pub(crate) first: usize,
    /// How many.
    pub(crate) count: usize,
}

/// Vectors of one head width by token and head, somewhere in a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadRows<'a> {
    pub(crate) values: &'a [f32],
    /// From one token to the next.
    pub(crate) token: usize,
    /// From one head to the next.
    pub(crate) head: usize,
    /// Values of one vector.
    pub(crate) width: usize,
}

impl<'a> HeadRows<'a> {
    fn at(self, token: usize, head: usize) -> &'a [f32] {
        &self.values[token * self.token + head * self.head..][..self.width]
    }
}

impl PackedCache {
    pub(super) fn new(layers: usize, shape: AttentionShape, capacity: usize) -> Self {
        PackedCache { rows: Vec::new(), layers, shape, capacity }
    }

    fn empty_row(&self) -> PackedRow {
        let size = self.layers * self.shape.kv_heads * self.capacity * self.shape.head;
        PackedRow { keys: vec![0.0; size], values: vec![0.0; size], len: 0 }
    }

    fn copy(&self, of: &PackedRow) -> PackedRow {
        let mut copy = self.empty_row();
        let (block, used) = (self.capacity * self.shape.head, of.len * self.shape.head);
        if block > 0 {
            let blocks = |to: &mut Vec<f32>, from: &Vec<f32>| {
                to.chunks_mut(block).zip(from.chunks(block)).for_each(|(to, from)| {
                    to[..used].copy_from_slice(&from[..used]);
                });
            };
            blocks(&mut copy.keys, &of.keys);
            blocks(&mut copy.values, &of.values);
        }
        copy.len = of.len;
        copy
    }

    pub(super) fn copies(&self, rows: &[usize]) -> Self {
        let mut copies = PackedCache::new(self.layers, self.shape, self.capacity);
        copies.rows = rows.iter().map(|&row| self.copy(&self.rows[row])).collect();
        copies
    }

    pub(super) fn keep(&mut self, rows: &[usize]) {
        let mut before: Vec<Option<PackedRow>> = std::mem::take(&mut self.rows).into_iter().map(Some).collect();
        // The last mention of a row moves it, those before copy it.
        let mut kept: Vec<PackedRow> = Vec::with_capacity(rows.len());
        for (at, &row) in rows.iter().enumerate() {
            let again = rows[at + 1..].contains(&row);
            let one = if again { before[row].as_ref().map(|row| self.copy(row)) } else { before[row].take() };
            kept.extend(one);
        }
        self.rows = kept;
    }

    pub(super) fn pass(&mut self, tokens: &[&[u32]], device: &Device) -> Pass {
        while self.rows.len() < tokens.len() {
            self.rows.push(self.empty_row());
        }
        let mut spans = Vec::with_capacity(tokens.len());
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for (row, tokens) in self.rows.iter().zip(tokens) {
            spans.push(Span { first: ids.len(), count: tokens.len() });
            ids.extend(tokens.iter().map(|&id| id as i32));
            positions.extend((row.len..row.len + tokens.len()).map(|at| at as i32));
        }
        let count = ids.len();
        Pass {
            dims: [1, count],
            start: 0,
            ids: ops::ints(ids, [count], device),
            positions: Some(ops::ints(positions, [count], device)),
            bias: None,
            dropout: None,
            place: Default::default(),
            precision: Precision::F32,
            rope: OnceLock::new(),
            padding_ids: None,
            types: None,
            spans,
        }
    }
}

pub(super) fn places(tokens: &[&[u32]], which: Which) -> Option<Vec<i32>> {
    if which == Which::All || tokens.iter().all(|tokens| tokens.len() == 1) {
        return None;
    }
    let mut end = 0;
    let last = |tokens: &&[u32]| {
        end += tokens.len() as i32;
        end - 1
    };
    Some(tokens.iter().map(last).collect())
}

/// Adds keys and values to the rows of the cache, and attends over all that each row then holds. Gives rows
/// `[n, heads * head]` for the `n` tokens of all spans.
pub(crate) fn attend_packed(
    [q, k, v]: [HeadRows<'_>; 3],
    cache: &mut PackedCache,
    layer: usize,
    spans: &[Span],
) -> Vec<f32> {
    let AttentionShape { heads, kv_heads, head } = cache.shape;
    let (capacity, group) = (cache.capacity, heads / kv_heads);
    let block = capacity * head;
    for (row, span) in cache.rows.iter_mut().zip(spans) {
        for kv_head in 0..kv_heads {
            let start = (layer * kv_heads + kv_head) * block + row.len * head;
            for at in 0..span.count {
                let place = start + at * head..start + (at + 1) * head;
                row.keys[place.clone()].copy_from_slice(k.at(span.first + at, kv_head));
                row.values[place].copy_from_slice(v.at(span.first + at, kv_head));
            }
        }
    }
    let width = heads * head;
    let count = spans.last().map_or(0, |span| span.first + span.count);
    let mut out = vec![0.0f32; count * width];
    // A key head of a row, with all queries that look at it.
    let attend = |(at, kv_head): (usize, usize),
                  weights: &mut Vec<f32>,
                  out: &mut [f32],
                  place: &dyn Fn(usize, usize) -> usize| {
        let (row, span) = (&cache.rows[at], spans[at]);
        let held = (layer * kv_heads + kv_head) * block..(layer * kv_heads + kv_head + 1) * block;
        let (keys, values) = (&row.keys[held.clone()], &row.values[held]);
        weights.resize(row.len + span.count, 0.0);
        wide(|| {
            for member in 0..group {
                for at in 0..span.count {
                    let query = q.at(span.first + at, kv_head * group + member);
                    let y = &mut out[place(member, at)..][..head];
                    attend_cached(query, keys, values, &mut weights[..row.len + at + 1], y);
                }
            }
        });
    };
    let place = |at: usize, kv_head: usize, member: usize, token: usize| {
        (spans[at].first + token) * width + (kv_head * group + member) * head
    };
    let tasks = (0..spans.len()).flat_map(|row| (0..kv_heads).map(move |kv_head| (row, kv_head)));
    let pairs: usize = cache.rows.iter().zip(spans).map(|(row, span)| span.count * (row.len + span.count)).sum();
    if 2 * pairs * width < TASK {
        let mut weights = Vec::new();
        for (at, kv_head) in tasks {
            attend((at, kv_head), &mut weights, &mut out, &|member, token| place(at, kv_head, member, token));
        }
        return out;
    }
    let tasks: Vec<(usize, usize)> = tasks.collect();
    let alone = |&(at, kv_head): &(usize, usize)| {
        let count = spans[at].count;
        let mut mixed = vec![0.0f32; group * count * head];
        attend((at, kv_head), &mut Vec::new(), &mut mixed, &|member, token| (member * count + token) * head);
        mixed
    };
    let mixed: Vec<Vec<f32>> = tasks.par_iter().map(alone).collect();
    for (&(at, kv_head), mixed) in tasks.iter().zip(&mixed) {
        for (number, vector) in mixed.chunks(head).enumerate() {
            let (member, token) = (number / spans[at].count, number % spans[at].count);
            let place = place(at, kv_head, member, token);
            out[place..place + head].copy_from_slice(vector);
        }
    }
    out
}
