//! Typed look-ups in `config.json`, with errors that name the key.

use serde_json::{Map, Value};

use super::{Activation, ConfigError, DropoutRates, ModelConfig, labels};

/// Typed look-ups in the object.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Keys<'a> {
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn size(self, key: &'static str, default: Option<usize>) -> Result<usize, ConfigError> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(ConfigError::Missing(key)),
            (Some(value), _) => {
                let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
                size.ok_or_else(|| wrong(key, value, "a positive number"))
            }
        }
    }

    pub(super) fn number(self, key: &'static str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|number| *number > 0.0).ok_or_else(|| wrong(key, value, "a positive number"))
    }

    pub(super) fn rate(self, key: &'static str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value
            .as_f64()
            .filter(|rate| (0.0..1.0).contains(rate))
            .ok_or_else(|| wrong(key, value, "a probability below 1"))
    }

    pub(super) fn flag(self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| wrong(key, value, "true or false"))
    }

    pub(super) fn text(self, key: &'static str, default: &'a str) -> Result<&'a str, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| wrong(key, value, "a string"))
    }

    pub(super) fn token(self, key: &'static str, value: &Value) -> Result<u32, ConfigError> {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(key, value, "a token id"))
    }

    /// One id or a list of them. Old configs say -1 for "none".
    pub(super) fn tokens(self, key: &'static str) -> Result<Vec<u32>, ConfigError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(value) if value.as_i64() == Some(-1) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(|id| self.token(key, id)).collect(),
            Some(value) => Ok(vec![self.token(key, value)?]),
        }
    }

    pub(super) fn only(self, key: &'static str, allowed: &[Value], supported: &'static str) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(value) if !allowed.contains(value) => Err(unsupported(key, value, supported)),
            _ => Ok(()),
        }
    }

    /// One of the functions that are built.
    pub(super) fn activation(self, key: &'static str, default: Activation) -> Result<Activation, ConfigError> {
        Ok(match self.text(key, default.name())? {
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluNew,
            "gelu" => Activation::Gelu,
            "relu" => Activation::Relu,
            other => return Err(unsupported(key, &Value::from(other), "gelu_new, gelu, relu")),
        })
    }

    /// An id that a family has a default for, which a `null` takes away.
    pub(super) fn token_or(self, key: &'static str, default: u32) -> Result<Option<u32>, ConfigError> {
        match self.0.contains_key(key) {
            true => Ok(self.tokens(key)?.first().copied()),
            false => Ok(Some(default)),
        }
    }

    /// What all families spell alike.
    pub(super) fn shared(self, shape: ModelConfig) -> Result<ModelConfig, ConfigError> {
        Ok(ModelConfig {
            initializer_range: self.number("initializer_range", 0.02)?,
            bos: self.tokens("bos_token_id")?.first().copied(),
            eos: self.tokens("eos_token_id")?,
            pad: self.tokens("pad_token_id")?.first().copied(),
            labels: labels::read(self)?,
            dropout: DropoutRates::read(self, shape.family)?,
            ..shape
        })
    }
}

pub(super) fn wrong(key: &'static str, value: impl ToString, expected: &'static str) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), expected }
}

pub(super) fn unsupported(key: &'static str, value: &Value, supported: &'static str) -> ConfigError {
    ConfigError::Unsupported { key, value: value.to_string(), supported }
}
