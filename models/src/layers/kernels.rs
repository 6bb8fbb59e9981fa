//! Loops over rows of f32 that [`super::fused_rows`] is made of. All are inlined, so that they are compiled for the
//! vectors of the function that runs them; sums go by lanes, so that they come out the same with any.

use rayon::prelude::*;

use super::fused::{exp, wide};

/// Values that one task handles: below, waking a second thread costs more than it saves.
pub(crate) const TASK: usize = 1 << 17;
/// Rows that one partial sum covers.
const BLOCK: usize = 128;
const LANES: usize = 8;

/// Longest rows that attention is computed for without a matrix product.
pub(crate) const SHORT: usize = 32;

/// `(x - mean) / sqrt(variance + eps) * weight + bias` in place; gives mean and reciprocal deviation.
#[inline(always)]
pub(crate) fn normalise(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) -> [f32; 2] {
    let width = row.len() as f32;
    let mean = sum(row, |x| x) / width;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / width;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((y, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
        *y = (*y - mean) * scale * weight + bias;
    }
    [mean, scale]
}

/// Turns the gradient of [`normalise`]'s output into that of its input.
#[inline(always)]
pub(crate) fn normalise_backward(gradient: &mut [f32], x: &[f32], weight: &[f32], [mean, scale]: [f32; 2]) {
    for (g, weight) in gradient.iter_mut().zip(weight) {
        *g *= weight;
    }
    let width = x.len() as f32;
    let normal = |x: f32| (x - mean) * scale;
    let average = sum(gradient, |g| g) / width;
    let along = sum2(gradient, x, |g, x| g * normal(x)) / width;
    for (g, &x) in gradient.iter_mut().zip(x) {
        *g = scale * (*g - average - normal(x) * along);
    }
}

/// How packed rows of q|k|v are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// Tokens of a text.
    pub(crate) seq: usize,
    /// Heads.
    pub(crate) heads: usize,
    /// Width of all heads together.
    pub(crate) width: usize,
}

impl Heads {
    /// Values of one text: packed input, output, attention weights.
    pub(crate) fn sizes(self) -> [usize; 3] {
        [self.seq * 3 * self.width, self.seq * self.width, self.heads * self.seq * self.seq]
    }

    /// Causal attention of one text; `y` starts at zero.
    #[inline(always)]
    pub(crate) fn attend(self, x: &[f32], y: &mut [f32], weights: &mut [f32]) {
        let Heads { seq, heads, width } = self;
        let (packed, head) = (3 * width, width / heads);
        let scale = 1.0 / (head as f32).sqrt();
        for h in 0..heads {
            let [q, k, v] = [0, 1, 2].map(|part| part * width + h * head);
            for i in 0..seq {
                let weights = &mut weights[(h * seq + i) * seq..][..=i];
                let query = &x[i * packed + q..][..head];
                for (j, weight) in weights.iter_mut().enumerate() {
                    *weight = scale * sum2(query, &x[j * packed + k..][..head], |q, k| q * k);
                }
                let highest = weights.iter().fold(f32::NEG_INFINITY, |high, &w| if w > high { w } else { high });
                weights.iter_mut().for_each(|weight| *weight = exp(*weight - highest));
                let total: f32 = weights.iter().sum();
                let y = &mut y[i * width + h * head..][..head];
                for (j, weight) in weights.iter_mut().enumerate() {
                    *weight /= total;
                    add_scaled(y, &x[j * packed + v..][..head], *weight);
                }
            }
        }
    }

    /// Gradient of one text's packed input; `dx` starts at zero.
    #[inline(always)]
    pub(crate) fn attend_backward(self, dx: &mut [f32], x: &[f32], weights: &[f32], dy: &[f32]) {
        let Heads { seq, heads, width } = self;
        let (packed, head) = (3 * width, width / heads);
        let scale = 1.0 / (head as f32).sqrt();
        let mut slopes = [0.0f32; SHORT];
        for h in 0..heads {
            let [q, k, v] = [0, 1, 2].map(|part| part * width + h * head);
            for i in 0..seq {
                let weights = &weights[(h * seq + i) * seq..][..=i];
                let dy = &dy[i * width + h * head..][..head];
                let mut mean = 0.0;
                for (j, &weight) in weights.iter().enumerate() {
                    slopes[j] = sum2(dy, &x[j * packed + v..][..head], |g, v| g * v);
                    mean += weight * slopes[j];
                    add_scaled(&mut dx[j * packed + v..][..head], dy, weight);
                }
                for (j, &weight) in weights.iter().enumerate() {
                    let slope = weight * (slopes[j] - mean) * scale;
                    add_scaled(&mut dx[i * packed + q..][..head], &x[j * packed + k..][..head], slope);
                    add_scaled(&mut dx[j * packed + k..][..head], &x[i * packed + q..][..head], slope);
                }
            }
        }
    }
}

/// Attention of one query over as many keys `[keys, head]` as there is room for weights; `y` starts at zero. Sums
/// over keys go in their order.
#[inline(always)]
pub(crate) fn attend_cached(query: &[f32], keys: &[f32], values: &[f32], weights: &mut [f32], y: &mut [f32]) {
    let head = query.len();
    let scale = 1.0 / (head as f32).sqrt();
    for (weight, key) in weights.iter_mut().zip(keys.chunks_exact(head)) {
        *weight = scale * sum2(query, key, |q, k| q * k);
    }
    let highest = weights.iter().fold(f32::NEG_INFINITY, |high, &w| if w > high { w } else { high });
    weights.iter_mut().for_each(|weight| *weight = exp(*weight - highest));
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    let (fours, rest) = weights.as_chunks::<4>();
    let mut vectors = values.chunks_exact(4 * head);
    for (&[a, b, c, d], vectors) in fours.iter().zip(vectors.by_ref()) {
        let (first, second) = vectors.split_at(2 * head);
        let ((va, vb), (vc, vd)) = (first.split_at(head), second.split_at(head));
        for ((((y, va), vb), vc), vd) in y.iter_mut().zip(va).zip(vb).zip(vc).zip(vd) {
            *y = (((*y + a * va) + b * vb) + c * vc) + d * vd;
        }
    }
    for (&weight, value) in rest.iter().zip(values[fours.len() * 4 * head..].chunks_exact(head)) {
        add_scaled(y, value, weight);
    }
}

/// Sum of rows of this width: by blocks of rows, and then over the blocks.
pub(crate) fn sum_rows(values: &[f32], width: usize) -> Vec<f32> {
    let block = |values: &[f32]| {
        let mut total = vec![0.0f32; width];
        wide(|| values.chunks_exact(width).for_each(|row| add_scaled(&mut total, row, 1.0)));
        total
    };
    let tasks = (TASK / (BLOCK * width)).max(1);
    let blocks: Vec<Vec<f32>> = values.par_chunks(BLOCK * width).with_min_len(tasks).map(block).collect();
    let mut total = vec![0.0f32; width];
    blocks.iter().for_each(|block| add_scaled(&mut total, block, 1.0));
    total
}

/// Sum of `f` over the values, by lanes.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}

/// Sum of `f` over pairs of values, by lanes.
#[inline(always)]
fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += f(x, y);
        }
    }
    lanes.iter().sum::<f32>() + x_rest.iter().zip(y_rest).map(|(&x, &y)| f(x, y)).sum::<f32>()
}

#[inline(always)]
fn add_scaled(y: &mut [f32], x: &[f32], factor: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x * factor;
    }
}
