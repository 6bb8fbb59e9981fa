//! A model of any family: load, start from scratch, save, run, tap, decode. [`CausalLm`] and [`SequenceClassifier`]
//! are one type with two heads: whatever is done to parameters, adapters and files is done to both alike.

mod causal;
mod classifier;
mod masked;
mod network;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, ParamId};
use burn::tensor::{Device, Tensor};

pub use self::network::Network;
use self::network::network;
use self::walk::{Collect, List, Replace, Select};
use crate::bert::Spelled;
use crate::config::{Family, ModelConfig};
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layers::{Batch, Embedding, Linear, Pass, Precision, ops};
use crate::parameterized::Parameterized;
use crate::weights::{Load, Random, Source, Weights, is_class_head, transposed, write_safetensors};

/// A model with the config that it was built by, and a head for its task.
#[derive(Debug, Clone)]
pub struct Model<T> {
    config: ModelConfig,
    network: Network,
    /// Parameters that belong to an adapter as a whole (PEFT's `modules_to_save`).
    saved: BTreeSet<String>,
    task: PhantomData<T>,
}

/// What a model's head is for.
pub trait Task: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// In messages: what is wanted.
    const NAME: &'static str;

    /// Whether a config describes such a model.
    fn is_of(config: &ModelConfig) -> bool;
}

/// The next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextToken;

/// The class of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classes;

/// Tokens that were taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedTokens;

/// A masked language model.
pub type MaskedLm = Model<MaskedTokens>;

/// A causal language model.
pub type CausalLm = Model<NextToken>;

/// A classifier of whole texts.
pub type SequenceClassifier = Model<Classes>;

impl Task for NextToken {
    const NAME: &'static str = "a causal language model";

    fn is_of(config: &ModelConfig) -> bool {
        config.labels.is_empty() && config.family != Family::Bert
    }
}

impl Task for Classes {
    const NAME: &'static str = "a sequence classifier";

    fn is_of(config: &ModelConfig) -> bool {
        !config.labels.is_empty()
    }
}

impl Task for MaskedTokens {
    const NAME: &'static str = "a masked language model";

    fn is_of(config: &ModelConfig) -> bool {
        config.labels.is_empty() && config.family == Family::Bert
    }
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

/// How files of a family may spell names, and what in them is no weight.
struct Spelling {
    /// Left out by files of the bare model.
    prefix: &'static str,
    /// Causal masks, positions, rotary frequencies and versions, which older files carry.
    buffers: &'static [&'static str],
    /// Heads that a classifier made of the model leaves behind.
    heads: &'static [&'static str],
}

impl Spelling {
    fn of(family: Family) -> Self {
        let (prefix, buffers, heads): (_, &[_], &[_]) = match family {
            Family::Gpt2 => ("transformer.", &[".attn.bias", ".attn.masked_bias"], &["lm_head."]),
            // fairseq's, which transformers ignores too.
            Family::Opt => ("model.", &["decoder.version"], &["lm_head."]),
            Family::Llama => ("model.", &[".rotary_emb.inv_freq"], &["lm_head."]),
            Family::Bert => ("bert.", &["embeddings.position_ids"], &["cls."]),
        };
        Spelling { prefix, buffers, heads }
    }

    fn is_buffer(&self, name: &str) -> bool {
        self.buffers.iter().any(|buffer| name.ends_with(buffer))
    }
}

impl<T: Task> Model<T> {
    /// From a Hugging Face folder's files, widened to f32.
    ///
    /// # Errors
    /// If the config isn't one of a model that can be built, or is one for another task; if a tensor is missing, left
    /// over, or has another shape than the config calls for.
    pub fn load(files: &ModelFiles, device: &Device) -> Result<Self> {
        let config = config_of(files)?;
        let spelling = Spelling::of(config.family);
        let mut weights = Weights::open(files)?;
        let source = &mut Load { weights: &mut weights, prefix: spelling.prefix, head: None };
        let model = Model::build(config, source, device)?;
        // A tied embedding may be there twice, and so may the bias of BERT's; a BERT that was trained from nothing has
        // heads for the order of sentences.
        let language = model.config.labels.is_empty();
        let tied = |name: &str| match model.config.family {
            Family::Bert => {
                name == "cls.predictions.decoder.bias"
                    || model.config.tied && name == "cls.predictions.decoder.weight"
                    || ["cls.seq_relationship.", "bert.pooler."].iter().any(|head| name.starts_with(head))
            }
            Family::Gpt2 | Family::Opt | Family::Llama => model.config.tied && name == "lm_head.weight",
        };
        weights.finish(&model.config, |name| spelling.is_buffer(name) || language && tied(name))?;
        Ok(model)
    }

    /// With random weights, as transformers starts a model of this family.
    pub fn random(config: ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check()?;
        Model::build(config, &mut Random { seed }, device)
    }

    fn build(config: ModelConfig, source: &mut impl Source, device: &Device) -> Result<Self> {
        if !T::is_of(&config) {
            let found = match config.labels.len() {
                0 => format!("one without classes ({})", config.architecture()),
                labels => format!("a classifier ({}) with {labels} classes", config.architecture()),
            };
            return Err(ModelError::Task { found, wanted: T::NAME });
        }
        let network = Network::build(&config, source, device)?;
        Ok(Model { config, network, saved: BTreeSet::new(), task: PhantomData })
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
            Family::Gpt2 => name == "lm_head.weight" || name == "score.weight",
            Family::Opt | Family::Llama | Family::Bert => !name.contains("embed"),
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
        self.network.embedding().weight.val().device()
    }

    /// The residual stream before each block, and (last) before the final norm: `layers + 1` tensors of rows
    /// `[batch * seq, hidden]`.
    pub fn hidden(&self, batch: &Batch) -> Result<Vec<Tensor<2>>> {
        let pass = self.pass(batch, false)?;
        let mut hidden = Vec::with_capacity(self.config.layers + 1);
        let last = self.network.run(&pass, None, &mut |x| hidden.push(x.clone()));
        hidden.push(last);
        Ok(hidden)
    }

    /// Refuses a batch that the model has no place for. `padding`: padding is computed as transformers does it.
    pub(crate) fn pass(&self, batch: &Batch, padding: bool) -> Result<Pass> {
        batch.check(0, self.config.context, self.config.vocab_size)?;
        Pass::of(&self.config, batch, padding, &self.device())
    }

    /// Whether a parameter learns and is saved as a whole with the adapter ([`crate::lora::LoraConfig::modules_to_save`]).
    pub fn is_saved(&self, name: &str) -> bool {
        self.saved.contains(name)
    }

    /// The parameter that turns ids into vectors.
    pub(crate) fn embedding_name(&self) -> String {
        match self.network {
            Network::Gpt2(_) => "transformer.wte.weight".into(),
            Network::Opt(_) => "model.decoder.embed_tokens.weight".into(),
            Network::Llama(_) => "model.embed_tokens.weight".into(),
            Network::Bert(_) => "bert.embeddings.word_embeddings.weight".into(),
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
            Network::Opt(network) => network.lm_head = head(&network.model.decoder.embed_tokens),
            Network::Llama(network) => network.lm_head = head(&network.model.embed_tokens),
            // Not told as tied: see `tied_embedding`.
            Network::Bert(_) => {}
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
        match &self.network {
            Network::Gpt2(network) => network.visit(visitor),
            Network::Opt(network) => network.visit(visitor),
            Network::Llama(network) => network.visit(visitor),
            Network::Bert(network) => network.visit(&mut Spelled(visitor)),
        }
    }

    /// Replaces parameters by a burn mapper; the path it is told is the Hugging Face name.
    pub fn map(self, mapper: &mut impl ModuleMapper) -> Self {
        let network = match self.network {
            Network::Gpt2(network) => Network::Gpt2(network.map(mapper)),
            Network::Opt(network) => Network::Opt(network.map(mapper)),
            Network::Llama(network) => Network::Llama(network.map(mapper)),
            Network::Bert(network) => Network::Bert(network.map(&mut Spelled(mapper))),
        };
        Model { network, ..self }
    }

    /// Trains the parameters whose names `select` picks and freezes the others.
    pub fn train_only(self, select: impl Fn(&str) -> bool) -> Self {
        self.map(&mut Select { path: Vec::new(), select })
    }

    /// Final norm and head of rows `[n, hidden]`, with the products in a given precision.
    pub(crate) fn unembed_in(&self, hidden: Tensor<2>, precision: Precision) -> Tensor<2> {
        let pass = Pass { precision, ..Pass::bare(&hidden.device()) };
        self.network.unembed(hidden, &pass)
    }

    /// Final norm, and the head's logits, of rows `[n, hidden]` of any layer.
    pub(crate) fn token_head(&self, hidden: Tensor<2>) -> Tensor<2> {
        let pass = Pass::bare(&hidden.device());
        self.network.unembed(hidden, &pass)
    }

    /// The head's logits at each token, rows `[batch * seq, logits]`.
    fn token_logits(&self, batch: &Batch) -> Result<Tensor<2>> {
        let pass = self.pass(batch, false)?;
        let x = self.network.run(&pass, None, &mut |_| {});
        Ok(self.network.unembed(x, &pass))
    }
}

impl<T: Task> Parameterized for Model<T> {
    fn device(&self) -> Device {
        Model::device(self)
    }

    fn visit(&self, visitor: &mut impl ModuleVisitor) {
        Model::visit(self, visitor);
    }

    fn map(self, mapper: &mut impl ModuleMapper) -> Self {
        Model::map(self, mapper)
    }

    fn parameters(&self) -> Vec<Parameter> {
        Model::parameters(self)
    }

    fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        Model::tensors(self)
    }

    fn each_linear(&mut self, visit: impl FnMut(&str, &mut Linear)) {
        Model::each_linear(self, visit);
    }

    fn tied_embedding(&self) -> Option<String> {
        // BERT's masked-token head stays tied, and classifiers have no unembedding.
        let parts = self.config.tied && self.config.family != Family::Bert && self.config.labels.is_empty();
        parts.then(|| self.embedding_name())
    }

    fn untie(&mut self) {
        Model::untie(self);
    }

    fn set_saved(&mut self, saved: BTreeSet<String>) {
        self.saved = saved;
    }

    fn learns_beside_adapters(&self, name: &str) -> bool {
        is_class_head(name) || self.is_saved(name)
    }
}

/// The values of a float tensor, in row-major order.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    ops::to_vec(tensor)
}

fn config_of(files: &ModelFiles) -> Result<ModelConfig> {
    let text = files.text("config.json")?;
    Ok(ModelConfig::parse(&text.ok_or_else(|| ModelError::MissingFile { name: "config.json".into() })?)?)
}
