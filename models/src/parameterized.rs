//! What optimizers, adapters and checkpoints need of a model: its parameters, by name.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use crate::layers::{Linear, LoraAdapter};
use crate::model::Parameter;

/// A model whose parameters can be walked. A parameter's name is its Hugging Face name; an adapter's are
/// `<path>.lora.a` and `<path>.lora.b`.
pub trait Parameterized: Clone {
    /// Where the weights are.
    fn device(&self) -> Device;

    /// Runs a burn visitor over the parameters; the path it is told is the name.
    fn visit(&self, visitor: &mut impl ModuleVisitor);

    /// Replaces parameters by a burn mapper; the path it is told is the name.
    fn map(self, mapper: &mut impl ModuleMapper) -> Self;

    /// All parameters, in the order in which [`Parameterized::visit`] and [`Parameterized::map`] meet them.
    fn parameters(&self) -> Vec<Parameter>;

    /// All weights by name, in the shapes of the files; no adapters.
    fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)>;

    /// All linear layers by path (`transformer.h.0.attn.c_attn`), to set or take out adapters.
    fn each_linear(&mut self, visit: impl FnMut(&str, &mut Linear));

    /// Whether the parameter `name` learns together with adapters, though it belongs to none: a classifier's head,
    /// which PEFT trains and saves (`modules_to_save`).
    fn learns_beside_adapters(&self, _name: &str) -> bool {
        false
    }

    /// All adapters by the path of their layer.
    fn adapters(&self) -> BTreeMap<String, LoraAdapter> {
        let mut adapters = BTreeMap::new();
        self.clone().each_linear(|path, linear| {
            if let Some(adapter) = &linear.lora {
                adapters.insert(path.to_owned(), adapter.clone());
            }
        });
        adapters
    }
}
