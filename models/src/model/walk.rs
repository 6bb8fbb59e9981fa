//! Walks over a model's parameters, by their names.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::{Parameter, values};
use crate::layers::ops;

pub(super) struct List {
    pub(super) path: Vec<String>,
    pub(super) parameters: Vec<Parameter>,
}

pub(super) struct Collect {
    pub(super) path: Vec<String>,
    pub(super) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

pub(super) struct Replace {
    pub(super) path: Vec<String>,
    pub(super) tensors: BTreeMap<String, Vec<f32>>,
}

pub(super) struct Select<F> {
    pub(super) path: Vec<String>,
    pub(super) select: F,
}

impl ModuleVisitor for List {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.parameters.push(Parameter {
            name: self.path.join("."),
            id: param.id,
            shape: param.val().dims().to_vec(),
            trained: param.val().is_require_grad(),
        });
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let shape = value.dims().to_vec();
        self.tensors.insert(self.path.join("."), (shape, values(value)));
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

impl ModuleMapper for Replace {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.tensors.remove(&self.path.join(".")) {
            Some(values) => {
                let before = param.val();
                Param::initialized(param.id, ops::from_vec(values, before.dims(), &before.device()))
            }
            None => param,
        }
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

impl<F: Fn(&str) -> bool> ModuleMapper for Select<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = (self.select)(&self.path.join("."));
        param.set_require_grad(trained)
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}
