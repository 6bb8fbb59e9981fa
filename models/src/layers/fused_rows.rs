//! Operations on rows in one pass, forward and backward, for the CPU, where burn composes them of five and more:
//! linear with bias, layer normalisation, and causal attention over short rows of packed q|k|v.
//!
//! Each row is computed by itself; sums over rows (gradients of weights) run over blocks of fixed size, in order.
//! So bytes depend neither on the number of threads nor, for a row, on its neighbours.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fused::exp;

/// Longest rows that attention is computed for without a matrix product.
const SHORT: usize = 32;
/// Rows that one task handles and that one partial sum covers.
const BLOCK: usize = 128;
/// Below this many values, waking a second thread costs more than it saves.
const FEW: usize = 1 << 17;

/// Whether these operations exist where the tensor is.
pub(crate) fn available<const D: usize>(x: &Tensor<D>) -> bool {
    x.device().without_autodiff() == Device::flex()
}

/// `x W + b`.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    let [x, weight, bias] = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    Tensor::from_dispatch(Dispatch::fused_linear(x, weight, bias))
}

/// Layer normalisation of rows.
pub(crate) fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<2> {
    let [x, weight, bias] = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    Tensor::from_dispatch(Dispatch::fused_layer_norm(x, weight, bias, eps as f32))
}

/// Causal self-attention of rows `[batch * seq, 3 * width]` of q|k|v to rows `[batch * seq, width]`; none where a
/// matrix product does better.
pub(crate) fn causal_attention(qkv: &Tensor<2>, seq: usize, heads: usize) -> Option<Tensor<2>> {
    let fits = seq <= SHORT && available(qkv);
    fits.then(|| Tensor::from_dispatch(Dispatch::fused_attention(qkv.clone().into_dispatch(), seq, heads)))
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait RowOps: Backend {
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;
    fn fused_attention(qkv: FloatTensor<Self>, seq: usize, heads: usize) -> FloatTensor<Self>;
}

impl RowOps for Flex {
    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let mut y = contiguous(Flex::float_matmul(x, weight));
        let bias = contiguous(bias);
        let bias = slice(&bias);
        let add = |row: &mut [f32]| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        let values = y.storage_mut::<f32>();
        if values.len() < FEW {
            values.chunks_exact_mut(bias.len()).for_each(add);
        } else {
            values.par_chunks_exact_mut(bias.len()).with_min_len(BLOCK).for_each(add);
        }
        y
    }

    fn fused_layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, eps: f32) -> FlexTensor {
        normalise(&contiguous(x), &contiguous(weight), &contiguous(bias), eps).0
    }

    fn fused_attention(qkv: FlexTensor, seq: usize, heads: usize) -> FlexTensor {
        attend(&contiguous(qkv), seq, heads).0
    }
}

impl<C: CheckpointStrategy> RowOps for Autodiff<Flex, C> {
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let kept = (x.primitive().clone(), weight.primitive().clone());
        let y = Flex::fused_linear(kept.0.clone(), kept.1.clone(), bias.primitive().clone());
        match Linear.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(kept, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let (value, scale) = (contiguous(x.primitive().clone()), contiguous(weight.primitive().clone()));
        let (y, moments) = normalise(&value, &scale, &contiguous(bias.primitive().clone()), eps);
        match LayerNorm.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((value, scale, moments), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    fn fused_attention(qkv: FloatTensor<Self>, seq: usize, heads: usize) -> FloatTensor<Self> {
        let value = contiguous(qkv.primitive().clone());
        let (y, weights) = attend(&value, seq, heads);
        match Attention.prepare::<C>([qkv.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((value, weights, seq, heads), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

#[derive(Debug)]
struct Linear;

impl Backward<Flex, 3> for Linear {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let outer = contiguous(grads.consume::<Flex>(&ops.node));
        let (x, weight) = ops.state;
        let [for_x, for_weight, for_bias] = ops.parents;
        if let Some(parent) = for_bias {
            let width = outer.layout().shape()[1];
            grads.register::<Flex>(parent.id, tensor(sum_rows(slice(&outer), width), &[width]));
        }
        if let Some(parent) = for_weight {
            grads.register::<Flex>(parent.id, Flex::float_matmul(Flex::float_transpose(x), outer.clone()));
        }
        if let Some(parent) = for_x {
            grads.register::<Flex>(parent.id, Flex::float_matmul(outer, Flex::float_transpose(weight)));
        }
    }
}

#[derive(Debug)]
struct LayerNorm;

impl Backward<Flex, 3> for LayerNorm {
    /// Input, weight, and mean and reciprocal deviation of each row.
    type State = (FlexTensor, FlexTensor, Vec<[f32; 2]>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut outer = contiguous(grads.consume::<Flex>(&ops.node));
        let (x, weight, moments) = ops.state;
        let width = weight.layout().shape()[0];
        let (x, weight) = (slice(&x), slice(&weight));
        let [for_x, for_weight, for_bias] = ops.parents;
        if let Some(parent) = for_bias {
            grads.register::<Flex>(parent.id, tensor(sum_rows(slice(&outer), width), &[width]));
        }
        if let Some(parent) = for_weight {
            let mut products = slice(&outer).to_vec();
            let rows = products.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(&moments);
            for ((products, x), &[mean, scale]) in rows {
                products.iter_mut().zip(x).for_each(|(product, x)| *product *= (x - mean) * scale);
            }
            grads.register::<Flex>(parent.id, tensor(sum_rows(&products, width), &[width]));
        }
        let Some(parent) = for_x else { return };
        let row = |(outer, (x, &[mean, scale])): (&mut [f32], (&[f32], &[f32; 2]))| {
            for (outer, weight) in outer.iter_mut().zip(weight) {
                *outer *= weight;
            }
            let normal = |x: f32| (x - mean) * scale;
            let average = sum(outer, |g| g) / width as f32;
            let along = sum2(outer, x, |g, x| g * normal(x)) / width as f32;
            for (outer, &x) in outer.iter_mut().zip(x) {
                *outer = scale * (*outer - average - normal(x) * along);
            }
        };
        let values = outer.storage_mut::<f32>();
        if values.len() < FEW {
            values.chunks_exact_mut(width).zip(x.chunks_exact(width).zip(&moments)).for_each(row);
        } else {
            let inputs = x.par_chunks_exact(width).zip(&moments);
            values.par_chunks_exact_mut(width).zip(inputs).with_min_len(BLOCK).for_each(row);
        }
        grads.register::<Flex>(parent.id, outer);
    }
}

#[derive(Debug)]
struct Attention;

impl Backward<Flex, 1> for Attention {
    /// Input, attention weights, length of rows, number of heads.
    type State = (FlexTensor, Vec<f32>, usize, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let outer = contiguous(grads.consume::<Flex>(&ops.node));
        let Some(parent) = &ops.parents[0] else { return };
        let (qkv, weights, seq, heads) = ops.state;
        let shape = qkv.layout().shape();
        let (rows, packed) = (shape[0], shape[1]);
        let (width, head) = (packed / 3, packed / 3 / heads);
        let scale = 1.0 / (head as f32).sqrt();
        let mut gradient = vec![0.0f32; rows * packed];
        let one = |dx: &mut [f32], x: &[f32], weights: &[f32], g: &[f32]| {
            let mut slopes = [0.0f32; SHORT];
            for h in 0..heads {
                let [q, k, v] = [0, 1, 2].map(|part| part * width + h * head);
                for i in 0..seq {
                    let weights = &weights[(h * seq + i) * seq..][..=i];
                    let g = &g[i * width + h * head..][..head];
                    let mut mean = 0.0;
                    for (j, &weight) in weights.iter().enumerate() {
                        slopes[j] = sum2(g, &x[j * packed + v..][..head], |g, v| g * v);
                        mean += weight * slopes[j];
                        add_scaled(&mut dx[j * packed + v..][..head], g, weight);
                    }
                    for (j, &weight) in weights.iter().enumerate() {
                        let slope = weight * (slopes[j] - mean) * scale;
                        add_scaled(&mut dx[i * packed + q..][..head], &x[j * packed + k..][..head], slope);
                        add_scaled(&mut dx[j * packed + k..][..head], &x[i * packed + q..][..head], slope);
                    }
                }
            }
        };
        let (x, g) = (slice(&qkv), slice(&outer));
        let (input, square) = (seq * packed, heads * seq * seq);
        if gradient.len() < FEW {
            let rest = x.chunks_exact(input).zip(weights.chunks_exact(square).zip(g.chunks_exact(seq * width)));
            gradient.chunks_exact_mut(input).zip(rest).for_each(|(dx, (x, (weights, g)))| one(dx, x, weights, g));
        } else {
            let given = weights.par_chunks_exact(square).zip(g.par_chunks_exact(seq * width));
            let rest = x.par_chunks_exact(input).zip(given);
            gradient.par_chunks_exact_mut(input).zip(rest).for_each(|(dx, (x, (weights, g)))| one(dx, x, weights, g));
        }
        grads.register::<Flex>(parent.id, tensor(gradient, &[rows, packed]));
    }
}

/// The output, and mean and reciprocal deviation of each row.
fn normalise(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor, eps: f32) -> (FlexTensor, Vec<[f32; 2]>) {
    let shape = x.layout().shape();
    let (rows, width) = (shape[0], shape[1]);
    let (weight, bias) = (slice(weight), slice(bias));
    let mut moments = vec![[0.0; 2]; rows];
    let mut y = slice(x).to_vec();
    let row = |(y, moments): (&mut [f32], &mut [f32; 2])| {
        let mean = sum(y, |x| x) / width as f32;
        let variance = sum(y, |x| (x - mean) * (x - mean)) / width as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        *moments = [mean, scale];
        for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
            *y = (*y - mean) * scale * weight + bias;
        }
    };
    if y.len() < FEW {
        y.chunks_exact_mut(width).zip(&mut moments).for_each(row);
    } else {
        y.par_chunks_exact_mut(width).zip(&mut moments).with_min_len(BLOCK).for_each(row);
    }
    (tensor(y, &[rows, width]), moments)
}

/// The output, and the attention weights `[batch, heads, seq, seq]`.
fn attend(qkv: &FlexTensor, seq: usize, heads: usize) -> (FlexTensor, Vec<f32>) {
    let shape = qkv.layout().shape();
    let (rows, packed) = (shape[0], shape[1]);
    let (width, head) = (packed / 3, packed / 3 / heads);
    let scale = 1.0 / (head as f32).sqrt();
    let mut weights = vec![0.0f32; rows / seq * heads * seq * seq];
    let mut y = vec![0.0f32; rows * width];
    let one = |(y, (weights, x)): (&mut [f32], (&mut [f32], &[f32]))| {
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
    };
    let (input, square) = (seq * packed, heads * seq * seq);
    let x = slice(qkv);
    if x.len() < FEW {
        let rest = weights.chunks_exact_mut(square).zip(x.chunks_exact(input));
        y.chunks_exact_mut(seq * width).zip(rest).for_each(one);
    } else {
        let rest = weights.par_chunks_exact_mut(square).zip(x.par_chunks_exact(input));
        y.par_chunks_exact_mut(seq * width).zip(rest).for_each(one);
    }
    (tensor(y, &[rows, width]), weights)
}

const LANES: usize = 8;

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

/// Sum of rows of this width: by blocks of rows, and then over the blocks.
fn sum_rows(values: &[f32], width: usize) -> Vec<f32> {
    let block = |values: &[f32]| {
        let mut total = vec![0.0f32; width];
        values.chunks_exact(width).for_each(|row| add_scaled(&mut total, row, 1.0));
        total
    };
    let size = BLOCK * width;
    let blocks: Vec<Vec<f32>> = match values.len() < FEW {
        true => values.chunks(size).map(block).collect(),
        false => values.par_chunks(size).map(block).collect(),
    };
    let mut total = vec![0.0f32; width];
    blocks.iter().for_each(|block| add_scaled(&mut total, block, 1.0));
    total
}

/// In row-major order, and nothing else in its memory.
fn contiguous(x: FlexTensor) -> FlexTensor {
    let whole =
        x.is_contiguous() && x.layout().start_offset() == 0 && x.layout().num_elements() == x.storage::<f32>().len();
    if whole { x } else { x.to_contiguous() }
}

fn slice(x: &FlexTensor) -> &[f32] {
    x.storage::<f32>()
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{Pass, ops};
    use burn::tensor::module;

    fn input<const D: usize>(shape: [usize; D], phase: f32, device: &Device) -> Tensor<D> {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|at| ((at as f32 + phase) * 0.37).sin() * 2.0).collect();
        ops::from_vec(values, shape, device).require_grad()
    }

    fn close<const D: usize>(ours: Tensor<D>, theirs: Tensor<D>, what: &str) {
        let largest = theirs.clone().abs().max().into_scalar::<f32>().max(1.0);
        let most = (ours - theirs).abs().max().into_scalar::<f32>();
        assert!(most < 2e-5 * largest, "{what}: {most} of {largest}");
    }

    /// Of both sizes: on one thread, and shared among threads. The input is a view.
    #[test]
    fn linear_and_layer_norm_match_the_composed_forms() {
        let device = Device::flex().autodiff();
        for rows in [9, 3000] {
            let inputs = || {
                (
                    input([rows, 75], 0.0, &device),
                    input([70, 70], 0.3, &device),
                    input([70], 0.6, &device),
                    input([70], 0.9, &device),
                )
            };
            let (ours, theirs) = (inputs(), inputs());
            let x = |input: &Tensor<2>| input.clone().narrow(1, 3, 70);
            let y =
                linear(layer_norm(x(&ours.0), ours.2.clone(), ours.3.clone(), 1e-5), ours.1.clone(), ours.3.clone());
            let normal = module::layer_norm(x(&theirs.0), theirs.2.clone(), Some(theirs.3.clone()), 1e-5);
            let want = normal.matmul(theirs.1.clone()) + theirs.3.clone().unsqueeze();
            close(y.clone().detach(), want.clone().detach(), "values");
            let (ours_grad, theirs_grad) = (y.square().mean().backward(), want.square().mean().backward());
            close(ours.0.grad(&ours_grad).unwrap(), theirs.0.grad(&theirs_grad).unwrap(), "dx");
            close(ours.1.grad(&ours_grad).unwrap(), theirs.1.grad(&theirs_grad).unwrap(), "dw");
            close(ours.2.grad(&ours_grad).unwrap(), theirs.2.grad(&theirs_grad).unwrap(), "norm weight");
            close(ours.3.grad(&ours_grad).unwrap(), theirs.3.grad(&theirs_grad).unwrap(), "biases");
        }
    }

    #[test]
    fn attention_matches_the_composed_form() {
        let device = Device::flex().autodiff();
        for (batch, seq, heads, head) in [(2, 5, 3, 4), (1, 1, 1, 9), (40, 32, 4, 12)] {
            let (rows, width) = (batch * seq, heads * head);
            let (ours, theirs) = (input([rows, 3 * width], 0.0, &device), input([rows, 3 * width], 0.0, &device));
            let y = causal_attention(&ours, seq, heads).unwrap();
            let tokens = vec![vec![0u32; seq]; batch];
            let pass = Pass::new(&crate::Batch::right_padded(&tokens, 0).unwrap(), 0, &device);
            let shape = crate::layers::AttentionShape { heads, kv_heads: heads, head };
            let part = |at: usize| theirs.clone().narrow(1, at * width, width);
            let want = crate::layers::attend([part(0), part(1), part(2)], shape, &pass, None, None);
            close(y.clone().detach(), want.clone().detach(), "values");
            let (ours_grad, theirs_grad) = (y.square().sum().backward(), want.square().sum().backward());
            close(ours.grad(&ours_grad).unwrap(), theirs.grad(&theirs_grad).unwrap(), "gradient");
        }
        assert!(causal_attention(&input([33, 12], 0.0, &device), 33, 1).is_none());
    }

    #[test]
    fn bytes_do_not_depend_on_the_thread_count() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let device = Device::flex().autodiff();
                let (x, w, b) =
                    (input([4000, 48], 0.0, &device), input([48, 48], 0.2, &device), input([48], 0.4, &device));
                let normal = layer_norm(x.clone(), b.clone(), b.clone(), 1e-5);
                let y = causal_attention(&linear(normal, w.clone(), b.clone()), 20, 4).unwrap();
                let grads = y.clone().square().mean().backward();
                let of = |tensor: Option<Tensor<1>>| tensor.unwrap().into_data();
                (
                    y.into_data(),
                    of(b.grad(&grads)),
                    w.grad(&grads).unwrap().into_data(),
                    x.grad(&grads).unwrap().into_data(),
                )
            })
        };
        assert!(run(1) == run(3));
    }
}
