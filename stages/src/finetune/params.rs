//! `with` of `finetune`.

use std::fmt;

use palinode_models::{
    DropoutRates, Family, ModelConfig,
    lora::{self, LoraConfig, LoraInit},
    train::{Decay, Length, TrainConfig, Trained},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    device::DeviceParam,
    training::{self, Adam, Evaluate, ModelDropout, Precision, Schedule},
};

/// `with` of `finetune`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The rank of the adapters, or `full`: all weights learn, without adapters.
    pub(crate) rank: Rank,
    /// With `rank: full`, which weights learn: `all`, or only those that adapters would change (`lora`), a control that
    /// differs from low rank in nothing but the rank.
    #[serde(default)]
    pub(crate) targets: Targets,
    /// Where adapters go and how they begin. `paper-text`: every linear layer, A normal, alpha = rank.
    /// `peft-default`: what PEFT does unasked, attention's projections only, A uniform, alpha = 8.
    #[serde(default)]
    pub(crate) preset: Preset,
    /// Linear layers to adapt by name (`c_attn`, `q_proj`), instead of the preset's.
    #[serde(default)]
    pub(crate) modules: Option<Vec<String>>,
    /// Scales the adapters' output, as `scaling` says; instead of the preset's.
    #[serde(default)]
    pub(crate) alpha: Option<f64>,
    /// What the adapters' output is scaled by: `alpha/r` (LoRA), `fixed` (alpha, whatever the rank; 1 without an `alpha`),
    /// or `rslora` (alpha over the square root of the rank). At one learning rate this decides how the step size goes
    /// with the rank.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) scaling: Scaling,
    /// Standard deviation of A's first values, instead of the preset's.
    #[serde(default)]
    pub(crate) init_std: Option<f64>,
    /// Probability with which an input of an adapter is dropped while training.
    #[serde(default)]
    pub(crate) dropout: f64,
    /// Highest learning rate.
    #[serde(default = "learning_rate")]
    pub(crate) learning_rate: f64,
    /// Optimizer steps. By default as many as one epoch takes.
    #[serde(default)]
    pub(crate) steps: Option<usize>,
    /// Passes over the pairs, in place of `steps`.
    #[serde(default)]
    pub(crate) epochs: Option<usize>,
    /// Pairs that go through the model at once.
    #[serde(default = "training::batch_size")]
    pub(crate) batch_size: usize,
    /// Batches in an optimizer step.
    #[serde(default = "one")]
    pub(crate) accumulation: usize,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub(crate) warmup: usize,
    /// The learning rate after warm-up.
    #[serde(default)]
    pub(crate) schedule: Schedule,
    /// Decoupled weight decay of matrices.
    #[serde(default)]
    pub(crate) weight_decay: f64,
    /// The optimizer's other numbers.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) adamw: Adam,
    /// Gradients longer than this are scaled down to it.
    #[serde(default = "training::clip")]
    pub(crate) clip: f64,
    /// Let each completion end with the model's end-of-text token.
    #[serde(default = "yes")]
    pub(crate) end_of_text: bool,
    /// How much of the model's activations is dropped while it learns: `none`, `config` (what its config says), or a rate
    /// in place of the config's.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) model_dropout: ModelDropout,
    /// Evaluate while training, on examples that are not learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) evaluate: Option<Evaluate>,
    /// Let several pairs share a row of at most so many tokens, kept apart by attention masks: less padding where their
    /// lengths differ much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) packing: Option<usize>,
    /// What matrix products are computed in.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) precision: Precision,
    /// Keep only what goes into each block, and compute the rest again when it is needed: less memory for a third more
    /// time, and the same result.
    #[serde(default)]
    pub(crate) recompute: bool,
    /// Also write the curve as an event file for TensorBoard.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) tensorboard: bool,
    /// Minutes between checkpoints, from which a run that was broken off goes on; 0: after each step.
    #[serde(default = "training::checkpoint_minutes")]
    pub(crate) checkpoint_minutes: f64,
    /// Seeds the adapters' first values, dropout, and the order of the pairs.
    #[serde(default)]
    pub(crate) seed: u64,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    #[serde(default)]
    pub(crate) device: DeviceParam,
}

/// How much of a change can be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    Low(usize),
    Full,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Targets {
    #[default]
    All,
    Lora,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Scaling {
    #[default]
    #[serde(rename = "alpha/r")]
    OverRank,
    #[serde(rename = "fixed")]
    Fixed,
    #[serde(rename = "rslora")]
    RsLora,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Preset {
    #[default]
    PaperText,
    PeftDefault,
}

fn learning_rate() -> f64 {
    5e-5
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Preset {
    pub(crate) fn config(self, family: Family, rank: usize) -> LoraConfig {
        match self {
            Preset::PaperText => LoraConfig::paper_text(rank),
            Preset::PeftDefault => LoraConfig::peft_default(family, rank),
        }
    }
}

impl Params {
    pub(super) fn lora(&self, family: Family) -> LoraConfig {
        // Full finetuning asks only where adapters would go.
        let rank = if let Rank::Low(rank) = self.rank { rank } else { 1 };
        let preset = self.preset.config(family, rank);
        LoraConfig {
            // Files tell LoRA's alpha, which the rank divides.
            alpha: match self.scaling {
                Scaling::Fixed => self.alpha.unwrap_or(1.0) * rank as f64,
                Scaling::OverRank | Scaling::RsLora => self.alpha.unwrap_or(preset.alpha),
            },
            rslora: self.scaling == Scaling::RsLora,
            dropout: self.dropout,
            targets: self.modules.clone().map_or(preset.targets, lora::Targets::Names),
            init: self.init_std.map_or(preset.init, LoraInit::Gaussian),
            ..preset
        }
    }

    pub(super) fn train(&self, trained: Trained, model: &ModelConfig) -> TrainConfig {
        TrainConfig {
            length: self.steps.map_or(Length::Epochs(self.epochs.unwrap_or(1)), Length::Steps),
            micro_batch: self.batch_size,
            accumulation: self.accumulation,
            rate: self.learning_rate,
            warmup: self.warmup,
            decay: Decay::from(self.schedule),
            adamw: self.adamw.config(),
            weight_decay: self.weight_decay,
            model_dropout: self.model_dropout.rates(model.dropout, |rate| DropoutRates::of(model.family, rate)),
            clip: Some(self.clip),
            trained,
            packing: self.packing,
            precision: self.precision.into(),
            recompute: self.recompute,
            evaluate: self.evaluate.as_ref().map(Evaluate::config),
            seed: self.seed,
            ..TrainConfig::default()
        }
    }
}

impl Serialize for Rank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Rank::Low(rank) => serializer.serialize_u64(*rank as u64),
            Rank::Full => serializer.serialize_str("full"),
        }
    }
}

// By hand: an untagged enum can't say what it expected.
impl<'de> Deserialize<'de> for Rank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Rank;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rank (8) or `full`")
            }
            fn visit_u64<E: serde::de::Error>(self, rank: u64) -> Result<Rank, E> {
                usize::try_from(rank).map(Rank::Low).map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Rank, E> {
                match text {
                    "full" => Ok(Rank::Full),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Rank {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rank".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "full" }] })
    }
}
