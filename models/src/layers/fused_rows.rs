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

use super::fused::wide;
use super::kernels::{Heads, SHORT, TASK, normalise, normalise_backward, sum_rows};

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
    takes(qkv, seq).then(|| Tensor::from_dispatch(Dispatch::fused_attention(qkv.clone().into_dispatch(), seq, heads)))
}

/// Whether [`causal_attention`] has a form for rows of this length where the tensor is.
pub(crate) fn takes(x: &Tensor<2>, seq: usize) -> bool {
    seq <= SHORT && available(x)
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
        let width = bias.len();
        y.storage_mut::<f32>().par_chunks_mut((TASK / width).max(1) * width).for_each(|rows| {
            wide(|| rows.chunks_exact_mut(width).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b)));
        });
        y
    }

    fn fused_layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, eps: f32) -> FlexTensor {
        layer_norm_rows(&contiguous(x), &contiguous(weight), &contiguous(bias), eps).0
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
        let (y, moments) = layer_norm_rows(&value, &scale, &contiguous(bias.primitive().clone()), eps);
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
            wide(|| {
                let rows = products.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(&moments);
                for ((products, x), &[mean, scale]) in rows {
                    products.iter_mut().zip(x).for_each(|(product, x)| *product *= (x - mean) * scale);
                }
            });
            grads.register::<Flex>(parent.id, tensor(sum_rows(&products, width), &[width]));
        }
        let Some(parent) = for_x else { return };
        let task = (TASK / width).max(1);
        let inputs = x.par_chunks(task * width).zip(moments.par_chunks(task));
        outer.storage_mut::<f32>().par_chunks_mut(task * width).zip(inputs).for_each(|(gradient, (x, moments))| {
            wide(|| {
                for ((gradient, x), &moments) in
                    gradient.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(moments)
                {
                    normalise_backward(gradient, x, weight, moments);
                }
            });
        });
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
        let shape = Heads { seq, heads, width: packed / 3 };
        let [input, output, square] = shape.sizes();
        let mut gradient = vec![0.0f32; rows * packed];
        let task = (TASK / input).max(1);
        let given = weights.par_chunks(task * square).zip(slice(&outer).par_chunks(task * output));
        let given = slice(&qkv).par_chunks(task * input).zip(given);
        gradient.par_chunks_mut(task * input).zip(given).for_each(|(dx, (x, (weights, dy)))| {
            wide(|| {
                let given = x.chunks_exact(input).zip(weights.chunks_exact(square)).zip(dy.chunks_exact(output));
                for (dx, ((x, weights), dy)) in dx.chunks_exact_mut(input).zip(given) {
                    shape.attend_backward(dx, x, weights, dy);
                }
            });
        });
        grads.register::<Flex>(parent.id, tensor(gradient, &[rows, packed]));
    }
}

/// The output, and mean and reciprocal deviation of each row.
fn layer_norm_rows(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor, eps: f32) -> (FlexTensor, Vec<[f32; 2]>) {
    let shape = x.layout().shape();
    let (rows, width) = (shape[0], shape[1]);
    let (weight, bias) = (slice(weight), slice(bias));
    let mut moments = vec![[0.0; 2]; rows];
    let mut y = slice(x).to_vec();
    let task = (TASK / width).max(1);
    y.par_chunks_mut(task * width).zip(moments.par_chunks_mut(task)).for_each(|(y, moments)| {
        wide(|| {
            for (y, moments) in y.chunks_exact_mut(width).zip(moments) {
                *moments = normalise(y, weight, bias, eps);
            }
        });
    });
    (tensor(y, &[rows, width]), moments)
}

/// The output, and the attention weights `[batch, heads, seq, seq]`.
fn attend(qkv: &FlexTensor, seq: usize, heads: usize) -> (FlexTensor, Vec<f32>) {
    let shape = qkv.layout().shape();
    let (rows, width) = (shape[0], shape[1] / 3);
    let shape = Heads { seq, heads, width };
    let [input, output, square] = shape.sizes();
    let mut weights = vec![0.0f32; rows / seq * square];
    let mut y = vec![0.0f32; rows * width];
    let task = (TASK / input).max(1);
    let texts = slice(qkv).par_chunks(task * input).zip(weights.par_chunks_mut(task * square));
    y.par_chunks_mut(task * output).zip(texts).for_each(|(y, (x, weights))| {
        wide(|| {
            let texts = x.chunks_exact(input).zip(weights.chunks_exact_mut(square));
            for (y, (x, weights)) in y.chunks_exact_mut(output).zip(texts) {
                shape.attend(x, y, weights);
            }
        });
    });
    (tensor(y, &[rows, width]), weights)
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
