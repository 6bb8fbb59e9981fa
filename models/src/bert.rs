//! BERT (Devlin et al. 2019, arXiv 1810.04805; `modeling_bert.py`). Fields are named as the tensors in Hugging Face's
//! files, so a parameter's path in this module is its name there, but for two that Rust doesn't allow or like: see
//! [`Spelled`].

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

use crate::config::{Activation, ModelConfig};
use crate::error::Result;
use crate::layers::{AttentionShape, Embedding, LayerNorm, Linear, Pass, attend, ops};
use crate::weights::{Init, Source};

/// The model: body, and the head of a classifier or of a masked language model.
#[derive(Module, Debug)]
pub struct Bert {
    /// The body.
    pub bert: Body,
    /// Guesses masked tokens, if the model isn't a classifier.
    pub cls: Option<Cls>,
    /// Classes, if the model is a classifier.
    pub classifier: Option<Linear>,
}

/// Only the predictions.
#[derive(Module, Debug)]
pub struct Cls {
    /// Of masked tokens.
    pub predictions: Predictions,
}

/// A linear layer with activation and norm, and the word embeddings as unembedding, with a bias.
#[derive(Module, Debug)]
pub struct Predictions {
    /// Before the unembedding.
    pub transform: Output,
    /// `[vocab]`.
    pub bias: Param<Tensor<1>>,
    /// Unembedding, if it is not tied to the embedding.
    pub decoder: Option<Linear>,
    #[module(skip)]
    activation: Activation,
}

/// Embeddings, blocks, and what a classifier reads.
#[derive(Module, Debug)]
pub struct Body {
    /// What goes in.
    pub embeddings: Embeddings,
    /// Blocks.
    pub encoder: Encoder,
    /// For classifiers: a linear layer on the first token, and tanh.
    pub pooler: Option<Dense>,
}

/// Sum of three tables, normalised.
#[derive(Module, Debug)]
pub struct Embeddings {
    /// Tokens.
    pub word_embeddings: Embedding,
    /// Positions, counted from the start of the row, padding included.
    pub position_embeddings: Embedding,
    /// Token types: first text, second text.
    pub token_type_embeddings: Embedding,
    /// Of the sum.
    pub layer_norm: LayerNorm,
}

/// Blocks.
#[derive(Module, Debug)]
pub struct Encoder {
    /// By depth.
    pub layer: Vec<Block>,
}

/// Attention and MLP, each before a norm.
#[derive(Module, Debug)]
pub struct Block {
    /// Attention.
    pub attention: Attention,
    /// Up.
    pub intermediate: Dense,
    /// Down, and norm.
    pub output: Output,
    #[module(skip)]
    activation: Activation,
}

/// Self-attention among all real tokens, and norm.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, keys, values.
    pub self_: SelfAttention,
    /// Back to the stream, and norm.
    pub output: Output,
}

/// Queries, keys, values.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// Queries.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    #[module(skip)]
    shape: AttentionShape,
}

/// One linear layer.
#[derive(Module, Debug)]
pub struct Dense {
    /// It.
    pub dense: Linear,
}

/// A linear layer, and the norm behind the residual stream that it is added to.
#[derive(Module, Debug)]
pub struct Output {
    /// The layer.
    pub dense: Linear,
    /// The norm.
    pub layer_norm: LayerNorm,
}

impl Bert {
    pub(crate) fn build(config: &ModelConfig, source: &mut impl Source, device: &Device) -> Result<Self> {
        let ModelConfig { hidden, inner, norm_eps, initializer_range: std, .. } = *config;
        let shape = AttentionShape { heads: config.heads, kv_heads: config.heads, head: config.head };
        let mut layer = Vec::with_capacity(config.layers);
        for at in 0..config.layers {
            let mut linear = |name: &str, dims| {
                source.linear(&format!("bert.encoder.layer.{at}.{name}"), dims, true, true, std, device)
            };
            let self_ = SelfAttention {
                query: linear("attention.self.query", [hidden, hidden])?,
                key: linear("attention.self.key", [hidden, hidden])?,
                value: linear("attention.self.value", [hidden, hidden])?,
                shape,
            };
            let mixed = linear("attention.output.dense", [hidden, hidden])?;
            let intermediate = Dense { dense: linear("intermediate.dense", [hidden, inner])? };
            let down = linear("output.dense", [inner, hidden])?;
            let mut norm =
                |name| source.layer_norm(&format!("bert.encoder.layer.{at}.{name}"), hidden, norm_eps, device);
            layer.push(Block {
                attention: Attention {
                    self_,
                    output: Output { dense: mixed, layer_norm: norm("attention.output.LayerNorm")? },
                },
                intermediate,
                output: Output { dense: down, layer_norm: norm("output.LayerNorm")? },
                activation: config.activation,
            });
        }
        let mut table = |name: &str, count: usize| {
            source.embedding(&format!("bert.embeddings.{name}_embeddings"), [count, hidden], std, device)
        };
        let (word_embeddings, position_embeddings, token_type_embeddings) = (
            table("word", config.vocab_size)?,
            table("position", config.context)?,
            table("token_type", config.token_types)?,
        );
        let layer_norm = source.layer_norm("bert.embeddings.LayerNorm", hidden, norm_eps, device)?;
        let embeddings = Embeddings { word_embeddings, position_embeddings, token_type_embeddings, layer_norm };
        let encoder = Encoder { layer };
        if config.labels.is_empty() {
            let predictions = Predictions::build(config, source, device)?;
            let bert = Body { embeddings, encoder, pooler: None };
            return Ok(Bert { bert, cls: Some(Cls { predictions }), classifier: None });
        }
        let pooler = Dense { dense: source.linear("bert.pooler.dense", [hidden, hidden], true, true, std, device)? };
        let classifier = source.linear("classifier", [hidden, config.labels.len()], true, true, std, device)?;
        Ok(Bert { bert: Body { embeddings, encoder, pooler: Some(pooler) }, cls: None, classifier: Some(classifier) })
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.bert.encoder.layer.len()
    }

    /// The residual stream before the first block, rows `[batch * seq, hidden]`.
    pub(crate) fn embed(&self, pass: &Pass) -> Tensor<2> {
        self.bert.embeddings.forward(pass)
    }

    /// The stream behind block `layer`, from the one before it.
    pub(crate) fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        self.bert.encoder.layer[layer].forward(x, pass)
    }

    /// Logits of rows `[n, hidden]`: over the classes, of first tokens; or over the vocabulary, of any.
    pub(crate) fn unembed(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let x = match &self.bert.pooler {
            Some(pooler) => pooler.dense.forward(x, pass).tanh(),
            None => x,
        };
        match (&self.classifier, &self.cls) {
            (Some(classifier), _) => classifier.forward(pass.drop(x, |rates| rates.head), pass),
            (None, Some(cls)) => cls.predictions.forward(x, &self.bert.embeddings.word_embeddings, pass),
            (None, None) => self.bert.embeddings.word_embeddings.unembed(x, pass),
        }
    }

    pub(crate) fn each_linear(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        for (at, Block { attention, intermediate, output, .. }) in self.bert.encoder.layer.iter_mut().enumerate() {
            let linears = [
                ("attention.self.query", &mut attention.self_.query),
                ("attention.self.key", &mut attention.self_.key),
                ("attention.self.value", &mut attention.self_.value),
                ("attention.output.dense", &mut attention.output.dense),
                ("intermediate.dense", &mut intermediate.dense),
                ("output.dense", &mut output.dense),
            ];
            for (name, linear) in linears {
                visit(&format!("bert.encoder.layer.{at}.{name}"), linear);
            }
        }
        if let Some(pooler) = &mut self.bert.pooler {
            visit("bert.pooler.dense", &mut pooler.dense);
        }
        if let Some(Cls { predictions }) = &mut self.cls {
            visit("cls.predictions.transform.dense", &mut predictions.transform.dense);
            if let Some(decoder) = &mut predictions.decoder {
                visit("cls.predictions.decoder", decoder);
            }
        }
        if let Some(classifier) = &mut self.classifier {
            visit("classifier", classifier);
        }
    }
}

impl Predictions {
    fn build(config: &ModelConfig, source: &mut impl Source, device: &Device) -> Result<Self> {
        let ModelConfig { hidden, vocab_size, norm_eps, initializer_range: std, .. } = *config;
        let path = "cls.predictions";
        let transform = Output {
            dense: source.linear(&format!("{path}.transform.dense"), [hidden, hidden], true, true, std, device)?,
            layer_norm: source.layer_norm(&format!("{path}.transform.LayerNorm"), hidden, norm_eps, device)?,
        };
        let bias = source.vector(&format!("{path}.bias"), vocab_size, Init::Zeros, device)?;
        let decoder = match config.tied {
            true => None,
            false => Some(source.linear(&format!("{path}.decoder"), [hidden, vocab_size], true, false, std, device)?),
        };
        Ok(Predictions { transform, bias: Param::from_tensor(bias), decoder, activation: config.activation })
    }

    fn forward(&self, x: Tensor<2>, words: &Embedding, pass: &Pass) -> Tensor<2> {
        let x = ops::activate(self.transform.dense.forward(x, pass), self.activation);
        let x = self.transform.layer_norm.forward(x);
        let logits = match &self.decoder {
            Some(decoder) => decoder.forward(x, pass),
            None => words.unembed(x, pass),
        };
        logits + self.bias.val().unsqueeze()
    }
}

impl Embeddings {
    fn forward(&self, pass: &Pass) -> Tensor<2> {
        let [rows, seq] = pass.dims;
        let tokens = self.word_embeddings.forward_padded(pass);
        let width = tokens.dims()[1];
        let typed = match &pass.types {
            Some(types) => tokens + self.token_type_embeddings.forward(types.clone()),
            None => tokens + self.token_type_embeddings.range(0, 1),
        };
        let positions: Tensor<3> = self.position_embeddings.range(0, seq).unsqueeze();
        let sum = (typed.reshape([rows, seq, width]) + positions).reshape([rows * seq, width]);
        pass.drop(self.layer_norm.forward(sum), |rates| rates.embedding)
    }
}

impl Block {
    fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let SelfAttention { query, key, value, shape } = &self.attention.self_;
        let qkv = [query, key, value].map(|linear| linear.forward(x.clone(), pass));
        let x = self.attention.output.forward(attend(qkv, *shape, pass, None, None), x, pass);
        let inner = ops::activate(self.intermediate.dense.forward(x.clone(), pass), self.activation);
        self.output.forward(inner, x, pass)
    }
}

impl Output {
    fn forward(&self, inner: Tensor<2>, stream: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let inner = pass.drop(self.dense.forward(inner, pass), |rates| rates.hidden);
        self.layer_norm.forward(inner + stream)
    }
}

/// Tells a visitor or mapper the names that the files have: `self` for `self_`, `LayerNorm` for `layer_norm`.
#[derive(Debug)]
pub(crate) struct Spelled<'a, T>(pub(crate) &'a mut T);

fn spelled(name: &str) -> &str {
    match name {
        "self_" => "self",
        "layer_norm" => "LayerNorm",
        other => other,
    }
}

impl<T: ModuleVisitor> ModuleVisitor for Spelled<'_, T> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.visit_float(param);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter_module(spelled(name), container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit_module(spelled(name), container);
    }
}

impl<T: ModuleMapper> ModuleMapper for Spelled<'_, T> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0.map_float(param)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter_module(spelled(name), container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit_module(spelled(name), container);
    }
}
