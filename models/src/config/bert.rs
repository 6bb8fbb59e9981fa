//! BERT's part of `config.json` (`configuration_bert.py`).

use serde_json::{Value, json};

use super::{Activation, ConfigError, ModelConfig, keys::Keys};

/// `pad_token_id`, if the file doesn't say.
const PAD: u32 = 0;

pub(super) fn read(keys: Keys<'_>) -> Result<ModelConfig, ConfigError> {
    keys.only("position_embedding_type", &[json!("absolute")], "absolute")?;
    for key in ["is_decoder", "add_cross_attention"] {
        keys.only(key, &[json!(false)], "false")?;
    }
    let shape = ModelConfig::bert(
        keys.size("vocab_size", Some(30_522))?,
        keys.size("max_position_embeddings", Some(512))?,
        keys.size("hidden_size", Some(768))?,
        keys.size("num_hidden_layers", Some(12))?,
        keys.size("num_attention_heads", Some(12))?,
        keys.size("intermediate_size", Some(3072))?,
    );
    Ok(ModelConfig {
        activation: keys.activation("hidden_act", Activation::Gelu)?,
        token_types: keys.size("type_vocab_size", Some(2))?,
        norm_eps: keys.number("layer_norm_eps", 1e-12)?,
        tied: keys.flag("tie_word_embeddings", true)?,
        pad: keys.token_or("pad_token_id", PAD)?,
        ..keys.shared(shape)?
    })
}

pub(super) fn render(config: &ModelConfig) -> Value {
    json!({
        "hidden_act": config.activation.name(),
        "hidden_size": config.hidden,
        "intermediate_size": config.inner,
        "is_decoder": false,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.context,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "position_embedding_type": "absolute",
        "type_vocab_size": config.token_types,
    })
}
