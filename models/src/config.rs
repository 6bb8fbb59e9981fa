//! The shape of a model, read from and written as Hugging Face's `config.json` (the spellings of transformers 4
//! and 5). What the models here don't do is refused, never ignored.

mod bert;
mod dropout;
mod keys;
mod labels;
mod opt;
mod rope;

use serde_json::{Value, json};

pub use dropout::DropoutRates;
use keys::{Keys, wrong};
pub use rope::RopeScaling;

/// Families of models that can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// GPT-2: learned positions, LayerNorm, `gelu_new`, fused q|k|v.
    Gpt2,
    /// OPT: learned positions from 2 on, LayerNorm before or behind, ReLU, embeddings that may be narrower.
    Opt,
    /// Llama: rotary positions, RMSNorm, SwiGLU, grouped queries.
    Llama,
    /// BERT: an encoder with learned positions, token types, LayerNorm behind, GELU.
    Bert,
}

impl Family {
    /// `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Opt => "opt",
            Family::Llama => "llama",
            Family::Bert => "bert",
        }
    }

    /// How the names of its classes in transformers begin.
    fn class(self) -> &'static str {
        match self {
            Family::Gpt2 => "GPT2",
            Family::Opt => "OPT",
            Family::Llama => "Llama",
            Family::Bert => "Bert",
        }
    }
}

/// What stands between the two linear layers of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by tanh.
    GeluNew,
    /// GELU by erf.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `silu(gate) * up`.
    SwiGlu,
}

impl Activation {
    /// As `config.json` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Activation::GeluNew => "gelu_new",
            Activation::Gelu => "gelu",
            Activation::Relu => "relu",
            Activation::SwiGlu => "silu",
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
    #[error("model_type `{0}` is not supported (supported: gpt2, opt, llama, bert)")]
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
    /// Width of the embedding and the unembedding, where it isn't `hidden` (some OPT).
    pub embedding: usize,
    /// Inside the MLP.
    pub activation: Activation,
    /// Whether norms stand before attention and MLP, not behind (only OPT has both).
    pub norm_first: bool,
    /// Whether there is a norm behind the last block.
    pub final_norm: bool,
    /// Rows of the table of token types (BERT; else 0).
    pub token_types: usize,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Whether the unembedding is the embedding.
    pub tied: bool,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
    /// Base of the rotary angles (Llama).
    pub rope_theta: f64,
    /// How the rotary angles are changed for contexts beyond the first training's (Llama).
    pub rope_scaling: RopeScaling,
    /// Whether attention's linear layers have biases (GPT-2, BERT: always).
    pub attention_bias: bool,
    /// Whether the MLP's linear layers have biases (GPT-2, BERT: always).
    pub mlp_bias: bool,
    /// Names of the classes, by number; empty unless the model is a sequence classifier.
    pub labels: Vec<String>,
    /// What is dropped in training, where training asks for it.
    pub dropout: DropoutRates,
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
            inner: hidden.saturating_mul(4),
            embedding: hidden,
            activation: Activation::GeluNew,
            norm_first: true,
            final_norm: true,
            token_types: 0,
            norm_eps: 1e-5,
            tied: true,
            initializer_range: 0.02,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            attention_bias: true,
            mlp_bias: true,
            labels: Vec::new(),
            dropout: DropoutRates::default(),
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
            activation: Activation::SwiGlu,
            tied: false,
            attention_bias: false,
            mlp_bias: false,
            ..ModelConfig::gpt2(vocab_size, context, hidden, layers, heads)
        }
    }

    /// An OPT with norms before, embeddings as wide as the stream, and ReLU.
    pub fn opt(vocab_size: usize, context: usize, hidden: usize, layers: usize, heads: usize, inner: usize) -> Self {
        ModelConfig {
            family: Family::Opt,
            inner,
            activation: Activation::Relu,
            pad: Some(opt::PAD),
            ..ModelConfig::gpt2(vocab_size, context, hidden, layers, heads)
        }
    }

    /// A BERT with two token types.
    pub fn bert(vocab_size: usize, context: usize, hidden: usize, layers: usize, heads: usize, inner: usize) -> Self {
        ModelConfig {
            family: Family::Bert,
            inner,
            activation: Activation::Gelu,
            norm_first: false,
            final_norm: false,
            token_types: 2,
            norm_eps: 1e-12,
            pad: Some(0),
            ..ModelConfig::gpt2(vocab_size, context, hidden, layers, heads)
        }
    }

    /// Refuses shapes that can't be built.
    pub fn check(&self) -> Result<(), ConfigError> {
        let sizes: [(&'static str, usize); 8] = [
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.context),
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("intermediate_size", self.inner),
            ("word_embed_proj_dim", self.embedding),
        ];
        for (key, size) in sizes {
            if size == 0 || size > i32::MAX as usize {
                return Err(wrong(key, size, "a positive number below 2^31"));
            }
        }
        // Where Llama has heads of another width, transformers asks for this all the same.
        let divides = self.hidden.is_multiple_of(self.heads);
        if self.head == 0 || !divides || self.family != Family::Llama && self.head * self.heads != self.hidden {
            return Err(wrong("num_attention_heads", self.heads, "a divisor of the hidden size"));
        }
        if self.family != Family::Opt && self.embedding != self.hidden {
            return Err(wrong("word_embed_proj_dim", self.embedding, "the hidden size, but for OPT"));
        }
        if self.family == Family::Bert && self.token_types == 0 {
            return Err(wrong("type_vocab_size", self.token_types, "a positive number"));
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
            "opt" => opt::read(keys)?,
            "llama" => read_llama(keys)?,
            "bert" => bert::read(keys)?,
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
                "activation_function": self.activation.name(),
                "layer_norm_epsilon": self.norm_eps,
                "n_embd": self.hidden,
                "n_head": self.heads,
                "n_inner": if self.inner == 4 * self.hidden { Value::Null } else { json!(self.inner) },
                "n_layer": self.layers,
                "n_positions": self.context,
            }),
            Family::Opt => opt::render(self),
            Family::Bert => bert::render(self),
            Family::Llama => json!({
                "attention_bias": self.attention_bias,
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
                "rope_parameters": rope::render(self.rope_theta, self.rope_scaling),
                "rope_theta": self.rope_theta,
            }),
        };
        let shared = [
            ("architectures", json!([self.architecture()])),
            ("bos_token_id", json!(self.bos)),
            ("dtype", json!("float32")),
            ("eos_token_id", eos),
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
        // OPT has a name of its own for it.
        let range = if self.family == Family::Opt { "init_std" } else { "initializer_range" };
        value[range] = json!(self.initializer_range);
        if self.rope_scaling != RopeScaling::Default {
            value["rope_scaling"] = value["rope_parameters"].clone();
        }
        labels::render(&self.labels, &mut value);
        DropoutRates::render(self, &mut value);
        format!("{:#}\n", sorted(value))
    }

    /// The name of its class in transformers.
    pub fn architecture(&self) -> String {
        let task = match self.family {
            _ if !self.labels.is_empty() => "ForSequenceClassification",
            Family::Gpt2 => "LMHeadModel",
            Family::Bert => "ForMaskedLM",
            Family::Opt | Family::Llama => "ForCausalLM",
        };
        format!("{}{task}", self.family.class())
    }
}

fn read_gpt2(keys: Keys<'_>) -> Result<ModelConfig, ConfigError> {
    keys.only("scale_attn_weights", &[json!(true)], "true")?;
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        keys.only(key, &[json!(false)], "false")?;
    }
    let hidden = keys.size("n_embd", Some(768))?;
    let (layers, heads) = (keys.size("n_layer", Some(12))?, keys.size("n_head", Some(12))?);
    let context = keys.size("n_positions", Some(1024))?;
    let shape = ModelConfig::gpt2(keys.size("vocab_size", Some(50_257))?, context, hidden, layers, heads);
    Ok(ModelConfig {
        inner: keys.size("n_inner", Some(hidden.saturating_mul(4)))?,
        activation: keys.activation("activation_function", Activation::GeluNew)?,
        norm_eps: keys.number("layer_norm_epsilon", 1e-5)?,
        tied: keys.flag("tie_word_embeddings", true)?,
        ..keys.shared(shape)?
    })
}

fn read_llama(keys: Keys<'_>) -> Result<ModelConfig, ConfigError> {
    keys.only("hidden_act", &[json!("silu"), json!("swish")], "silu")?;
    let heads = keys.size("num_attention_heads", None)?;
    let hidden = keys.size("hidden_size", None)?;
    let (rope_theta, rope_scaling) = rope::read(keys)?;
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
        rope_theta,
        rope_scaling,
        ..keys.shared(shape)?
    })
}

/// End-of-text ids of a `generation_config.json` or `config.json`.
pub(crate) fn eos_ids(text: &str) -> Result<Vec<u32>, ConfigError> {
    let map: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ConfigError::NotJson(error.to_string()))?;
    Keys(&map).tokens("eos_token_id")
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
        let linear = ModelConfig { rope_scaling: RopeScaling::Linear { factor: 2.0 }, ..llama.clone() };
        let (factor, low_frequency, high_frequency, original_context) = (8.0, 1.0, 4.0, 16.0);
        let rope_scaling = RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context };
        let long = ModelConfig { rope_scaling, ..llama.clone() };
        let mut opt = ModelConfig::opt(100, 32, 12, 2, 3, 20);
        (opt.embedding, opt.norm_first, opt.final_norm, opt.pad) = (8, false, false, None);
        opt.labels = vec!["yes".into(), "no".into(), "perhaps".into()];
        let mut bert = ModelConfig::bert(100, 32, 12, 2, 3, 20);
        (bert.token_types, bert.activation) = (3, Activation::Relu);
        for config in [gpt2, llama, linear, long, opt, bert] {
            assert_eq!(ModelConfig::parse(&config.render()).unwrap(), config);
        }
    }

    #[test]
    fn refusals_name_the_key() {
        assert_eq!(message("[]"), "config.json is not a JSON object: it holds another JSON value");
        assert_eq!(message("{}"), "config.json lacks `model_type`");
        assert_eq!(
            message(r#"{"model_type": "mamba"}"#),
            "model_type `mamba` is not supported (supported: gpt2, opt, llama, bert)"
        );
        assert_eq!(
            message(r#"{"model_type": "gpt2", "activation_function": "silu"}"#),
            "config.json: `activation_function` = \"silu\" is not supported (supported: gelu_new, gelu, relu)"
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
        llama["num_attention_heads"] = json!(4);
        assert_eq!(
            message(&llama.to_string()),
            "config.json: `num_attention_heads` is 4, expected a divisor of the hidden size"
        );
        llama["num_attention_heads"] = json!(2);
        llama["head_dim"] = json!(4);
        llama["rope_scaling"] = json!({ "type": "yarn", "factor": 2.0 });
        assert_eq!(
            message(&llama.to_string()),
            "config.json: `rope_scaling` = \"yarn\" is not supported (supported: rope_type default, linear or llama3)"
        );
        llama["rope_scaling"] = json!({ "rope_type": "llama3", "factor": 8.0 });
        assert_eq!(message(&llama.to_string()), "config.json lacks `low_freq_factor`");
        llama["rope_scaling"] = json!({ "type": "linear", "factor": 0.5 });
        assert_eq!(message(&llama.to_string()), "config.json: `factor` is 0.5, expected a number from 1 on");
        assert_eq!(
            message(r#"{"model_type": "opt", "layer_norm_elementwise_affine": false}"#),
            "config.json: `layer_norm_elementwise_affine` = false is not supported (supported: true)"
        );
        assert_eq!(
            message(r#"{"model_type": "bert", "position_embedding_type": "relative_key"}"#),
            "config.json: `position_embedding_type` = \"relative_key\" is not supported (supported: absolute)"
        );
        assert_eq!(
            message(r#"{"model_type": "bert", "hidden_size": 1152921504606846976}"#),
            "config.json: `hidden_size` is 1152921504606846976, expected a positive number below 2^31"
        );
    }

    #[test]
    fn classes_are_those_of_a_classifier() {
        let labels = |text: &str| ModelConfig::parse(text).unwrap().labels;
        let classifier = r#""model_type": "bert", "architectures": ["BertForSequenceClassification"]"#;
        assert_eq!(labels(&format!("{{{classifier}}}")), ["LABEL_0", "LABEL_1"], "what transformers leaves out");
        assert_eq!(labels(&format!(r#"{{{classifier}, "num_labels": 3}}"#)).len(), 3);
        let named = format!(r#"{{{classifier}, "id2label": {{"1": "toxic", "0": "clean"}}}}"#);
        assert_eq!(labels(&named), ["clean", "toxic"]);
        assert_eq!(
            labels(r#"{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "id2label": {"0": "LABEL_0"}}"#),
            [""; 0]
        );
        assert_eq!(labels(r#"{"model_type": "gpt2", "num_labels": 4}"#).len(), 4);
        assert_eq!(
            message(&format!(r#"{{{classifier}, "num_labels": 3, "id2label": {{"0": "a", "1": "b"}}}}"#)),
            "config.json: `num_labels` is 3, expected the number of names in id2label"
        );
        assert_eq!(
            message(&format!(r#"{{{classifier}, "id2label": {{"1": "a", "2": "b"}}}}"#)),
            "config.json: `id2label` is {\"1\":\"a\",\"2\":\"b\"}, expected names for the numbers from 0 on"
        );
        assert_eq!(
            message(&format!(r#"{{{classifier}, "problem_type": "regression"}}"#)),
            "config.json: `problem_type` = \"regression\" is not supported (supported: single_label_classification)"
        );
    }
}
