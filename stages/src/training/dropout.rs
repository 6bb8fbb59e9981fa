//! The param `model_dropout`.

use std::{borrow::Cow, fmt};

use palinode_engine::stage::ParamProblem;
use palinode_models::DropoutRates;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much of a model's activations is dropped while it learns.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum ModelDropout {
    /// Nothing.
    #[default]
    None,
    /// What the model's config says.
    Config,
    /// This rate, wherever the family drops something.
    Rate(f64),
}

impl ModelDropout {
    /// The rates, where `config` are the model's and `of` makes them of one.
    pub(crate) fn rates(self, config: DropoutRates, of: impl FnOnce(f64) -> DropoutRates) -> DropoutRates {
        match self {
            ModelDropout::None => DropoutRates::default(),
            ModelDropout::Config => config,
            ModelDropout::Rate(rate) => of(rate),
        }
    }

    pub(crate) fn problem(self) -> Option<ParamProblem> {
        match self {
            ModelDropout::Rate(rate) if !(0.0..1.0).contains(&rate) => {
                Some(ParamProblem::new("model_dropout", format!("{rate} is not a probability below 1")))
            }
            _ => None,
        }
    }
}

impl Serialize for ModelDropout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ModelDropout::None => serializer.serialize_str("none"),
            ModelDropout::Config => serializer.serialize_str("config"),
            ModelDropout::Rate(rate) => serializer.serialize_f64(*rate),
        }
    }
}

// By hand: an untagged enum can't say what it expected.
impl<'de> Deserialize<'de> for ModelDropout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ModelDropout;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `config` or a probability (0.1)")
            }
            fn visit_f64<E>(self, rate: f64) -> Result<ModelDropout, E> {
                Ok(if rate == 0.0 { ModelDropout::None } else { ModelDropout::Rate(rate) })
            }
            fn visit_u64<E: serde::de::Error>(self, rate: u64) -> Result<ModelDropout, E> {
                self.visit_f64(rate as f64)
            }
            fn visit_i64<E: serde::de::Error>(self, rate: i64) -> Result<ModelDropout, E> {
                self.visit_f64(rate as f64)
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<ModelDropout, E> {
                match value {
                    "none" => Ok(ModelDropout::None),
                    "config" => Ok(ModelDropout::Config),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ModelDropout {
    fn schema_name() -> Cow<'static, str> {
        "ModelDropout".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "enum": ["none", "config"] }, { "type": "number", "minimum": 0, "exclusiveMaximum": 1 }],
        })
    }
}
