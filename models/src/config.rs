//! The shape of a model, read from and written as Hugging Face's `config.json` (the spellings of transformers 4
//! and 5). What the models here don't do is refused, never ignored.

use serde_json::{Map, Value, json};

/// Families of models that can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// GPT-2: learned positions, LayerNorm, `gelu_new`, fused q|k|v.
    Gpt2,
    /// Llama: rotary positions, RMSNorm, SwiGLU, grouped queries.
    Llama,
}

impl Family {
    /// `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
        }
    }
}

/// A config that doesn't parse, or that asks for something the models here don't do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Not a JSON object.
    #[error("config.json is not a JSON object: {0}")]
    NotJson(String),
    /// A `model_type` without a model here.
    #[error("model_type `{0}` is not supported (supported: gpt2, llama)")]
    ModelType(String),
    /// A key that must be there.
    #[error("config.json lacks `{0}`")]
    Missing(&'static str),
    /// A value of the wrong type or out of range.
    #[error("config.json: `{key}` is {value}, expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it says.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A setting that changes the computation in a way that isn't built.
    #[error("config.json: `{key}` = {value} is not supported (supported: {supported})")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What it says.
        value: String,
        /// What is built.
        supported: &'static str,
    },
}

/// The shape of a model and its special tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which computation.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Most tokens that a text may have.
    pub context: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads (GPT-2: `heads`).
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Width inside the MLP.
    pub inner: usize,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Whether the unembedding is the embedding.
    pub tied: bool,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
    /// Base of the rotary angles (Llama).
    pub rope_theta: f64,
    /// Whether attention's linear layers have biases (GPT-2: always).
    pub attention_bias: bool,
    /// Whether the MLP's linear layers have biases (GPT-2: always).
    pub mlp_bias: bool,
    /// First token of a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// Token that fills up batches.
    pub pad: Option<u32>,
}

impl ModelConfig {
    /// A GPT-2 with an MLP four times as wide as its stream.
    pub fn gpt2(vocab_size: usize, context: usize, hidden: usize, layers: usize, heads: usize) -> Self {
        ModelConfig {
            family: Family::Gpt2,
            vocab_size,
            context,
            hidden,
            layers,
            heads,
            kv_heads: heads,
            head: hidden / heads.max(1),
            inner: 4 * hidden,
            norm_eps: 1e-5,
            tied: true,
            initializer_range: 0.02,
            rope_theta: 10_000.0,
            attention_bias: true,
            mlp_bias: true,
            bos: None,
            eos: Vec::new(),
            pad: None,
        }
    }

    /// A Llama with untied embeddings and one key head per query head.
    pub fn llama(vocab_size: usize, context: usize, hidden: usize, layers: usize, heads: usize, inner: usize) -> Self {
        ModelConfig {
            family: Family::Llama,
            inner,
            tied: false,
            attention_bias: false,
            mlp_bias: false,
            ..ModelConfig::gpt2(vocab_size, context, hidden, layers, heads)
        }
    }

    /// Refuses shapes that can't be built.
    pub fn check(&self) -> Result<(), ConfigError> {
        let sizes: [(&'static str, usize); 7] = [
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.context),
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("intermediate_size", self.inner),
        ];
        for (key, size) in sizes {
            if size == 0 || size > i32::MAX as usize {
                return Err(wrong(key, size, "a positive number"));
            }
        }
        if self.head == 0 || self.family == Family::Gpt2 && self.head * self.heads != self.hidden {
            return Err(wrong("num_attention_heads", self.heads, "a divisor of the hidden size"));
        }
        if self.family == Family::Llama && self.head % 2 == 1 {
            return Err(wrong("head_dim", self.head, "an even number, as rotary positions need"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(wrong("num_key_value_heads", self.kv_heads, "a divisor of num_attention_heads"));
        }
        Ok(())
    }

    /// From the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_str(text).map_err(|error| ConfigError::NotJson(error.to_string()))?;
        let Value::Object(map) = value else {
            return Err(ConfigError::NotJson("it holds another JSON value".into()));
        };
        let keys = Keys(&map);
        let config = match keys.text("model_type", "")? {
            "gpt2" => read_gpt2(keys)?,
            "llama" => read_llama(keys)?,
            "" => return Err(ConfigError::Missing("model_type")),
            other => return Err(ConfigError::ModelType(other.to_owned())),
        };
        config.check()?;
        Ok(config)
    }

    /// The text of a `config.json` that transformers 4 and 5 read: sorted keys, two spaces, as they write it.
    pub fn render(&self) -> String {
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let mut value = match self.family {
            Family::Gpt2 => json!({
                "activation_function": "gelu_new",
                "architectures": ["GPT2LMHeadModel"],
                "attn_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "layer_norm_epsilon": self.norm_eps,
                "n_embd": self.hidden,
                "n_head": self.heads,
                "n_inner": if self.inner == 4 * self.hidden { Value::Null } else { json!(self.inner) },
                "n_layer": self.layers,
                "n_positions": self.context,
                "resid_pdrop": 0.0,
            }),
            Family::Llama => json!({
                "architectures": ["LlamaForCausalLM"],
                "attention_bias": self.attention_bias,
                "attention_dropout": 0.0,
                "head_dim": self.head,
                "hidden_act": "silu",
                "hidden_size": self.hidden,
                "intermediate_size": self.inner,
                "max_position_embeddings": self.context,
                "mlp_bias": self.mlp_bias,
                "num_attention_heads": self.heads,
                "num_hidden_layers": self.layers,
                "num_key_value_heads": self.kv_heads,
                "rms_norm_eps": self.norm_eps,
                "rope_parameters": { "rope_theta": self.rope_theta, "rope_type": "default" },
                "rope_theta": self.rope_theta,
            }),
        };
        let shared = [
            ("bos_token_id", json!(self.bos)),
            ("dtype", json!("float32")),
            ("eos_token_id", eos),
            ("initializer_range", json!(self.initializer_range)),
            ("model_type", json!(self.family.name())),
            ("pad_token_id", json!(self.pad)),
            ("tie_word_embeddings", json!(self.tied)),
            ("torch_dtype", json!("float32")),
            ("use_cache", json!(true)),
            ("vocab_size", json!(self.vocab_size)),
        ];
        for (key, shared) in shared {
            value[key] = shared;
        }
        format!("{:#}\n", sorted(value))
    }
}

fn read_gpt2(keys: Keys<'_>) -> Result<ModelConfig, ConfigError> {
    keys.only("activation_function", &[json!("gelu_new"), json!("gelu_pytorch_tanh")], "gelu_new")?;
    keys.only("scale_attn_weights", &[json!(true)], "true")?;
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        keys.only(key, &[json!(false)], "false")?;
    }
    let hidden = keys.size("n_embd", Some(768))?;
    let (layers, heads) = (keys.size("n_layer", Some(12))?, keys.size("n_head", Some(12))?);
    let context = keys.size("n_positions", Some(1024))?;
    let shape = ModelConfig::gpt2(keys.size("vocab_size", Some(50_257))?, context, hidden, layers, heads);
    Ok(ModelConfig {
        inner: keys.size("n_inner", Some(4 * hidden))?,
        norm_eps: keys.number("layer_norm_epsilon", 1e-5)?,
        tied: keys.flag("tie_word_embeddings", true)?,
        ..keys.shared(shape)?
    })
}

fn read_llama(keys: Keys<'_>) -> Result<ModelConfig, ConfigError> {
    keys.only("hidden_act", &[json!("silu"), json!("swish")], "silu")?;
    let heads = keys.size("num_attention_heads", None)?;
    let hidden = keys.size("hidden_size", None)?;
    let shape = ModelConfig::llama(
        keys.size("vocab_size", None)?,
        keys.size("max_position_embeddings", Some(2048))?,
        hidden,
        keys.size("num_hidden_layers", None)?,
        heads,
        keys.size("intermediate_size", None)?,
    );
    Ok(ModelConfig {
        kv_heads: keys.size("num_key_value_heads", Some(heads))?,
        head: keys.size("head_dim", Some(hidden / heads.max(1)))?,
        norm_eps: keys.number("rms_norm_eps", 1e-6)?,
        tied: keys.flag("tie_word_embeddings", false)?,
        attention_bias: keys.flag("attention_bias", false)?,
        mlp_bias: keys.flag("mlp_bias", false)?,
        rope_theta: rope_theta(keys)?,
        ..keys.shared(shape)?
    })
}

/// transformers 5: `rope_parameters`; 4: `rope_theta` and `rope_scaling` (whose `type` is an older `rope_type`).
fn rope_theta(keys: Keys<'_>) -> Result<f64, ConfigError> {
    let mut theta = keys.number("rope_theta", 10_000.0)?;
    for key in ["rope_parameters", "rope_scaling"] {
        match keys.0.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                let kind = map.get("rope_type").or_else(|| map.get("type")).cloned().unwrap_or(json!("default"));
                if kind != json!("default") {
                    return Err(unsupported(key, &kind, "rope_type default"));
                }
                if map.get("partial_rotary_factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) {
                    return Err(unsupported(key, &map["partial_rotary_factor"], "partial_rotary_factor 1.0"));
                }
                theta = Keys(map).number("rope_theta", theta)?;
            }
            Some(other) => return Err(wrong(key, other, "an object")),
        }
    }
    Ok(theta)
}

/// Typed look-ups in the object.
#[derive(Clone, Copy)]
struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn size(self, key: &'static str, default: Option<usize>) -> Result<usize, ConfigError> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(ConfigError::Missing(key)),
            (Some(value), _) => {
                let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
                size.ok_or_else(|| wrong(key, value, "a positive number"))
            }
        }
    }

    fn number(self, key: &'static str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|number| *number > 0.0).ok_or_else(|| wrong(key, value, "a positive number"))
    }

    fn flag(self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| wrong(key, value, "true or false"))
    }

    fn text(self, key: &'static str, default: &'a str) -> Result<&'a str, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| wrong(key, value, "a string"))
    }

    fn token(self, key: &'static str, value: &Value) -> Result<u32, ConfigError> {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(key, value, "a token id"))
    }

    /// One id or a list of them. Old configs say -1 for "none".
    fn tokens(self, key: &'static str) -> Result<Vec<u32>, ConfigError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(value) if value.as_i64() == Some(-1) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(|id| self.token(key, id)).collect(),
            Some(value) => Ok(vec![self.token(key, value)?]),
        }
    }

    fn only(self, key: &'static str, allowed: &[Value], supported: &'static str) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(value) if !allowed.contains(value) => Err(unsupported(key, value, supported)),
            _ => Ok(()),
        }
    }

    fn shared(self, shape: ModelConfig) -> Result<ModelConfig, ConfigError> {
        Ok(ModelConfig {
            initializer_range: self.number("initializer_range", 0.02)?,
            bos: self.tokens("bos_token_id")?.first().copied(),
            eos: self.tokens("eos_token_id")?,
            pad: self.tokens("pad_token_id")?.first().copied(),
            ..shape
        })
    }
}

/// End-of-text ids of a `generation_config.json` or `config.json`.
pub(crate) fn eos_ids(text: &str) -> Result<Vec<u32>, ConfigError> {
    let map: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ConfigError::NotJson(error.to_string()))?;
    Keys(&map).tokens("eos_token_id")
}

fn wrong(key: &'static str, value: impl ToString, expected: &'static str) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), expected }
}

fn unsupported(key: &'static str, value: &Value, supported: &'static str) -> ConfigError {
    ConfigError::Unsupported { key, value: value.to_string(), supported }
}

/// Sorted whatever features serde_json was built with, since these bytes are hashed.
fn sorted(value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    let ordered: std::collections::BTreeMap<String, Value> = map.into_iter().collect();
    Value::Object(ordered.into_iter().map(|(key, value)| (key, sorted(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        ModelConfig::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut gpt2 = ModelConfig::gpt2(100, 32, 12, 2, 3);
        gpt2.eos = vec![99];
        let mut llama = ModelConfig::llama(100, 32, 12, 2, 6, 20);
        (llama.kv_heads, llama.rope_theta, llama.eos) = (3, 50_000.0, vec![1, 2]);
        for config in [gpt2, llama] {
            assert_eq!(ModelConfig::parse(&config.render()).unwrap(), config);
        }
    }

    #[test]
    fn refusals_name_the_key() {
        assert_eq!(message("[]"), "config.json is not a JSON object: it holds another JSON value");
        assert_eq!(message("{}"), "config.json lacks `model_type`");
        assert_eq!(
            message(r#"{"model_type": "mamba"}"#),
            "model_type `mamba` is not supported (supported: gpt2, llama)"
        );
        assert_eq!(
            message(r#"{"model_type": "gpt2", "activation_function": "relu"}"#),
            "config.json: `activation_function` = \"relu\" is not supported (supported: gelu_new)"
        );
        assert_eq!(
            message(r#"{"model_type": "gpt2", "n_head": 7}"#),
            "config.json: `num_attention_heads` is 7, expected a divisor of the hidden size"
        );
        let mut llama = serde_json::to_value(json!({
            "model_type": "llama", "vocab_size": 8, "hidden_size": 6, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 4
        }))
        .unwrap();
        assert_eq!(
            message(&llama.to_string()),
            "config.json: `head_dim` is 3, expected an even number, as rotary positions need"
        );
        llama["rope_scaling"] = json!({ "type": "linear", "factor": 2.0 });
        assert_eq!(
            message(&llama.to_string()),
            "config.json: `rope_scaling` = \"linear\" is not supported (supported: rope_type default)"
        );
    }
}
