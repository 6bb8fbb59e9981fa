//! OPT's part of `config.json` (`configuration_opt.py`).

use serde_json::{Value, json};

use super::{Activation, ConfigError, ModelConfig, keys::Keys};

/// `pad_token_id`, if the file doesn't say: also what a classifier skips.
pub(super) const PAD: u32 = 1;
/// `bos_token_id` and `eos_token_id`, if the file doesn't say.
const END: u32 = 2;

pub(super) fn read(keys: Keys<'_>) -> Result<ModelConfig, ConfigError> {
    keys.only("layer_norm_elementwise_affine", &[json!(true)], "true")?;
    let hidden = keys.size("hidden_size", Some(768))?;
    let shape = ModelConfig::opt(
        keys.size("vocab_size", Some(50_272))?,
        keys.size("max_position_embeddings", Some(2048))?,
        hidden,
        keys.size("num_hidden_layers", Some(12))?,
        keys.size("num_attention_heads", Some(12))?,
        keys.size("ffn_dim", Some(3072))?,
    );
    let norm_first = keys.flag("do_layer_norm_before", true)?;
    let bias = keys.flag("enable_bias", true)?;
    let eos = if keys.0.contains_key("eos_token_id") { keys.tokens("eos_token_id")? } else { vec![END] };
    Ok(ModelConfig {
        embedding: keys.size("word_embed_proj_dim", Some(hidden))?,
        activation: keys.activation("activation_function", Activation::Relu)?,
        norm_first,
        final_norm: norm_first && !keys.flag("_remove_final_layer_norm", false)?,
        tied: keys.flag("tie_word_embeddings", true)?,
        initializer_range: keys.number("init_std", 0.02)?,
        attention_bias: bias,
        mlp_bias: bias,
        bos: keys.token_or("bos_token_id", END)?,
        eos,
        pad: keys.token_or("pad_token_id", PAD)?,
        ..keys.shared(shape)?
    })
}

pub(super) fn render(config: &ModelConfig) -> Value {
    json!({
        "_remove_final_layer_norm": config.norm_first && !config.final_norm,
        "activation_function": config.activation.name(),
        "do_layer_norm_before": config.norm_first,
        "enable_bias": config.attention_bias,
        "ffn_dim": config.inner,
        "hidden_size": config.hidden,
        "layer_norm_elementwise_affine": true,
        "layerdrop": 0.0,
        "max_position_embeddings": config.context,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "word_embed_proj_dim": config.embedding,
    })
}
