//! GPT-2 (Radford et al. 2019). Fields are named as the tensors in Hugging Face's files, so a parameter's path in
//! this module is its name there.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::config::{Activation, ModelConfig};
use crate::error::Result;
use crate::layers::{AttentionShape, Embedding, KvCache, LayerNorm, Linear, Pass, Precision, attend, ops};
use crate::weights::Source;

/// The model: body, and the unembedding (the embedding itself, if tied) or a classifier's head.
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// The body.
    pub transformer: Transformer,
    /// Unembedding, if it is not tied to the embedding.
    pub lm_head: Option<Linear>,
    /// Classes, if the model is a classifier.
    pub score: Option<Linear>,
}

/// Embeddings, blocks, final norm.
#[derive(Module, Debug)]
pub struct Transformer {
    /// Tokens.
    pub wte: Embedding,
    /// Positions.
    pub wpe: Embedding,
    /// Blocks.
    pub h: Vec<Block>,
    /// Final norm.
    pub ln_f: LayerNorm,
}

/// Attention and MLP, each behind a norm and beside the residual stream.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub ln_1: LayerNorm,
    /// Attention.
    pub attn: Attention,
    /// Before the MLP.
    pub ln_2: LayerNorm,
    /// MLP.
    pub mlp: Mlp,
}

/// Self-attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// Fused q|k|v.
    pub c_attn: Linear,
    /// Back to the stream.
    pub c_proj: Linear,
    #[module(skip)]
    heads: usize,
}

/// The MLP.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Up.
    pub c_fc: Linear,
    /// Down.
    pub c_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Gpt2 {
    pub(crate) fn build(config: &ModelConfig, source: &mut impl Source, device: &Device) -> Result<Self> {
        let ModelConfig { hidden, inner, vocab_size, context, norm_eps, initializer_range: std, .. } = *config;
        let residual = std / (2.0 * config.layers as f64).sqrt();
        let mut h = Vec::with_capacity(config.layers);
        for at in 0..config.layers {
            let mut linear = |name: &str, dims, std| {
                source.linear(&format!("transformer.h.{at}.{name}"), dims, false, true, std, device)
            };
            let attn = Attention {
                c_attn: linear("attn.c_attn", [hidden, 3 * hidden], std)?,
                c_proj: linear("attn.c_proj", [hidden, hidden], residual)?,
                heads: config.heads,
            };
            let mlp = Mlp {
                c_fc: linear("mlp.c_fc", [hidden, inner], std)?,
                c_proj: linear("mlp.c_proj", [inner, hidden], residual)?,
                activation: config.activation,
            };
            let mut norm = |name| source.layer_norm(&format!("transformer.h.{at}.{name}"), hidden, norm_eps, device);
            h.push(Block { ln_1: norm("ln_1")?, attn, ln_2: norm("ln_2")?, mlp });
        }
        let transformer = Transformer {
            wte: source.embedding("transformer.wte", [vocab_size, hidden], std, device)?,
            wpe: source.embedding("transformer.wpe", [context, hidden], std, device)?,
            h,
            ln_f: source.layer_norm("transformer.ln_f", hidden, norm_eps, device)?,
        };
        let (lm_head, score) = source.heads(config, device)?;
        Ok(Gpt2 { transformer, lm_head, score })
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.transformer.h.len()
    }

    /// The residual stream before the first block, rows `[batch * seq, hidden]`.
    pub(crate) fn embed(&self, pass: &Pass) -> Tensor<2> {
        let body = &self.transformer;
        let [rows, seq] = pass.dims;
        let tokens = body.wte.forward(pass.ids.clone());
        let x = match &pass.positions {
            Some(positions) => tokens + body.wpe.forward(positions.clone()),
            None => {
                let width = tokens.dims()[1];
                let positions: Tensor<3> = body.wpe.range(pass.start, seq).unsqueeze();
                (tokens.reshape([rows, seq, width]) + positions).reshape([rows * seq, width])
            }
        };
        pass.drop(x, |rates| rates.embedding)
    }

    /// The stream behind block `layer`, from the one before it.
    pub(crate) fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass, cache: Option<&mut KvCache>) -> Tensor<2> {
        self.transformer.h[layer].forward(x, pass, cache.map(|cache| (cache, layer)))
    }

    /// Final norm, and logits over the vocabulary or the classes, of rows.
    pub(crate) fn unembed(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let x = self.transformer.ln_f.forward(x);
        match self.lm_head.as_ref().or(self.score.as_ref()) {
            Some(head) => head.forward(x, pass),
            None => self.transformer.wte.unembed(x, pass),
        }
    }

    pub(crate) fn each_linear(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        for (at, block) in self.transformer.h.iter_mut().enumerate() {
            visit(&format!("transformer.h.{at}.attn.c_attn"), &mut block.attn.c_attn);
            visit(&format!("transformer.h.{at}.attn.c_proj"), &mut block.attn.c_proj);
            visit(&format!("transformer.h.{at}.mlp.c_fc"), &mut block.mlp.c_fc);
            visit(&format!("transformer.h.{at}.mlp.c_proj"), &mut block.mlp.c_proj);
        }
        for (name, head) in [("lm_head", &mut self.lm_head), ("score", &mut self.score)] {
            if let Some(head) = head {
                visit(name, head);
            }
        }
    }
}

impl Block {
    fn forward(&self, x: Tensor<2>, pass: &Pass, cache: Option<(&mut KvCache, usize)>) -> Tensor<2> {
        let drop = |x| pass.drop(x, |rates| rates.hidden);
        let x = x.clone() + drop(self.attn.forward(self.ln_1.forward(x), pass, cache));
        x.clone() + drop(self.mlp.forward(self.ln_2.forward(x), pass))
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, pass: &Pass, cache: Option<(&mut KvCache, usize)>) -> Tensor<2> {
        let width = x.dims()[1];
        let qkv = self.c_attn.forward(x, pass);
        // Without padding on the left and without a cache, attention is the plain causal one.
        let whole = pass.rate(|rates| rates.attention) == 0.0;
        let plain = cache.is_none() && pass.positions.is_none() && pass.precision == Precision::F32 && whole;
        if plain && let Some(mixed) = ops::causal_attention(&qkv, pass.dims[1], self.heads) {
            return self.c_proj.forward(mixed, pass);
        }
        let part = |at: usize| qkv.clone().narrow(1, at * width, width);
        let shape = AttentionShape { heads: self.heads, kv_heads: self.heads, head: width / self.heads };
        self.c_proj.forward(attend([part(0), part(1), part(2)], shape, pass, None, cache), pass)
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        self.c_proj.forward(ops::activate(self.c_fc.forward(x, pass), self.activation), pass)
    }
}
