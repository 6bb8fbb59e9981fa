//! `adapter_config.json`.

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::CONFIG;
use crate::config::{Family, ModelConfig};
use crate::error::ModelError;
use crate::lora::{LayerFilter, LoraConfig, LoraError, LoraInit, Modules, Targets};

/// What is asked for, refusing what would change the computation and isn't built.
pub(crate) fn parse(text: &str, model: &ModelConfig) -> Result<LoraConfig, LoraError> {
    let invalid = |reason: String| ModelError::Json { name: CONFIG.into(), reason };
    let map: Map<String, Value> = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    refuse_unsupported(&map, model)?;
    let get = |key: &str| map.get(key).filter(|value| !value.is_null());
    let number = |key: &str, default: f64| match get(key) {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| invalid(format!("`{key}` is {value}, expected a number"))),
    };
    let flag = |key: &str| match get(key) {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| invalid(format!("`{key}` is {value}, expected true or false"))),
    };
    // Says nothing that the base doesn't: which way its files store a weight.
    flag("fan_in_fan_out")?;
    let rank = match get("r") {
        None => 8,
        Some(value) => {
            let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
            rank.ok_or_else(|| invalid(format!("`r` is {value}, expected a positive number")))?
        }
    };
    let targets = get("target_modules").ok_or_else(|| invalid("it has no `target_modules`".into()))?;
    let targets: Targets = serde_json::from_value(targets.clone())
        .map_err(|error| invalid(format!("`target_modules` is {targets}, {error}")))?;
    let exclude = match get("exclude_modules") {
        None => None,
        Some(value) => Some(serde_json::from_value(value.clone()).map_err(|_| {
            invalid(format!("`exclude_modules` is {value}, expected a list of names or a regular expression"))
        })?),
    };
    let exclude = exclude.filter(|exclude| *exclude != Modules::Names(Vec::new()));
    let list = |key: &str| match get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|_| invalid(format!("`{key}` is {value}, expected a list of names"))),
    };
    let indexes = match get("layers_to_transform") {
        None => None,
        Some(Value::Number(one)) => Some(json!([one])),
        Some(value) => Some(value.clone()),
    };
    let indexes: Option<Vec<usize>> = match indexes {
        None => None,
        Some(value) => Some(serde_json::from_value(value.clone()).map_err(|_| {
            invalid(format!("`layers_to_transform` is {value}, expected a block's number or a list of them"))
        })?),
    };
    let called = list("layers_pattern")?;
    let patterns: Patterns = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    Ok(LoraConfig {
        rank,
        alpha: number("lora_alpha", 8.0)?,
        rslora: flag("use_rslora")?,
        dropout: number("lora_dropout", 0.0)?,
        targets,
        exclude,
        layers: indexes.filter(|indexes| !indexes.is_empty()).map(|indexes| LayerFilter { indexes, called }),
        rank_pattern: patterns.rank_pattern.unwrap_or_default().0,
        alpha_pattern: patterns.alpha_pattern.unwrap_or_default().0,
        modules_to_save: list("modules_to_save")?,
        init: LoraInit::KaimingUniform,
    })
}

fn refuse_unsupported(map: &Map<String, Value>, model: &ModelConfig) -> Result<(), LoraError> {
    let only = |key: &'static str, allowed: &[Value], supported: &'static str| match map.get(key) {
        Some(value) if !value.is_null() && !allowed.contains(value) => {
            Err(LoraError::Unsupported { key, value: value.to_string(), supported })
        }
        _ => Ok(()),
    };
    only("peft_type", &[json!("LORA")], "\"LORA\"")?;
    let (allowed, supported) = match task_type(model) {
        Some("SEQ_CLS") => (json!("SEQ_CLS"), "\"SEQ_CLS\", as the base is a classifier"),
        Some(causal) => (json!(causal), "\"CAUSAL_LM\", as the base is no classifier"),
        None => (Value::Null, "null, as the base is a masked language model"),
    };
    only("task_type", &[allowed], supported)?;
    only("bias", &[json!("none")], "\"none\"")?;
    // Weights that a base would have to be changed by first.
    let plain = ["gaussian", "orthogonal", "eva"].map(|name| json!(name));
    let starts = [&[json!(true), json!(false)][..], &plain].concat();
    only("init_lora_weights", &starts, "true, false, \"gaussian\", \"orthogonal\", \"eva\"")?;
    for key in ["use_dora", "use_qalora", "lora_bias", "use_bdlora", "ensure_weight_tying"] {
        only(key, &[json!(false)], "false")?;
    }
    for key in [
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "layer_replication",
        "megatron_config",
        "monteclora_config",
        "target_parameters",
        "trainable_token_indices",
        "velora_config",
    ] {
        only(key, &[json!([]), json!({})], "null")?;
    }
    Ok(())
}

/// The parts of the config whose order counts: the first pattern that matches a layer is the one.
#[derive(Deserialize)]
struct Patterns {
    #[serde(default)]
    rank_pattern: Option<Ordered<usize>>,
    #[serde(default)]
    alpha_pattern: Option<Ordered<f64>>,
}

/// A map in the order of its file.
struct Ordered<T>(Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Ordered(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Ordered<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map from patterns to numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}

impl<T: Serialize> Serialize for Ordered<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// The file's keys in their order.
#[derive(Serialize)]
struct Rendered<'a> {
    alpha_pattern: Ordered<Value>,
    auto_mapping: (),
    base_model_name_or_path: &'a str,
    bias: &'a str,
    exclude_modules: &'a Option<Modules>,
    fan_in_fan_out: bool,
    inference_mode: bool,
    init_lora_weights: bool,
    layer_replication: (),
    layers_pattern: Option<&'a [String]>,
    layers_to_transform: Option<&'a [usize]>,
    lora_alpha: Value,
    lora_bias: bool,
    lora_dropout: f64,
    modules_to_save: Option<&'a [String]>,
    peft_type: &'a str,
    r: usize,
    rank_pattern: Ordered<usize>,
    revision: (),
    target_modules: Targets,
    task_type: Option<&'a str>,
    use_dora: bool,
    use_rslora: bool,
}

/// PEFT's word for what a model's head is for; it has none for masked language models.
fn task_type(model: &ModelConfig) -> Option<&'static str> {
    match (model.labels.is_empty(), model.family) {
        (false, _) => Some("SEQ_CLS"),
        (true, Family::Bert) => None,
        (true, Family::Gpt2 | Family::Opt | Family::Llama) => Some("CAUSAL_LM"),
    }
}

/// Heads of classifiers.
const HEADS: [&str; 2] = ["classifier", "score"];

/// `paths` are those of the adapted layers.
pub(super) fn render(config: &LoraConfig, model: &ModelConfig, paths: &[String], base: &str) -> String {
    // PEFT has integers for alphas.
    let alpha = |alpha: f64| if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) };
    let targets = match &config.targets {
        // PEFT expands it itself when it writes; what it leaves out then is the unembedding alone.
        Targets::AllLinear => Targets::Names(crate::lora::last_names(paths)),
        Targets::Names(names) => {
            let mut names = names.clone();
            names.sort();
            names.dedup();
            Targets::Names(names)
        }
        pattern => pattern.clone(),
    };
    let some = |names: &'_ [String]| !names.is_empty();
    let mut modules_to_save = config.modules_to_save.clone();
    // What PEFT itself adds for a classifier (`PeftModelForSequenceClassification`): it writes both, whichever there is.
    if !model.labels.is_empty() {
        let missing = HEADS.iter().filter(|head| !config.modules_to_save.iter().any(|name| name == *head));
        modules_to_save.extend(missing.map(|&head| head.to_owned()));
    }
    let rendered = Rendered {
        alpha_pattern: Ordered(config.alpha_pattern.iter().map(|(key, value)| (key.clone(), alpha(*value))).collect()),
        auto_mapping: (),
        base_model_name_or_path: base,
        bias: "none",
        exclude_modules: &config.exclude,
        fan_in_fan_out: model.family == Family::Gpt2,
        inference_mode: true,
        init_lora_weights: true,
        layer_replication: (),
        layers_pattern: config.layers.as_ref().map(|layers| &layers.called[..]).filter(|called| some(called)),
        layers_to_transform: config.layers.as_ref().map(|layers| &layers.indexes[..]),
        lora_alpha: alpha(config.alpha),
        lora_bias: false,
        lora_dropout: config.dropout,
        modules_to_save: Some(&modules_to_save[..]).filter(|names| some(names)),
        peft_type: "LORA",
        r: config.rank,
        rank_pattern: Ordered(config.rank_pattern.clone()),
        revision: (),
        target_modules: targets,
        task_type: task_type(model),
        use_dora: false,
        use_rslora: config.rslora,
    };
    format!("{}\n", serde_json::to_string_pretty(&rendered).unwrap_or_default())
}
