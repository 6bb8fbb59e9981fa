//! Activations in one pass, for the CPU: burn composes them of five and more, through libm's `powf` and `tanh`.
//! Arithmetic is elementwise and without libm, so it vectorises and gives the same bits on every machine.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Tensor, activation};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// GELU by tanh, Hugging Face's `gelu_new`.
pub(crate) fn gelu_new(x: Tensor<2>) -> Tensor<2> {
    if on_cpu(&x) {
        return Tensor::from_dispatch(Dispatch::fused_gelu(x.into_dispatch()));
    }
    activation::gelu_approximate(x)
}

/// GELU by erf, Hugging Face's `gelu`.
pub(crate) fn gelu(x: Tensor<2>) -> Tensor<2> {
    if on_cpu(&x) {
        return Tensor::from_dispatch(Dispatch::fused_gelu_erf(x.into_dispatch()));
    }
    activation::gelu(x)
}

/// `silu(gate) * up`.
pub(crate) fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if on_cpu(&gate) {
        return Tensor::from_dispatch(Dispatch::fused_swiglu(gate.into_dispatch(), up.into_dispatch()));
    }
    activation::silu(gate) * up
}

fn on_cpu(x: &Tensor<2>) -> bool {
    x.device().without_autodiff() == Device::flex()
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait FusedOps: Backend {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_gelu_erf(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FusedOps for Flex {
    fn fused_gelu(x: FlexTensor) -> FlexTensor {
        in_place(x, |values| values.iter_mut().for_each(|x| *x *= gelu_gate(*x).0))
    }

    fn fused_gelu_erf(x: FlexTensor) -> FlexTensor {
        in_place(x, |values| values.iter_mut().for_each(|x| *x *= normal_cdf(*x)))
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        zipped(gate, &contiguous(up), |gate, up| gate * sigmoid(gate) * up)
    }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let value = x.primitive().clone();
        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(value.clone(), Flex::fused_gelu(value)),
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::fused_gelu(value)),
        }
    }

    fn fused_gelu_erf(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let value = x.primitive().clone();
        match GeluErf.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(value.clone(), Flex::fused_gelu_erf(value)),
            OpsKind::UnTracked(prepared) => prepared.finish(Flex::fused_gelu_erf(value)),
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let values = (gate.primitive().clone(), up.primitive().clone());
        let out = Flex::fused_swiglu(values.0.clone(), values.1.clone());
        match SwiGlu.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(values, out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}

#[derive(Debug)]
struct Gelu;

impl Backward<Flex, 1> for Gelu {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let outer = grads.consume::<Flex>(&ops.node);
        let Some(parent) = &ops.parents[0] else { return };
        let gradient = zipped(outer, &contiguous(ops.state), |outer, x| {
            let (gate, slope) = gelu_gate(x);
            outer * (gate + x * gate * (1.0 - gate) * slope)
        });
        grads.register::<Flex>(parent.id, gradient);
    }
}

#[derive(Debug)]
struct GeluErf;

impl Backward<Flex, 1> for GeluErf {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        const DENSITY_AT_0: f32 = 0.398_942_3;
        let outer = grads.consume::<Flex>(&ops.node);
        let Some(parent) = &ops.parents[0] else { return };
        let gradient = zipped(outer, &contiguous(ops.state), |outer, x| {
            outer * (normal_cdf(x) + x * DENSITY_AT_0 * exp(-0.5 * x * x))
        });
        grads.register::<Flex>(parent.id, gradient);
    }
}

#[derive(Debug)]
struct SwiGlu;

impl Backward<Flex, 2> for SwiGlu {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let outer = grads.consume::<Flex>(&ops.node);
        let (gate, up) = (contiguous(ops.state.0), contiguous(ops.state.1));
        if let Some(parent) = &ops.parents[0] {
            let scaled = zipped(outer.clone(), &up, |outer, up| outer * up);
            let gradient = zipped(scaled, &gate, |outer, gate| {
                let open = sigmoid(gate);
                outer * open * (1.0 + gate * (1.0 - open))
            });
            grads.register::<Flex>(parent.id, gradient);
        }
        if let Some(parent) = &ops.parents[1] {
            let gradient = zipped(outer, &gate, |outer, gate| outer * gate * sigmoid(gate));
            grads.register::<Flex>(parent.id, gradient);
        }
    }
}

/// `gelu_new(x)` is `x * gate`, as `(1 + tanh u) / 2` is `sigmoid(2 u)`; with the gate, the slope of `2 u`.
#[inline(always)]
fn gelu_gate(x: f32) -> (f32, f32) {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
    let twice = TWICE_SQRT_2_OVER_PI * x * (1.0 + CUBIC * x * x);
    (sigmoid(twice), TWICE_SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x))
}

/// `(1 + erf(x / sqrt 2)) / 2`: erf as the quotient of two polynomials (Eigen's `generic_fast_erf_float`), exact to
/// 5e-7.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    let x = x * std::f32::consts::FRAC_1_SQRT_2;
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let square = x * x;
    let p = -2.726_142_3e-10 * square + 2.770_681_4e-8;
    let p = p * square - 2.101_024e-6;
    let p = p * square - 5.692_506_3e-5;
    let p = p * square - 7.349_906_3e-4;
    let p = p * square - 2.954_598e-3;
    let p = p * square - 1.609_603_3e-2;
    let q = -1.456_607_2e-5 * square - 2.133_740_6e-4;
    let q = q * square - 1.682_827e-3;
    let q = q * square - 7.373_329e-3;
    let q = q * square - 1.426_473_9e-2;
    0.5 + 0.5 * (x * p / q)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x` to 2 units in the last place, held within what an f32 can say. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let power = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
    p * f32::from_bits(power)
}

/// Below this, waking a second thread costs more than it saves.
const CHUNK: usize = 1 << 15;

fn contiguous(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() && x.layout().start_offset() == 0 { x } else { x.to_contiguous() }
}

/// Runs a loop with the widest vectors that the CPU has. Nothing is contracted or put in another order by it, so the
/// bytes are the same on any.
pub(crate) fn wide<R>(run: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(run)
}

/// Changes the values of a tensor, in its own buffer if nobody else holds it.
fn in_place(x: FlexTensor, change: impl Fn(&mut [f32]) + Sync + Send) -> FlexTensor {
    let mut x = contiguous(x);
    let count = x.layout().shape().num_elements();
    let values = &mut x.storage_mut::<f32>()[..count];
    if count <= CHUNK {
        wide(|| change(values));
    } else {
        values.par_chunks_mut(CHUNK).for_each(|values| wide(|| change(values)));
    }
    x
}

/// Combines two tensors of one shape in the buffer of the first.
fn zipped(a: FlexTensor, b: &FlexTensor, combine: impl Fn(f32, f32) -> f32 + Sync + Send) -> FlexTensor {
    let mut a = contiguous(a);
    let count = a.layout().shape().num_elements();
    let change = |(a, b): (&mut [f32], &[f32])| a.iter_mut().zip(b).for_each(|(a, &b)| *a = combine(*a, b));
    let (values, others) = (&mut a.storage_mut::<f32>()[..count], &b.storage::<f32>()[..count]);
    if count <= CHUNK {
        wide(|| change((values, others)));
    } else {
        values.par_chunks_mut(CHUNK).zip(others.par_chunks(CHUNK)).for_each(|pair| wide(|| change(pair)));
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::ops::from_vec;

    fn input(rows: usize, phase: f32, device: &Device) -> Tensor<2> {
        let values = (0..rows * 70).map(|at| ((at as f32 + phase) * 0.37).sin() * 6.0).collect();
        from_vec(values, [rows, 70], device).require_grad()
    }

    fn close(ours: Tensor<2>, theirs: Tensor<2>, what: &str) {
        let most = (ours - theirs).abs().max().into_scalar::<f32>();
        assert!(most < 4e-6, "{what}: {most}");
    }

    /// Of both sizes: on one thread, and shared among threads. One operand is a view.
    #[test]
    fn values_and_gradients_match_the_composed_forms() {
        let device = Device::flex().autodiff();
        for rows in [3, 1000] {
            let (x, same) = (input(rows, 0.0, &device), input(rows, 0.0, &device));
            let (up, same_up) = (input(rows, 0.5, &device), input(rows, 0.5, &device));
            let ours = gelu_new(x.clone().narrow(1, 3, 60));
            let theirs = activation::gelu_approximate(same.clone().narrow(1, 3, 60));
            close(ours.clone().detach(), theirs.clone().detach(), "gelu");
            let ours = swiglu(x.clone().narrow(1, 10, 60) * 0.5 + ours, up.clone().narrow(1, 0, 60));
            let gate = same.clone().narrow(1, 10, 60) * 0.5 + theirs;
            let theirs = activation::silu(gate) * same_up.clone().narrow(1, 0, 60);
            close(ours.clone().detach() * 0.1, theirs.clone().detach() * 0.1, "swiglu");
            let (ours, theirs) = (ours.mean().backward(), theirs.mean().backward());
            let scale = rows as f32;
            close(x.grad(&ours).unwrap() * scale, same.grad(&theirs).unwrap() * scale, "dx");
            close(up.grad(&ours).unwrap() * scale, same_up.grad(&theirs).unwrap() * scale, "dup");
        }
    }

    #[test]
    fn gelu_by_erf_matches_the_composed_form() {
        let device = Device::flex().autodiff();
        for rows in [3, 1000] {
            let (x, same) = (input(rows, 0.0, &device), input(rows, 0.0, &device));
            let (ours, theirs) = (gelu(x.clone().narrow(1, 3, 60)), activation::gelu(same.clone().narrow(1, 3, 60)));
            close(ours.clone().detach(), theirs.clone().detach(), "gelu");
            let (ours, theirs) = (ours.mean().backward(), theirs.mean().backward());
            let scale = (rows * 60) as f32;
            close(x.grad(&ours).unwrap() * scale, same.grad(&theirs).unwrap() * scale, "dx");
        }
    }

    #[test]
    fn the_normal_distribution_is_close_to_the_true_one() {
        for at in -12_000..12_000 {
            let x = at as f32 / 1000.0;
            let want = 0.5 * (1.0 + libm::erf(f64::from(x) / std::f64::consts::SQRT_2));
            assert!((f64::from(normal_cdf(x)) - want).abs() < 5e-7, "{x}");
        }
        assert!(normal_cdf(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_close_to_the_true_one() {
        for at in -87_000..88_000 {
            let x = at as f32 / 1000.0;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) - want).abs() <= want * 3e-7, "{x}");
        }
        assert!(exp(f32::NAN).is_nan() && sigmoid(-1e30) < 1e-37 && sigmoid(1e30) == 1.0);
    }
}
