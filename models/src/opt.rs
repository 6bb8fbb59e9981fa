//! OPT (Zhang et al. 2022, arXiv 2205.01068; `modeling_opt.py`). Fields are named as the tensors in Hugging Face's
//! files, so a parameter's path in this module is its name there.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::config::{Activation, ModelConfig};
use crate::error::Result;
use crate::layers::{AttentionShape, Embedding, KvCache, LayerNorm, Linear, Pass, Precision, attend, ops};
use crate::weights::Source;

/// The table of positions begins with two rows that stand for none: the first real token has row 2, padding row 1.
const FIRST_POSITION: usize = 2;

/// The model: body, and the unembedding (the embedding itself, if tied) or a classifier's head.
#[derive(Module, Debug)]
pub struct Opt {
    /// The body.
    pub model: Body,
    /// Unembedding, if it is not tied to the embedding.
    pub lm_head: Option<Linear>,
    /// Classes, if the model is a classifier.
    pub score: Option<Linear>,
}

/// Only the decoder.
#[derive(Module, Debug)]
pub struct Body {
    /// All of it.
    pub decoder: Decoder,
}

/// Embeddings, blocks, and a final norm unless norms stand behind.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Tokens, `[vocab, embedding]`.
    pub embed_tokens: Embedding,
    /// Positions, `[2 + context, hidden]`.
    pub embed_positions: Embedding,
    /// From the embedding's width to the stream's, where they differ.
    pub project_in: Option<Linear>,
    /// Back, behind the final norm.
    pub project_out: Option<Linear>,
    /// Blocks.
    pub layers: Vec<Block>,
    /// Final norm.
    pub final_layer_norm: Option<LayerNorm>,
}

/// Attention and MLP beside the residual stream, each behind a norm (or, in the 350m, before one).
#[derive(Module, Debug)]
pub struct Block {
    /// Attention.
    pub self_attn: Attention,
    /// Of attention.
    pub self_attn_layer_norm: LayerNorm,
    /// Up.
    pub fc1: Linear,
    /// Down.
    pub fc2: Linear,
    /// Of the MLP.
    pub final_layer_norm: LayerNorm,
    #[module(skip)]
    norm_first: bool,
    #[module(skip)]
    activation: Activation,
}

/// Self-attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Back to the stream.
    pub out_proj: Linear,
    #[module(skip)]
    shape: AttentionShape,
}

impl Opt {
    pub(crate) fn build(config: &ModelConfig, source: &mut impl Source, device: &Device) -> Result<Self> {
        let ModelConfig { hidden, inner, embedding, norm_eps, initializer_range: std, .. } = *config;
        let mut layers = Vec::with_capacity(config.layers);
        for at in 0..config.layers {
            let mut linear = |name: &str, dims, bias| {
                source.linear(&format!("model.decoder.layers.{at}.{name}"), dims, true, bias, std, device)
            };
            let square = [hidden, hidden];
            let self_attn = Attention {
                q_proj: linear("self_attn.q_proj", square, config.attention_bias)?,
                k_proj: linear("self_attn.k_proj", square, config.attention_bias)?,
                v_proj: linear("self_attn.v_proj", square, config.attention_bias)?,
                out_proj: linear("self_attn.out_proj", square, config.attention_bias)?,
                shape: AttentionShape { heads: config.heads, kv_heads: config.heads, head: config.head },
            };
            let fc1 = linear("fc1", [hidden, inner], config.mlp_bias)?;
            let fc2 = linear("fc2", [inner, hidden], config.mlp_bias)?;
            let mut norm =
                |name| source.layer_norm(&format!("model.decoder.layers.{at}.{name}"), hidden, norm_eps, device);
            layers.push(Block {
                self_attn,
                self_attn_layer_norm: norm("self_attn_layer_norm")?,
                fc1,
                fc2,
                final_layer_norm: norm("final_layer_norm")?,
                norm_first: config.norm_first,
                activation: config.activation,
            });
        }
        let mut project = |name: &str, dims| match embedding == hidden {
            true => Ok(None),
            false => source.linear(&format!("model.decoder.{name}"), dims, true, false, std, device).map(Some),
        };
        let (project_in, project_out) =
            (project("project_in", [embedding, hidden])?, project("project_out", [hidden, embedding])?);
        let positions = [FIRST_POSITION + config.context, hidden];
        let decoder = Decoder {
            embed_tokens: source.embedding(
                "model.decoder.embed_tokens",
                [config.vocab_size, embedding],
                std,
                device,
            )?,
            embed_positions: source.embedding("model.decoder.embed_positions", positions, std, device)?,
            project_in,
            project_out,
            layers,
            final_layer_norm: match config.final_norm {
                true => Some(source.layer_norm("model.decoder.final_layer_norm", hidden, norm_eps, device)?),
                false => None,
            },
        };
        let (lm_head, score) = source.heads(config, device)?;
        Ok(Opt { model: Body { decoder }, lm_head, score })
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.model.decoder.layers.len()
    }

    /// The residual stream before the first block, rows `[batch * seq, hidden]`.
    pub(crate) fn embed(&self, pass: &Pass) -> Tensor<2> {
        let body = &self.model.decoder;
        let [rows, seq] = pass.dims;
        let tokens = body.embed_tokens.forward_padded(pass);
        let tokens = match &body.project_in {
            Some(project) => project.forward(tokens, pass),
            None => tokens,
        };
        match &pass.positions {
            Some(positions) => {
                tokens + body.embed_positions.forward(positions.clone().add_scalar(FIRST_POSITION as i32))
            }
            None => {
                let width = tokens.dims()[1];
                let positions: Tensor<3> = body.embed_positions.range(FIRST_POSITION + pass.start, seq).unsqueeze();
                (tokens.reshape([rows, seq, width]) + positions).reshape([rows * seq, width])
            }
        }
    }

    /// The stream behind block `layer`, from the one before it.
    pub(crate) fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass, cache: Option<&mut KvCache>) -> Tensor<2> {
        self.model.decoder.layers[layer].forward(x, pass, cache.map(|cache| (cache, layer)))
    }

    /// Final norm, and logits over the vocabulary or the classes, of rows.
    pub(crate) fn unembed(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let body = &self.model.decoder;
        let x = match &body.final_layer_norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let x = match &body.project_out {
            Some(project) => project.forward(x, pass),
            None => x,
        };
        match self.lm_head.as_ref().or(self.score.as_ref()) {
            Some(head) => head.forward(x, pass),
            None => body.embed_tokens.unembed(x, pass),
        }
    }

    pub(crate) fn each_linear(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        let Decoder { project_in, project_out, layers, .. } = &mut self.model.decoder;
        for (name, linear) in [("project_in", project_in), ("project_out", project_out)] {
            if let Some(linear) = linear {
                visit(&format!("model.decoder.{name}"), linear);
            }
        }
        for (at, Block { self_attn, fc1, fc2, .. }) in layers.iter_mut().enumerate() {
            let linears = [
                ("self_attn.q_proj", &mut self_attn.q_proj),
                ("self_attn.k_proj", &mut self_attn.k_proj),
                ("self_attn.v_proj", &mut self_attn.v_proj),
                ("self_attn.out_proj", &mut self_attn.out_proj),
                ("fc1", fc1),
                ("fc2", fc2),
            ];
            for (name, linear) in linears {
                visit(&format!("model.decoder.layers.{at}.{name}"), linear);
            }
        }
        for (name, linear) in [("lm_head", &mut self.lm_head), ("score", &mut self.score)] {
            if let Some(linear) = linear {
                visit(name, linear);
            }
        }
    }
}

impl Block {
    fn forward(&self, x: Tensor<2>, pass: &Pass, cache: Option<(&mut KvCache, usize)>) -> Tensor<2> {
        let drop = |x| pass.drop(x, |rates| rates.hidden);
        let mlp = |x| drop(self.fc2.forward(ops::activate(self.fc1.forward(x, pass), self.activation), pass));
        let (first, second) = (&self.self_attn_layer_norm, &self.final_layer_norm);
        if self.norm_first {
            let x = x.clone() + drop(self.self_attn.forward(first.forward(x), pass, cache));
            x.clone() + mlp(second.forward(x))
        } else {
            let x = first.forward(x.clone() + drop(self.self_attn.forward(x, pass, cache)));
            second.forward(x.clone() + mlp(x))
        }
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, pass: &Pass, cache: Option<(&mut KvCache, usize)>) -> Tensor<2> {
        let q = self.q_proj.forward(x.clone(), pass);
        let k = self.k_proj.forward(x.clone(), pass);
        let v = self.v_proj.forward(x, pass);
        // Without padding on the left and without a cache, attention is the plain causal one.
        let whole = pass.rate(|rates| rates.attention) == 0.0;
        let plain = cache.is_none() && pass.positions.is_none() && pass.precision == Precision::F32 && whole;
        if plain && let Some(mixed) = ops::causal_attention_of([&q, &k, &v], pass.dims[1], self.shape.heads) {
            return self.out_proj.forward(mixed, pass);
        }
        self.out_proj.forward(attend([q, k, v], self.shape, pass, None, cache), pass)
    }
}
