//! Which parameters learn: gradients flow to these, the others stay plain constants, which cost nothing.

use burn::module::{ModuleMapper, Param};
use burn::tensor::{FloatDType, Tensor};

use super::{Precision, TrainError, Trained};
use crate::lora::{has_adapters, is_adapter};
use crate::parameterized::Parameterized;

/// Lets gradients flow to the parameters that learn. With products in 16 bits, matrices that don't learn are kept in
/// them, too: half the memory, and the same result as rounding them for each product.
pub(super) fn select<M: Parameterized>(model: M, trained: &Trained, precision: Precision) -> Result<M, TrainError> {
    let names: Box<dyn Fn(&str) -> bool> = match trained {
        Trained::All => Box::new(|_| true),
        Trained::Adapters if !has_adapters(&model) => return Err(TrainError::NoAdapters),
        Trained::Adapters => {
            let parameters = model.parameters().into_iter().map(|parameter| parameter.name);
            let beside: Vec<String> = parameters.filter(|name| model.learns_beside_adapters(name)).collect();
            Box::new(move |name| is_adapter(name) || beside.iter().any(|beside| beside == name))
        }
        Trained::Weights(targets) => {
            let names: Vec<String> =
                targets.resolve(&model)?.into_iter().map(|path| format!("{path}.weight")).collect();
            let parameters = model.parameters().into_iter().map(|parameter| parameter.name);
            let beside: Vec<String> = parameters.filter(|name| model.learns_beside_adapters(name)).collect();
            Box::new(move |name| names.iter().chain(&beside).any(|target| target == name))
        }
    };
    Ok(model.map(&mut Select { path: Vec::new(), names, precision }))
}

/// Leaves plain tensors behind: nothing that uses the model afterwards pays for gradients.
pub(super) fn finish<M: Parameterized>(model: M) -> M {
    model.map(&mut Finish)
}

/// The same weights, of which nothing is recorded. Their operations are those of tensors that are recorded: burn has
/// others where it can't come to that, and their results differ in the last bits.
pub(super) fn untracked<M: Parameterized>(model: M) -> M {
    model.map(&mut Untracked)
}

struct Select {
    path: Vec<String>,
    names: Box<dyn Fn(&str) -> bool>,
    precision: Precision,
}

impl ModuleMapper for Select {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = (self.names)(&self.path.join("."));
        param.map(|tensor| {
            let plain = tensor.inner();
            match self.precision {
                _ if trained => plain.autodiff().require_grad(),
                Precision::Bf16 if D == 2 => plain.cast(FloatDType::BF16),
                _ => plain,
            }
        })
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

struct Finish;

impl ModuleMapper for Finish {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(Tensor::inner)
    }
}

struct Untracked;

impl ModuleMapper for Untracked {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.inner().autodiff())
    }
}
