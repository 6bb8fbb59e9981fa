//! Adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`. An adapted model is a folder
//! that holds these two and its base's files under `base/`.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use crate::config::Family;
use crate::error::ModelError;
use crate::files::ModelFiles;
use crate::lora::{LoraConfig, LoraError, LoraInit, Targets, attach_with, last_names};
use crate::model::{CausalLm, values};
use crate::weights::{Weights, transposed, write_safetensors};

/// Name of the config's file.
pub const CONFIG: &str = "adapter_config.json";
/// Name of the tensors' file.
pub const TENSORS: &str = "adapter_model.safetensors";
/// Where an adapted model's folder holds its base.
pub const BASE: &str = "base/";

/// Opens a plain model, or an adapted one.
pub fn load_model(files: &ModelFiles, device: &Device) -> Result<CausalLm, LoraError> {
    if files.get(CONFIG).is_none() {
        return Ok(CausalLm::load(files, device)?);
    }
    let mut model = CausalLm::load(&files.below(BASE), device)?;
    load_adapter(&mut model, files)?;
    Ok(model)
}

/// Puts the adapters of PEFT's files on their base; gives what they look like.
pub fn load_adapter(model: &mut CausalLm, files: &ModelFiles) -> Result<LoraConfig, LoraError> {
    let text = files.text(CONFIG)?.ok_or_else(|| ModelError::MissingFile { name: CONFIG.into() })?;
    let config = parse_config(&text)?;
    let mut weights = Weights::open_file(files, TENSORS)?;
    let mut dims = BTreeMap::new();
    model.each_linear(|path, linear| {
        dims.insert(path.to_owned(), linear.dims());
    });

    let mut wrong = Vec::new();
    let mut expected = BTreeMap::new();
    for path in config.targets.resolve(model)? {
        let [input, output] = dims[&path];
        expected.insert(key(&path, 'A'), [config.rank, input]);
        expected.insert(key(&path, 'B'), [output, config.rank]);
    }
    wrong.extend(expected.keys().filter(|name| !weights.has(name)).map(|name| format!("`{name}` is missing")));
    let extra = weights.names().filter(|&name| !expected.contains_key(name));
    wrong.extend(extra.map(|name| format!("`{name}` belongs to no target")));
    let mut tensors = BTreeMap::new();
    for (name, shape) in expected {
        if !weights.has(&name) {
            continue;
        }
        let (found, values) = weights.read(&name)?;
        if found != shape {
            wrong.push(format!("`{name}` has shape {found:?}, expected {shape:?}"));
        }
        tensors.insert(name, values);
    }
    if !wrong.is_empty() {
        return Err(LoraError::Tensors(wrong));
    }
    let paths: Vec<String> = {
        let mut paths = Vec::new();
        model.each_linear(|path, _| paths.push(path.to_owned()));
        paths
    };
    attach_with(model, &config, |layer, [input, output]| {
        let mut take = |factor| tensors.remove(&key(&paths[layer], factor)).unwrap_or_default();
        (transposed(&take('A'), config.rank, input), transposed(&take('B'), output, config.rank))
    })?;
    Ok(config)
}

/// Writes the adapters of a model. `base` is what PEFT will look for as the base model. Same adapters, same bytes.
pub fn save_adapter(model: &CausalLm, config: &LoraConfig, base: &str, folder: &Path) -> Result<(), LoraError> {
    let adapters = model.adapters();
    if adapters.is_empty() {
        return Err(LoraError::State("the model has no adapters".into()));
    }
    let mut tensors = BTreeMap::new();
    for (path, adapter) in &adapters {
        for (factor, param) in [('A', &adapter.a), ('B', &adapter.b)] {
            let [rows, columns] = param.val().dims();
            tensors.insert(key(path, factor), (vec![columns, rows], transposed(&values(param.val()), rows, columns)));
        }
    }
    let paths: Vec<String> = adapters.keys().cloned().collect();
    let text = render_config(config, model.config().family, &paths, base);
    std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))?;
    let place = folder.join(CONFIG);
    std::fs::write(&place, text).map_err(|error| ModelError::io(&place, error))?;
    Ok(write_safetensors(&folder.join(TENSORS), &tensors)?)
}

fn key(path: &str, factor: char) -> String {
    format!("base_model.model.{path}.lora_{factor}.weight")
}

fn render_config(config: &LoraConfig, family: Family, paths: &[String], base: &str) -> String {
    // PEFT has an integer for alpha and expands `all-linear` itself when it writes.
    let alpha = if config.alpha.fract() == 0.0 { json!(config.alpha as i64) } else { json!(config.alpha) };
    let mut targets = match &config.targets {
        Targets::AllLinear => last_names(paths),
        Targets::Names(names) => names.clone(),
    };
    targets.sort();
    targets.dedup();
    let value: BTreeMap<&str, Value> = BTreeMap::from([
        ("alpha_pattern", json!({})),
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", json!(base)),
        ("bias", json!("none")),
        ("exclude_modules", Value::Null),
        ("fan_in_fan_out", json!(family == Family::Gpt2)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", json!(true)),
        ("layer_replication", Value::Null),
        ("layers_pattern", Value::Null),
        ("layers_to_transform", Value::Null),
        ("lora_alpha", alpha),
        ("lora_bias", json!(false)),
        ("lora_dropout", json!(config.dropout)),
        ("modules_to_save", Value::Null),
        ("peft_type", json!("LORA")),
        ("r", json!(config.rank)),
        ("rank_pattern", json!({})),
        ("revision", Value::Null),
        ("target_modules", json!(targets)),
        ("task_type", json!("CAUSAL_LM")),
        ("use_dora", json!(false)),
        ("use_rslora", json!(config.rslora)),
    ]);
    format!("{:#}\n", json!(value))
}

/// What is asked for, refusing what would change the computation and isn't built.
fn parse_config(text: &str) -> Result<LoraConfig, LoraError> {
    let invalid = |reason: String| ModelError::Json { name: CONFIG.into(), reason };
    let map: Map<String, Value> = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let get = |key: &str| map.get(key).filter(|value| !value.is_null());
    let only = |key: &'static str, allowed: &[Value], supported: &'static str| match get(key) {
        Some(value) if !allowed.contains(value) => {
            Err(LoraError::Unsupported { key, value: value.to_string(), supported })
        }
        _ => Ok(()),
    };
    only("peft_type", &[json!("LORA")], "\"LORA\"")?;
    only("task_type", &[json!("CAUSAL_LM")], "\"CAUSAL_LM\"")?;
    only("bias", &[json!("none")], "\"none\"")?;
    for key in ["use_dora", "use_qalora", "lora_bias", "use_bdlora"] {
        only(key, &[json!(false)], "false")?;
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        only(key, &[json!({})], "{}")?;
    }
    for key in [
        "alora_invocation_tokens",
        "exclude_modules",
        "layer_replication",
        "layers_to_transform",
        "modules_to_save",
        "monteclora_config",
        "target_parameters",
        "trainable_token_indices",
        "velora_config",
    ] {
        only(key, &[json!([]), json!({})], "null")?;
    }
    let number = |key: &str, default: f64| match get(key) {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| invalid(format!("`{key}` is {value}, expected a number"))),
    };
    let rank = match get("r") {
        None => 8,
        Some(value) => {
            let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
            rank.ok_or_else(|| invalid(format!("`r` is {value}, expected a positive number")))?
        }
    };
    let targets = get("target_modules").ok_or_else(|| invalid("it has no `target_modules`".into()))?;
    let targets = serde_json::from_value(targets.clone())
        .map_err(|_| invalid(format!("`target_modules` is {targets}, expected a list of names or \"all-linear\"")))?;
    Ok(LoraConfig {
        rank,
        alpha: number("lora_alpha", 8.0)?,
        rslora: get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        dropout: number("lora_dropout", 0.0)?,
        targets,
        init: LoraInit::KaimingUniform,
    })
}
