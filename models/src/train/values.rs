//! The values of the parameters that learn, by name: read out for checkpoints and the best weights so far, put back.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::layers::ops;
use crate::model::values;
use crate::parameterized::Parameterized;

/// Values in row-major order, by the parameter's name.
pub(super) type Values = BTreeMap<String, Vec<f32>>;

/// Of all parameters that learn.
pub(super) fn learned(model: &impl Parameterized) -> Values {
    let mut read = Read { path: Vec::new(), values: Values::new() };
    model.visit(&mut read);
    read.values
}

/// The same model with other values; parameters that aren't named keep theirs. Lengths must fit.
pub(super) fn replaced<M: Parameterized>(model: M, values: &Values) -> M {
    model.map(&mut Replace { path: Vec::new(), values })
}

struct Read {
    path: Vec<String>,
    values: Values,
}

impl ModuleVisitor for Read {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() {
            self.values.insert(self.path.join("."), values(value.inner()));
        }
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

struct Replace<'a> {
    path: Vec<String>,
    values: &'a Values,
}

impl ModuleMapper for Replace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.values.get(&self.path.join(".")) else { return param };
        let learns = param.is_require_grad();
        param.map(|tensor| {
            let new = ops::from_vec(values.clone(), tensor.dims(), &tensor.device().without_autodiff());
            if learns { new.autodiff().require_grad() } else { new }
        })
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}
