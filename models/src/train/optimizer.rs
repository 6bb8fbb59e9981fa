//! AdamW over a model's trained parameters: gradients are gathered and summed here, and each step walks the model
//! once. On the CPU weights and moments are updated in place.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};
use burn_flex::{Flex, FlexTensor};

use super::adamw::{AdamW, Moments, Step, clip_factor, sum_of_squares};
use crate::layers::ops;
use crate::model::{Parameter, values};
use crate::parameterized::Parameterized;

/// State of the optimizer, one slot per trained parameter in the model's order.
#[derive(Debug)]
pub(crate) struct Optimizer {
    adamw: AdamW,
    slots: Vec<Slot>,
    time: usize,
}

#[derive(Debug)]
struct Slot {
    name: String,
    decay: f64,
    gradient: Option<Tensor<1>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Moments in host memory, beside weights in host memory.
    Host(Moments),
    /// Moments where the weights are.
    Device(Option<Box<[Tensor<1>; 2]>>),
}

impl Optimizer {
    /// `decay` gives the weight decay of a parameter by its number of dimensions.
    pub(crate) fn new(model: &impl Parameterized, adamw: AdamW, decay: impl Fn(usize) -> f64) -> Self {
        let host = model.device().without_autodiff() == burn::tensor::Device::flex();
        let slot = |parameter: Parameter| Slot {
            decay: decay(parameter.shape.len()),
            name: parameter.name,
            gradient: None,
            state: if host { State::Host(Moments::default()) } else { State::Device(None) },
        };
        let trained = model.parameters().into_iter().filter(|parameter| parameter.trained);
        Optimizer { adamw, slots: trained.map(slot).collect(), time: 0 }
    }

    /// Adds the gradients of one backward pass to those gathered so far.
    pub(crate) fn gather(&mut self, model: &impl Parameterized, gradients: Gradients) {
        model.visit(&mut Gather { slots: self.slots.iter_mut(), gradients });
    }

    /// Norm of all gathered gradients together.
    pub(crate) fn gradient_norm(&self) -> f64 {
        let gradients = self.slots.iter().filter_map(|slot| Some((slot.gradient.as_ref()?, &slot.state)));
        let squares = gradients.map(|(gradient, state)| match state {
            State::Host(_) => sum_of_squares(slice(&host(gradient.clone()))),
            State::Device(_) => f64::from(gradient.clone().square().sum().into_scalar::<f32>()),
        });
        squares.sum::<f64>().sqrt()
    }

    /// First and second moment of each parameter that had a gradient so far.
    pub(crate) fn moments(&self) -> BTreeMap<String, [Vec<f32>; 2]> {
        let moments = self.slots.iter().filter_map(|slot| {
            let both = match &slot.state {
                State::Host(moments) => moments.both()?,
                State::Device(None) => return None,
                State::Device(Some(both)) => [values(both[0].clone()), values(both[1].clone())],
            };
            Some((slot.name.clone(), both))
        });
        moments.collect()
    }

    /// Goes on where another left off after `time` steps.
    pub(crate) fn restore(&mut self, time: usize, mut moments: BTreeMap<String, [Vec<f32>; 2]>, device: &Device) {
        self.time = time;
        for slot in &mut self.slots {
            let Some(both) = moments.remove(&slot.name) else { continue };
            slot.state = match slot.state {
                State::Host(_) => State::Host(Moments::of(both)),
                State::Device(_) => {
                    let tensor = |values: Vec<f32>| {
                        let count = values.len();
                        ops::from_vec(values, [count], device)
                    };
                    State::Device(Some(Box::new(both.map(tensor))))
                }
            };
        }
    }

    /// One step by the gathered gradients, whose norm is `norm`; forgets them.
    pub(crate) fn step<M: Parameterized>(&mut self, model: M, rate: f64, norm: f64, clip: Option<f64>) -> M {
        self.time += 1;
        let step = Step { time: self.time, rate, decay: 0.0, scale: clip_factor(norm, clip) };
        model.map(&mut Update { slots: self.slots.iter_mut(), adamw: self.adamw, step })
    }
}

struct Gather<'a> {
    slots: std::slice::IterMut<'a, Slot>,
    gradients: Gradients,
}

impl ModuleVisitor for Gather<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        let Some(slot) = self.slots.next() else { return };
        if let Some(gradient) = value.grad_remove(&mut self.gradients) {
            let count = gradient.shape().num_elements();
            let gradient: Tensor<1> = gradient.reshape([count]);
            slot.gradient = Some(match slot.gradient.take() {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
    }
}

struct Update<'a> {
    slots: std::slice::IterMut<'a, Slot>,
    adamw: AdamW,
    step: Step,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let Some(slot) = self.slots.next() else { return param };
        let Some(gradient) = slot.gradient.take() else { return param };
        // Taken out of the parameter, the tensor is the only handle to its memory, so it is written in place.
        let (id, tensor, mapper) = param.consume();
        let (adamw, step) = (self.adamw, Step { decay: slot.decay, ..self.step });
        let updated = match &mut slot.state {
            State::Host(moments) => {
                let (mut weight, gradient) = (host(tensor.inner()), host(gradient));
                let values = weight.storage_mut::<f32>();
                adamw.step(values, slice(&gradient), moments, step);
                Tensor::<D>::from_primitive::<Flex>(weight)
            }
            State::Device(moments) => on_device(&adamw, tensor.inner(), gradient, moments, step),
        };
        Param::from_mapped_value(id, updated.autodiff().require_grad(), mapper)
    }
}

/// The same update in tensor operations.
fn on_device<const D: usize>(
    adamw: &AdamW,
    weight: Tensor<D>,
    gradient: Tensor<1>,
    moments: &mut Option<Box<[Tensor<1>; 2]>>,
    Step { time, rate, decay, scale }: Step,
) -> Tensor<D> {
    let dims = weight.dims();
    let gradient = gradient.mul_scalar(scale);
    let zeros = || Box::new([gradient.zeros_like(), gradient.zeros_like()]);
    let [first, second] = *moments.take().unwrap_or_else(zeros);
    let first = first.clone() + (gradient.clone() - first).mul_scalar(1.0 - adamw.beta1);
    let second = second.mul_scalar(adamw.beta2) + gradient.square().mul_scalar(1.0 - adamw.beta2);
    let power = |beta: f64| 1.0 - beta.powi(time as i32);
    let root = second.clone().sqrt().div_scalar(power(adamw.beta2).sqrt()).add_scalar(adamw.eps);
    let step = (first.clone() / root).mul_scalar(rate / power(adamw.beta1));
    *moments = Some(Box::new([first, second]));
    weight.mul_scalar(1.0 - rate * decay) - step.reshape(dims)
}

/// The tensor's own memory, contiguous from its start.
fn host<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = match tensor.try_into_primitive::<Flex>() {
        Ok(tensor) => tensor,
        Err(error) => unreachable!("a host slot belongs to a tensor in host memory: {error:?}"),
    };
    let whole = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.layout().num_elements() == tensor.storage::<f32>().len();
    if whole { tensor } else { tensor.to_contiguous() }
}

fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.storage::<f32>()
}
