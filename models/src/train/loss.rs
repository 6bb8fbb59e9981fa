//! Cross-entropy from logits in one pass: the forward turns the logits into their own gradient in place, so that
//! a training step holds them once, and the backward only hands that over.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::layers::fused::{exp, wide};
use crate::layers::ops;

/// Sum of the negative log-likelihoods (in nats) of `targets` under `logits`, divided by `denominator`.
///
/// # Shapes
/// logits `[n, vocab]`, targets `n`, result `[1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: &[u32], denominator: f64) -> Tensor<1> {
    let device = logits.device();
    if device.clone().without_autodiff() == Device::flex() {
        let scale = (1.0 / denominator) as f32;
        return Tensor::from_dispatch(Dispatch::cross_entropy(logits.into_dispatch(), targets.to_vec(), scale));
    }
    let targets = ops::ints(targets.iter().map(|&id| id as i32).collect(), [targets.len()], &device);
    ops::token_nll(logits, targets).sum().div_scalar(denominator)
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait LossOps: Backend {
    fn cross_entropy(logits: FloatTensor<Self>, targets: Vec<u32>, scale: f32) -> FloatTensor<Self>;
}

impl LossOps for Flex {
    fn cross_entropy(logits: FlexTensor, targets: Vec<u32>, scale: f32) -> FlexTensor {
        scalar(forward(logits, &targets, scale).0)
    }
}

impl<C: CheckpointStrategy> LossOps for Autodiff<Flex, C> {
    fn cross_entropy(logits: FloatTensor<Self>, targets: Vec<u32>, scale: f32) -> FloatTensor<Self> {
        let prepared = CrossEntropy.prepare::<C>([logits.node()]).compute_bound().stateful();
        let (loss, gradient) = forward(logits.into_primitive(), &targets, scale);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(gradient, scalar(loss)),
            OpsKind::UnTracked(prepared) => prepared.finish(scalar(loss)),
        }
    }
}

#[derive(Debug)]
struct CrossEntropy;

impl Backward<Flex, 1> for CrossEntropy {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let outer = grads.consume::<Flex>(&ops.node);
        let Some(parent) = &ops.parents[0] else { return };
        let mut gradient = ops.state;
        let factor = outer.storage::<f32>()[outer.layout().start_offset()];
        if factor != 1.0 {
            gradient.storage_mut::<f32>().iter_mut().for_each(|value| *value *= factor);
        }
        grads.register::<Flex>(parent.id, gradient);
    }
}

fn scalar(value: f32) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(vec![value], [1]))
}

/// Values that one task handles; fixed, so that sums come out the same on any number of threads.
const CHUNK: usize = 1 << 16;

/// The loss, and the logits' buffer turned into the gradient.
fn forward(logits: FlexTensor, targets: &[u32], scale: f32) -> (f32, FlexTensor) {
    let mut logits =
        if logits.is_contiguous() && logits.layout().start_offset() == 0 { logits } else { logits.to_contiguous() };
    let vocab = logits.layout().shape()[1];
    let rows = (CHUNK / vocab).max(1);
    let values = &mut logits.storage_mut::<f32>()[..targets.len() * vocab];
    let chunk = |(values, targets): (&mut [f32], &[u32])| -> f64 {
        let rows = values.chunks_exact_mut(vocab).zip(targets);
        wide(|| rows.map(|(row, &target)| one_row(row, target as usize, scale)).sum())
    };
    let total: f64 = if targets.len() <= rows {
        chunk((values, targets))
    } else {
        values.par_chunks_mut(rows * vocab).zip(targets.par_chunks(rows)).map(chunk).collect::<Vec<_>>().iter().sum()
    };
    ((total * f64::from(scale)) as f32, logits)
}

/// Turns one row of logits into `scale * (softmax - one_hot(target))`; gives its negative log-likelihood.
#[inline(always)]
fn one_row(row: &mut [f32], target: usize, scale: f32) -> f64 {
    let highest = row.iter().fold(f32::NEG_INFINITY, |highest, &value| if value > highest { value } else { highest });
    let wanted = row[target];
    for value in row.iter_mut() {
        *value = exp(*value - highest);
    }
    let mut sums = [0.0f32; 8];
    let (chunks, rest) = row.as_chunks::<8>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    let sum = sums.iter().sum::<f32>() + rest.iter().sum::<f32>();
    let factor = scale / sum;
    for value in row.iter_mut() {
        *value *= factor;
    }
    row[target] -= scale;
    f64::from(highest) - f64::from(wanted) + f64::from(sum).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(rows: usize, vocab: usize) -> Vec<f32> {
        (0..rows * vocab).map(|i| ((i * 7919) % 1009) as f32 / 101.0 - 5.0).collect()
    }

    #[test]
    fn loss_and_gradient_match_the_composed_form() {
        let device = Device::flex().autodiff();
        let targets = [0u32, 12, 3, 7, 7];
        let input = || ops::from_vec::<2, _>(logits(5, 13), [5, 13], &device).require_grad();
        let (ours, composed) = (input(), input());
        let loss = cross_entropy(ours.clone(), &targets, 4.0) * 3.0;
        let ids = ops::ints(targets.iter().map(|&id| id as i32).collect(), [5], &device);
        let want = ops::token_nll(composed.clone(), ids).sum() * 0.75;
        assert!((loss.clone().into_scalar::<f32>() - want.clone().into_scalar::<f32>()).abs() < 1e-5);
        let gradient = ours.grad(&loss.backward()).expect("tracked");
        let expected = composed.grad(&want.backward()).expect("tracked");
        assert!((gradient - expected).abs().max().into_scalar::<f32>() < 1e-6);
    }

    #[test]
    fn bytes_do_not_depend_on_the_thread_count() {
        let (rows, vocab) = (300, 1000);
        let targets: Vec<u32> = (0..rows as u32).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
            let tensor = FlexTensor::from_data(TensorData::new(logits(rows, vocab), [rows, vocab]));
            let (loss, gradient) = pool.install(|| forward(tensor, &targets, 0.01));
            (loss, gradient.storage::<f32>().to_vec())
        };
        assert_eq!(run(1), run(3));
    }
}
