//! Llama (Touvron et al. 2023). Fields are named as the tensors in Hugging Face's files, so a parameter's path in
//! this module is its name there.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::config::{ModelConfig, RopeScaling};
use crate::error::Result;
use crate::layers::{AttentionShape, Embedding, KvCache, Linear, Pass, RmsNorm, Rope, attend, ops};
use crate::weights::Source;

/// The model: body, and the unembedding (the embedding itself, if tied) or a classifier's head.
#[derive(Module, Debug)]
pub struct Llama {
    /// The body.
    pub model: Body,
    /// Unembedding, if it is not tied to the embedding.
    pub lm_head: Option<Linear>,
    /// Classes, if the model is a classifier.
    pub score: Option<Linear>,
    #[module(skip)]
    rope_theta: f64,
    #[module(skip)]
    rope_scaling: RopeScaling,
}

/// Embedding, blocks, final norm.
#[derive(Module, Debug)]
pub struct Body {
    /// Tokens.
    pub embed_tokens: Embedding,
    /// Blocks.
    pub layers: Vec<Block>,
    /// Final norm.
    pub norm: RmsNorm,
}

/// Attention and MLP, each behind a norm and beside the residual stream.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: Attention,
    /// Before the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// MLP.
    pub mlp: Mlp,
}

/// Self-attention with grouped queries.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Back to the stream.
    pub o_proj: Linear,
    #[module(skip)]
    shape: AttentionShape,
}

/// The gated MLP.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate.
    pub gate_proj: Linear,
    /// Up.
    pub up_proj: Linear,
    /// Down.
    pub down_proj: Linear,
}

impl Llama {
    pub(crate) fn build(config: &ModelConfig, source: &mut impl Source, device: &Device) -> Result<Self> {
        let ModelConfig { hidden, inner, vocab_size, norm_eps, initializer_range: std, .. } = *config;
        let (queries, keys) = (config.heads * config.head, config.kv_heads * config.head);
        let shape = AttentionShape { heads: config.heads, kv_heads: config.kv_heads, head: config.head };
        let mut layers = Vec::with_capacity(config.layers);
        for at in 0..config.layers {
            let mut linear = |name: &str, dims, bias| {
                source.linear(&format!("model.layers.{at}.{name}"), dims, true, bias, std, device)
            };
            let self_attn = Attention {
                q_proj: linear("self_attn.q_proj", [hidden, queries], config.attention_bias)?,
                k_proj: linear("self_attn.k_proj", [hidden, keys], config.attention_bias)?,
                v_proj: linear("self_attn.v_proj", [hidden, keys], config.attention_bias)?,
                o_proj: linear("self_attn.o_proj", [queries, hidden], config.attention_bias)?,
                shape,
            };
            let mlp = Mlp {
                gate_proj: linear("mlp.gate_proj", [hidden, inner], config.mlp_bias)?,
                up_proj: linear("mlp.up_proj", [hidden, inner], config.mlp_bias)?,
                down_proj: linear("mlp.down_proj", [inner, hidden], config.mlp_bias)?,
            };
            let mut norm = |name| source.rms_norm(&format!("model.layers.{at}.{name}"), hidden, norm_eps, device);
            let (input_layernorm, post_attention_layernorm) =
                (norm("input_layernorm")?, norm("post_attention_layernorm")?);
            layers.push(Block { input_layernorm, self_attn, post_attention_layernorm, mlp });
        }
        let model = Body {
            embed_tokens: source.embedding("model.embed_tokens", [vocab_size, hidden], std, device)?,
            layers,
            norm: source.rms_norm("model.norm", hidden, norm_eps, device)?,
        };
        let (lm_head, score) = source.heads(config, device)?;
        let (rope_theta, rope_scaling) = (config.rope_theta, config.rope_scaling);
        Ok(Llama { model, lm_head, score, rope_theta, rope_scaling })
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.model.layers.len()
    }

    /// The residual stream before the first block, rows `[batch * seq, hidden]`.
    pub(crate) fn embed(&self, pass: &Pass) -> Tensor<2> {
        self.model.embed_tokens.forward_padded(pass)
    }

    /// The stream behind block `layer`, from the one before it.
    pub(crate) fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass, cache: Option<&mut KvCache>) -> Tensor<2> {
        let block = &self.model.layers[layer];
        let head = block.self_attn.shape.head;
        let rope = pass.rope.get_or_init(|| Rope::new(pass, head, self.rope_theta, self.rope_scaling));
        block.forward(x, pass, rope, cache.map(|cache| (cache, layer)))
    }

    /// Final norm, and logits over the vocabulary or the classes, of rows.
    pub(crate) fn unembed(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let x = self.model.norm.forward(x);
        match self.lm_head.as_ref().or(self.score.as_ref()) {
            Some(head) => head.forward(x, pass),
            None => self.model.embed_tokens.unembed(x, pass),
        }
    }

    pub(crate) fn each_linear(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        for (at, Block { self_attn, mlp, .. }) in self.model.layers.iter_mut().enumerate() {
            let linears = [
                ("self_attn.q_proj", &mut self_attn.q_proj),
                ("self_attn.k_proj", &mut self_attn.k_proj),
                ("self_attn.v_proj", &mut self_attn.v_proj),
                ("self_attn.o_proj", &mut self_attn.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ];
            for (name, linear) in linears {
                visit(&format!("model.layers.{at}.{name}"), linear);
            }
        }
        for (name, head) in [("lm_head", &mut self.lm_head), ("score", &mut self.score)] {
            if let Some(head) = head {
                visit(name, head);
            }
        }
    }
}

impl Block {
    fn forward(&self, x: Tensor<2>, pass: &Pass, rope: &Rope, cache: Option<(&mut KvCache, usize)>) -> Tensor<2> {
        let x = x.clone() + self.self_attn.forward(self.input_layernorm.forward(x), pass, rope, cache);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x), pass)
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, pass: &Pass, rope: &Rope, cache: Option<(&mut KvCache, usize)>) -> Tensor<2> {
        let q = self.q_proj.forward(x.clone(), pass);
        let k = self.k_proj.forward(x.clone(), pass);
        let v = self.v_proj.forward(x, pass);
        self.o_proj.forward(attend([q, k, v], self.shape, pass, Some(rope), cache), pass)
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let gated = ops::swiglu(self.gate_proj.forward(x.clone(), pass), self.up_proj.forward(x, pass));
        self.down_proj.forward(gated, pass)
    }
}
