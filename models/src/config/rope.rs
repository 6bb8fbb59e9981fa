//! Rotary positions in `config.json`. transformers 5 says `rope_parameters`; 4 says `rope_theta` and `rope_scaling`
//! (whose `type` is an older `rope_type`).

use serde_json::{Map, Value, json};

use super::{ConfigError, keys::Keys, keys::unsupported, keys::wrong};

/// How rotary angles are changed for contexts beyond the first training's (`modeling_rope_utils.py`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All angles are divided by `factor` (arXiv 2306.15595).
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1: angles that turn slowly are divided by `factor`, fast ones are kept, in between it is a blend.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Angles with wavelengths above `original_context / low_frequency` are slow.
        low_frequency: f64,
        /// Angles with wavelengths below `original_context / high_frequency` are fast.
        high_frequency: f64,
        /// Context of the first training.
        original_context: f64,
    },
}

/// Base and scaling.
pub(super) fn read(keys: Keys<'_>) -> Result<(f64, RopeScaling), ConfigError> {
    let mut theta = keys.number("rope_theta", 10_000.0)?;
    let mut scaling = RopeScaling::Default;
    for key in ["rope_parameters", "rope_scaling"] {
        match keys.0.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                scaling = read_scaling(key, map)?;
                theta = Keys(map).number("rope_theta", theta)?;
            }
            Some(other) => return Err(wrong(key, other, "an object")),
        }
    }
    Ok((theta, scaling))
}

fn read_scaling(key: &'static str, map: &Map<String, Value>) -> Result<RopeScaling, ConfigError> {
    if map.get("partial_rotary_factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) {
        return Err(unsupported(key, &map["partial_rotary_factor"], "partial_rotary_factor 1.0"));
    }
    let keys = Keys(map);
    let needed = |name: &'static str| match map.contains_key(name) {
        true => keys.number(name, 1.0),
        false => Err(ConfigError::Missing(name)),
    };
    let factor = || {
        let factor = needed("factor")?;
        if factor < 1.0 { Err(wrong("factor", factor, "a number from 1 on")) } else { Ok(factor) }
    };
    let kind = map.get("rope_type").or_else(|| map.get("type")).cloned().unwrap_or(json!("default"));
    match kind.as_str() {
        Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("llama3") => {
            let (low_frequency, high_frequency) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
            if high_frequency <= low_frequency {
                return Err(wrong("high_freq_factor", high_frequency, "a number above low_freq_factor"));
            }
            let original_context = keys.size("original_max_position_embeddings", None)? as f64;
            Ok(RopeScaling::Llama3 { factor: factor()?, low_frequency, high_frequency, original_context })
        }
        _ => Err(unsupported(key, &kind, "rope_type default, linear or llama3")),
    }
}

/// As transformers 5 writes it.
pub(super) fn render(theta: f64, scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::Default => json!({ "rope_theta": theta, "rope_type": "default" }),
        RopeScaling::Linear { factor } => json!({ "factor": factor, "rope_theta": theta, "rope_type": "linear" }),
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => json!({
            "factor": factor,
            "high_freq_factor": high_frequency,
            "low_freq_factor": low_frequency,
            "original_max_position_embeddings": original_context as u64,
            "rope_theta": theta,
            "rope_type": "llama3",
        }),
    }
}
