//! A causal language model of any family: load, start from scratch, save, run, tap, decode.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor};

use crate::config::{Family, ModelConfig};
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::gpt2::Gpt2;
use crate::layers::{AttentionShape, Batch, Embedding, KvCache, Layout, Linear, Pass, Precision, Which, ops};
use crate::llama::Llama;
use crate::parameterized::Parameterized;
use crate::weights::{Load, Random, Weights, transposed, write_safetensors};

/// A model with the config that it was built by.
#[derive(Debug, Clone)]
pub struct CausalLm {
    config: ModelConfig,
    network: Network,
    /// Parameters that belong to an adapter as a whole (PEFT's `modules_to_save`).
    saved: BTreeSet<String>,
}

/// The families. A parameter's path in the module is its Hugging Face name.
#[derive(Debug, Clone)]
pub enum Network {
    /// GPT-2.
    Gpt2(Gpt2),
    /// Llama.
    Llama(Llama),
}

/// One parameter, by its Hugging Face name; an adapter's are `<path>.lora.a` and `<path>.lora.b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Such as `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// What optimizers and gradients know it by.
    pub id: ParamId,
    /// Its shape in memory (linear layers `[in, out]`).
    pub shape: Vec<usize>,
    /// Whether it is being trained.
    pub trained: bool,
}

/// Calls an expression with the network of whichever family.
macro_rules! network {
    ($network:expr, $name:ident => $body:expr) => {
        match $network {
            Network::Gpt2($name) => $body,
            Network::Llama($name) => $body,
        }
    };
}

impl Network {
    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        network!(self, network => network.blocks())
    }

    /// The residual stream before the first block, rows `[batch * seq, hidden]`.
    pub(crate) fn embed(&self, pass: &Pass) -> Tensor<2> {
        network!(self, network => network.embed(pass))
    }

    /// The stream behind block `layer`, from the one before it.
    pub(crate) fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        network!(self, network => network.block(layer, x, pass, None))
    }
}

impl CausalLm {
    /// From a Hugging Face folder's files, widened to f32.
    pub fn load(files: &ModelFiles, device: &Device) -> Result<Self> {
        let text = files.text("config.json")?;
        let config = ModelConfig::parse(&text.ok_or_else(|| ModelError::MissingFile { name: "config.json".into() })?)?;
        let mut weights = Weights::open(files)?;
        let network = match config.family {
            Family::Gpt2 => {
                let source = &mut Load { weights: &mut weights, prefix: "transformer." };
                Network::Gpt2(Gpt2::build(&config, source, device)?)
            }
            Family::Llama => {
                let source = &mut Load { weights: &mut weights, prefix: "model." };
                Network::Llama(Llama::build(&config, source, device)?)
            }
        };
        // Causal masks and rotary frequencies that older files carry, and the copy of a tied embedding.
        let (tied, family) = (config.tied, config.family);
        weights.finish(&config, |name| match family {
            Family::Gpt2 => name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"),
            Family::Llama => name.ends_with(".rotary_emb.inv_freq"),
        } || tied && name == "lm_head.weight")?;
        Ok(CausalLm { config, network, saved: BTreeSet::new() })
    }

    /// With random weights, as transformers starts a model of this family.
    pub fn random(config: ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check()?;
        let source = &mut Random { seed };
        let network = match config.family {
            Family::Gpt2 => Network::Gpt2(Gpt2::build(&config, source, device)?),
            Family::Llama => Network::Llama(Llama::build(&config, source, device)?),
        };
        Ok(CausalLm { config, network, saved: BTreeSet::new() })
    }

    /// Writes `config.json` and `model.safetensors` (without adapters). Same weights, same bytes.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))?;
        let config = folder.join("config.json");
        std::fs::write(&config, self.config.render()).map_err(|error| ModelError::io(&config, error))?;
        write_safetensors(&folder.join("model.safetensors"), &self.tensors())
    }

    /// All weights by name, in the shapes of the files; no adapters.
    pub fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let mut collect = Collect { path: Vec::new(), tensors: BTreeMap::new() };
        self.visit(&mut collect);
        let mut tensors = collect.tensors;
        tensors.retain(|name, _| !name.contains(".lora."));
        for (name, (shape, values)) in &mut tensors {
            if self.stored_out_in(name)
                && let &mut [input, output] = &mut shape[..]
            {
                *values = transposed(values, input, output);
                *shape = vec![output, input];
            }
        }
        tensors
    }

    /// Whether a linear layer's weight lies in the files as `[out, in]`. Also PEFT's `fan_in_fan_out`, negated.
    pub fn stored_out_in(&self, name: &str) -> bool {
        match self.config.family {
            Family::Gpt2 => name == "lm_head.weight",
            Family::Llama => name.ends_with("_proj.weight") || name == "lm_head.weight",
        }
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The network itself.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        match &self.network {
            Network::Gpt2(network) => network.transformer.wte.weight.val().device(),
            Network::Llama(network) => network.model.embed_tokens.weight.val().device(),
        }
    }

    /// Logits `[batch, seq, vocab]`. Those at padding mean nothing.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor<3>> {
        let [rows, seq] = batch.dims();
        Ok(self.forward_rows(batch)?.reshape([rows, seq, self.config.vocab_size]))
    }

    /// Logits as rows `[batch * seq, vocab]`.
    pub fn forward_rows(&self, batch: &Batch) -> Result<Tensor<2>> {
        let pass = self.pass(batch, 0)?;
        let x = network!(&self.network, network => network.run(&pass, None, &mut |_| {}));
        Ok(network!(&self.network, network => network.unembed(x, &pass)))
    }

    /// The residual stream before each block, and (last) before the final norm: `layers + 1` tensors of rows
    /// `[batch * seq, hidden]`.
    pub fn hidden(&self, batch: &Batch) -> Result<Vec<Tensor<2>>> {
        let pass = self.pass(batch, 0)?;
        let mut hidden = Vec::with_capacity(self.config.layers + 1);
        let last = network!(&self.network, network => network.run(&pass, None, &mut |x| hidden.push(x.clone())));
        hidden.push(last);
        Ok(hidden)
    }

    /// Final norm and unembedding: rows `[n, hidden]` of any layer to logits `[n, vocab]`.
    pub fn unembed(&self, hidden: Tensor<2>) -> Tensor<2> {
        let pass = Pass::bare(&hidden.device());
        network!(&self.network, network => network.unembed(hidden, &pass))
    }

    /// The same, with the products in a given precision.
    pub(crate) fn unembed_in(&self, hidden: Tensor<2>, precision: Precision) -> Tensor<2> {
        let pass = Pass { precision, ..Pass::bare(&hidden.device()) };
        network!(&self.network, network => network.unembed(hidden, &pass))
    }

    /// A cache for rows of up to `tokens` tokens, at most the context, in the form that suits the device.
    pub fn cache(&self, tokens: usize) -> KvCache {
        self.cache_in(Layout::of(&self.device()), tokens)
    }

    /// A cache of a given form.
    pub fn cache_in(&self, layout: Layout, tokens: usize) -> KvCache {
        let ModelConfig { layers, heads, kv_heads, head, context, .. } = self.config;
        KvCache::new(layout, layers, AttentionShape { heads, kv_heads, head }, tokens.min(context))
    }

    /// Takes in tokens behind those that each row of the cache holds, at least one for each; rows beyond those held
    /// are new. Gives the logits `[rows, vocab]` of each row's last token.
    pub fn decode<R: AsRef<[u32]>>(&self, rows: &[R], cache: &mut KvCache) -> Result<Tensor<2>> {
        self.extend(rows, cache, Which::Last)
    }

    /// As [`CausalLm::decode`], with the logits of all tokens given, row after row: `[tokens, vocab]`.
    pub fn decode_all<R: AsRef<[u32]>>(&self, rows: &[R], cache: &mut KvCache) -> Result<Tensor<2>> {
        self.extend(rows, cache, Which::All)
    }

    fn extend<R: AsRef<[u32]>>(&self, rows: &[R], cache: &mut KvCache, which: Which) -> Result<Tensor<2>> {
        let rows: Vec<&[u32]> = rows.iter().map(AsRef::as_ref).collect();
        let vocab = self.config.vocab_size;
        if let Some(&id) = rows.iter().copied().flatten().find(|&&id| id as usize >= vocab) {
            return Err(ModelError::TokenId { id, vocab });
        }
        let pass = cache.pass(&rows, &self.device())?;
        let mut x = network!(&self.network, network => network.run(&pass, Some(cache), &mut |_| {}));
        cache.advance(&rows);
        if let Some(places) = cache.places(&rows, which) {
            let count = places.len();
            x = x.select(0, ops::ints(places, [count], &self.device()));
        }
        Ok(network!(&self.network, network => network.unembed(x, &pass)))
    }

    pub(crate) fn pass(&self, batch: &Batch, start: usize) -> Result<Pass> {
        batch.check(start, self.config.context, self.config.vocab_size)?;
        Ok(Pass::new(batch, start, &self.device()))
    }

    /// Whether a parameter learns and is saved as a whole with the adapter ([`crate::lora::LoraConfig::modules_to_save`]).
    pub fn is_saved(&self, name: &str) -> bool {
        self.saved.contains(name)
    }

    /// The parameter that turns ids into vectors.
    pub(crate) fn embedding_name(&self) -> String {
        match self.network {
            Network::Gpt2(_) => "transformer.wte.weight".into(),
            Network::Llama(_) => "model.embed_tokens.weight".into(),
        }
    }

    /// Gives a tied unembedding weights of its own, equal to the embedding's.
    pub(crate) fn untie(&mut self) {
        if !std::mem::replace(&mut self.config.tied, false) {
            return;
        }
        let head = |embedding: &Embedding| {
            let weight = embedding.weight.val();
            let [count, width] = weight.dims();
            let values = transposed(&ops::to_vec(weight.clone()), count, width);
            Some(Linear::new(ops::from_vec(values, [width, count], &weight.device()), None))
        };
        match &mut self.network {
            Network::Gpt2(network) => network.lm_head = head(&network.transformer.wte),
            Network::Llama(network) => network.lm_head = head(&network.model.embed_tokens),
        }
    }

    /// Replaces parameters by name; values as they lie in files.
    pub(crate) fn replace(&mut self, mut tensors: BTreeMap<String, Vec<f32>>) {
        let out_in: BTreeSet<String> = tensors.keys().filter(|name| self.stored_out_in(name)).cloned().collect();
        for parameter in self.parameters() {
            if let (&[input, output], true) = (&parameter.shape[..], out_in.contains(&parameter.name))
                && let Some(values) = tensors.get_mut(&parameter.name)
            {
                *values = transposed(values, output, input);
            }
        }
        *self = self.clone().map(&mut Replace { path: Vec::new(), tensors });
    }

    /// All linear layers by path (`transformer.h.0.attn.c_attn`), to set or take out adapters.
    pub fn each_linear(&mut self, mut visit: impl FnMut(&str, &mut Linear)) {
        network!(&mut self.network, network => network.each_linear(&mut visit));
    }

    /// All parameters, in the module's order.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut list = List { path: Vec::new(), parameters: Vec::new() };
        self.visit(&mut list);
        list.parameters
    }

    /// Runs a burn visitor over the parameters; the path it is told is the Hugging Face name.
    pub fn visit(&self, visitor: &mut impl ModuleVisitor) {
        network!(&self.network, network => network.visit(visitor));
    }

    /// Replaces parameters by a burn mapper; the path it is told is the Hugging Face name.
    pub fn map(self, mapper: &mut impl ModuleMapper) -> Self {
        let network = match self.network {
            Network::Gpt2(network) => Network::Gpt2(network.map(mapper)),
            Network::Llama(network) => Network::Llama(network.map(mapper)),
        };
        CausalLm { network, ..self }
    }

    /// Trains the parameters whose names `select` picks and freezes the others.
    pub fn train_only(self, select: impl Fn(&str) -> bool) -> Self {
        self.map(&mut Select { path: Vec::new(), select })
    }
}

impl Parameterized for CausalLm {
    fn device(&self) -> Device {
        CausalLm::device(self)
    }

    fn visit(&self, visitor: &mut impl ModuleVisitor) {
        CausalLm::visit(self, visitor);
    }

    fn map(self, mapper: &mut impl ModuleMapper) -> Self {
        CausalLm::map(self, mapper)
    }

    fn parameters(&self) -> Vec<Parameter> {
        CausalLm::parameters(self)
    }

    fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        CausalLm::tensors(self)
    }

    fn each_linear(&mut self, visit: impl FnMut(&str, &mut Linear)) {
        CausalLm::each_linear(self, visit);
    }

    fn tied_embedding(&self) -> Option<String> {
        self.config.tied.then(|| self.embedding_name())
    }

    fn untie(&mut self) {
        CausalLm::untie(self);
    }

    fn set_saved(&mut self, saved: BTreeSet<String>) {
        self.saved = saved;
    }

    fn learns_beside_adapters(&self, name: &str) -> bool {
        self.is_saved(name)
    }
}

struct List {
    path: Vec<String>,
    parameters: Vec<Parameter>,
}

struct Collect {
    path: Vec<String>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

struct Replace {
    path: Vec<String>,
    tensors: BTreeMap<String, Vec<f32>>,
}

struct Select<F> {
    path: Vec<String>,
    select: F,
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

/// The values of a float tensor, in row-major order.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    ops::to_vec(tensor)
}
