//! Agreement with PEFT in what an adapter's files may say: patterns, modules that are saved whole, parts of a model.
//! `fixtures/make_peft.py` wrote the adapters and the logits that they give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::lora::{self, LayerFilter, LoraConfig, Modules, Targets};
use palinode_models::model::values;
use palinode_models::train::{Example, Length, TrainConfig, Trained, train};
use palinode_models::weights::{Weights, write_safetensors};
use palinode_models::{Batch, CausalLm, ModelConfig, ModelFiles, peft};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn base(name: &str) -> CausalLm {
    CausalLm::load(&ModelFiles::folder(fixture("models").join(name)).unwrap(), &Device::flex()).unwrap()
}

fn files(folder: &Path) -> ModelFiles {
    ModelFiles::folder(folder).unwrap()
}

fn cases() -> Vec<(String, String, PathBuf)> {
    let mut cases: Vec<_> = std::fs::read_dir(fixture("peft")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let case = |folder: PathBuf| {
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join(peft::CONFIG)).unwrap()).unwrap();
        let base = config["base_model_name_or_path"].as_str().unwrap().to_owned();
        (folder.file_name().unwrap().to_str().unwrap().to_owned(), base, folder)
    };
    cases.into_iter().map(case).collect()
}

/// Ids `[2, 9]` and the logits that PEFT computed.
fn expected(folder: &Path) -> (Batch, Vec<f32>) {
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<u32> = tensors
        .tensor("ids")
        .unwrap()
        .data()
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| i64::from_le_bytes(*b) as u32)
        .collect();
    let logits =
        tensors.tensor("logits").unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let dims = [2, ids.len() / 2];
    (Batch::new(ids.clone(), vec![true; ids.len()], dims).unwrap(), logits)
}

fn worst(found: &CausalLm, (batch, logits): &(Batch, Vec<f32>)) -> f32 {
    let found = values(found.forward(batch).unwrap());
    assert_eq!(found.len(), logits.len());
    found.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn adapters_of_peft_give_its_logits() {
    for (case, name, folder) in cases() {
        let (base, expected) = (base(&name), expected(&folder));
        let tuned = peft::with_adapter(&base, &files(&folder)).unwrap();
        let difference = worst(&tuned, &expected);
        assert!(difference < 2e-5, "{case}: {difference}");
        assert!(worst(&base, &expected) > 1.0, "{case} has no effect");
        let mut merged = tuned.clone();
        lora::merge(&mut merged);
        let difference = worst(&merged, &expected);
        assert!(difference < 1e-4, "{case} merged: {difference}");
        // A merged model is a plain one.
        let written = tempfile::tempdir().unwrap();
        merged.save(written.path()).unwrap();
        let again = CausalLm::load(&files(written.path()), &Device::flex()).unwrap();
        assert_eq!(values(again.forward(&expected.0).unwrap()), values(merged.forward(&expected.0).unwrap()), "{case}");
    }
}

#[test]
fn what_is_read_is_written_again() {
    for (case, name, folder) in cases() {
        let mut model = base(&name);
        let config = peft::load_adapter(&mut model, &files(&folder)).unwrap();
        let written = tempfile::tempdir().unwrap();
        peft::save_adapter(&model, &config, &name, written.path()).unwrap();
        let open = |folder: &Path| Weights::open_file(&files(folder), peft::TENSORS).unwrap();
        let (mut theirs, mut ours) = (open(&folder), open(written.path()));
        // PEFT writes the weight below an adapted unembedding too, though it is the base's.
        let names: Vec<String> =
            theirs.names().filter(|name| !name.contains(".base_layer.")).map(str::to_owned).collect();
        assert_eq!(ours.names().collect::<Vec<_>>(), names, "{case}");
        for tensor in &names {
            assert_eq!(ours.read(tensor).unwrap(), theirs.read(tensor).unwrap(), "{case} {tensor}");
        }
        let json = |folder: &Path| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join(peft::CONFIG)).unwrap()).unwrap()
        };
        let (theirs, ours) = (json(&folder), json(written.path()));
        for (key, value) in ours.as_object().unwrap() {
            let same = match (value, &theirs[key]) {
                // One number or a list of it; one name or a list of it.
                (Value::Array(list), one @ (Value::Number(_) | Value::String(_))) => list == std::slice::from_ref(one),
                (value, theirs) => value == theirs,
            };
            assert!(same || key == "init_lora_weights", "{case}: {key} is {value} for {}", theirs[key]);
        }
        let mut again = base(&name);
        assert_eq!(peft::load_adapter(&mut again, &files(written.path())).unwrap(), config, "{case}");
        assert_eq!(again.tensors(), model.tensors(), "{case}");
    }
}

#[test]
fn one_base_serves_many_adapters() {
    let folder = tempfile::tempdir().unwrap();
    for (name, path) in files(&fixture("models/gpt2")).iter() {
        std::fs::copy(path, folder.path().join(name)).unwrap();
    }
    let base = CausalLm::load(&files(folder.path()), &Device::flex()).unwrap();
    let untouched = base.tensors();
    // Nothing is read of the base any more: it is gone.
    drop(folder);
    for _ in 0..2 {
        for (case, _, folder) in cases().into_iter().filter(|(_, name, _)| name == "gpt2") {
            let tuned = peft::with_adapter(&base, &files(&folder)).unwrap();
            assert!(worst(&tuned, &expected(&folder)) < 2e-5, "{case}");
        }
    }
    assert_eq!(base.tensors(), untouched);
    assert!(base.config().tied && !lora::has_adapters(&base));
}

/// The older spelling, with the wrapper in the path.
#[test]
fn wrapped_names_of_saved_modules_are_read() {
    let (_, name, folder) = cases().into_iter().find(|(case, ..)| case == "gpt2-saved-tied-head").unwrap();
    for wrapper in ["modules_to_save", "modules_to_save.default"] {
        let renamed = tempfile::tempdir().unwrap();
        std::fs::copy(folder.join(peft::CONFIG), renamed.path().join(peft::CONFIG)).unwrap();
        let mut weights = Weights::open_file(&files(&folder), peft::TENSORS).unwrap();
        let names: Vec<String> = weights.names().map(str::to_owned).collect();
        let tensors: BTreeMap<_, _> = names
            .into_iter()
            .map(|name| {
                let tensor = weights.read(&name).unwrap();
                let name = ["lm_head", "ln_f"]
                    .iter()
                    .fold(name, |name, module| name.replace(&format!("{module}."), &format!("{module}.{wrapper}.")));
                (name, tensor)
            })
            .collect();
        write_safetensors(&renamed.path().join(peft::TENSORS), &tensors).unwrap();
        let tuned = peft::with_adapter(&base(&name), &files(renamed.path())).unwrap();
        assert!(worst(&tuned, &expected(&folder)) < 2e-5, "{wrapper}");
    }
}

#[test]
fn saved_modules_learn_beside_the_adapters() {
    for (name, modules) in [("gpt2", vec!["lm_head", "ln_f"]), ("llama_tied", vec!["embed_tokens"])] {
        let base = base(name);
        let mut model = base.clone();
        let config = LoraConfig {
            modules_to_save: modules.iter().map(|&name| name.to_owned()).collect(),
            ..LoraConfig::paper_text(2)
        };
        lora::attach(&mut model, &config, 1).unwrap();
        let batch = Batch::single(&[5, 6, 7, 8]).unwrap();
        let logits = |model: &CausalLm| values(model.forward(&batch).unwrap());
        let close = |a: &CausalLm, b: &CausalLm| logits(a).iter().zip(logits(b)).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(close(&model, &base), "fresh adapters and copies change nothing");
        let ids = |at: u32| (0..8).map(|i| 5 + (at * 29 + i * i * 7) % 90).collect();
        let examples: Vec<Example> = (0..16).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
        let training = TrainConfig {
            trained: Trained::Adapters,
            rate: 1e-2,
            length: Length::Steps(4),
            micro_batch: 8,
            ..TrainConfig::default()
        };
        let (tuned, report) =
            train(model.clone(), &examples, &training, |_, _| std::ops::ControlFlow::Continue(())).unwrap();
        let saved: usize = model
            .parameters()
            .iter()
            .filter(|p| model.is_saved(&p.name))
            .map(|p| p.shape.iter().product::<usize>())
            .sum();
        assert!(saved > 0 && report.trained_parameters > saved);
        assert!(!close(&tuned, &base));
        for (tensor, value) in model.tensors() {
            assert_eq!(tuned.tensors()[&tensor] != value, model.is_saved(&tensor), "{name} {tensor}");
        }
        let written = tempfile::tempdir().unwrap();
        peft::save_adapter(&tuned, &config, "base", written.path()).unwrap();
        let again = peft::with_adapter(&base, &files(written.path())).unwrap();
        assert_eq!(logits(&again), logits(&tuned), "{name}");
    }
}

/// An unembedding that is the embedding gets weights of its own when it is adapted; the embedding stays.
#[test]
fn a_tied_unembedding_can_be_adapted() {
    let base = base("llama_tied");
    let config = LoraConfig { targets: names(&["lm_head", "v_proj"]), ..LoraConfig::paper_text(2) };
    let mut model = base.clone();
    lora::attach(&mut model, &config, 1).unwrap();
    let [width, vocab] = [base.config().hidden, base.config().vocab_size];
    assert_eq!(model.adapters()["lm_head"].a.val().dims(), [width, 2]);
    assert_eq!(model.adapters()["lm_head"].b.val().dims(), [2, vocab]);
    let ids = |at: u32| (0..8).map(|i| 5 + (at * 29 + i * i * 7) % 90).collect();
    let examples: Vec<Example> = (0..16).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
    let training =
        TrainConfig { trained: Trained::Adapters, rate: 1e-2, length: Length::Steps(3), ..TrainConfig::default() };
    let (tuned, _) = train(model, &examples, &training, |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(tuned.adapters()["lm_head"].norm() > 0.0);
    let embedding = "model.embed_tokens.weight";
    assert_eq!(tuned.tensors()[embedding], base.tensors()[embedding]);
    let written = tempfile::tempdir().unwrap();
    peft::save_adapter(&tuned, &config, "base", written.path()).unwrap();
    let again = peft::with_adapter(&base, &files(written.path())).unwrap();
    let logits = |model: &CausalLm| values(model.forward(&Batch::single(&[5, 6, 7]).unwrap()).unwrap());
    assert_eq!(logits(&again), logits(&tuned));
    let mut merged = tuned.clone();
    lora::merge(&mut merged);
    assert!(!merged.config().tied && merged.tensors()["lm_head.weight"] != merged.tensors()[embedding]);
    // All linear layers are those but the unembedding, tied or not.
    let mut all = base.clone();
    lora::attach(&mut all, &LoraConfig::paper_text(2), 1).unwrap();
    assert!(all.config().tied && !all.adapters().contains_key("lm_head"));
}

fn attach(config: LoraConfig) -> Result<CausalLm, String> {
    let mut model = base("llama");
    lora::attach(&mut model, &config, 0).map_err(|error| error.to_string())?;
    Ok(model)
}

fn names(names: &[&str]) -> Targets {
    Targets::Names(names.iter().map(|&name| name.to_owned()).collect())
}

#[test]
fn what_means_nothing_is_told() {
    let told = |config: LoraConfig| attach(config).err().unwrap();
    let two = || LoraConfig::paper_text(2);
    let tests = [
        (
            LoraConfig { targets: Targets::Pattern("q_proj".into()), ..two() },
            "the regular expression `q_proj` matches no linear layer's whole path, such as \
             `model.layers.0.self_attn.q_proj`",
        ),
        (
            LoraConfig { targets: names(&["q_proj", "c_attn"]), ..two() },
            "no linear layer is called `c_attn`; the model has down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, \
             up_proj, v_proj",
        ),
        (
            LoraConfig { rank_pattern: vec![("c_attn".into(), 3)], ..two() },
            "rank_pattern: `c_attn` matches none of the adapted layers, such as model.layers.0.mlp.down_proj",
        ),
        (
            LoraConfig { modules_to_save: vec!["score".into()], ..two() },
            "no module's path ends in `score` (modules_to_save); the model has 0, 1, 2, down_proj, embed_tokens, \
             gate_proj, input_layernorm, k_proj, layers, lm_head, mlp, model, norm, o_proj, post_attention_layernorm, \
             q_proj, self_attn, up_proj, v_proj",
        ),
        (
            LoraConfig { targets: names(&["q_proj"]), modules_to_save: vec!["self_attn".into()], ..two() },
            "LoRA has no target: what is left out (exclude_modules, layers_to_transform, modules_to_save) leaves none \
             of down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj",
        ),
        (
            LoraConfig { layers: Some(LayerFilter { indexes: vec![1], called: vec![] }), ..two() },
            "layers_to_transform can't be used with all-linear",
        ),
        (
            LoraConfig { alpha_pattern: vec![("q_proj".into(), 0.0)], ..two() },
            "LoRA's alpha is 0, expected a positive number",
        ),
    ];
    for (config, message) in tests {
        assert_eq!(told(config), message);
    }
    let broken = told(LoraConfig { exclude: Some(Modules::Pattern("(".into())), ..two() });
    assert!(broken.starts_with("exclude_modules: `(` is no regular expression: "), "{broken}");
}

#[test]
fn a_rank_above_the_matrix_is_allowed_and_listed() {
    let config = LoraConfig { targets: names(&["q_proj"]), ..LoraConfig::paper_text(40) };
    let model = attach(config).unwrap();
    let oversized = lora::oversized(&model);
    assert_eq!(oversized.len(), 3);
    assert_eq!(oversized["model.layers.0.self_attn.q_proj"], (40, 32));
    assert!(lora::oversized(&attach(LoraConfig::paper_text(32)).unwrap()).is_empty());
}

#[test]
fn configs_that_are_not_built_are_refused() {
    let (_, name, folder) = cases().into_iter().find(|(case, ..)| case == "llama-regex").unwrap();
    let open = |edit: Value| {
        let changed = tempfile::tempdir().unwrap();
        let mut config: Value = serde_json::from_slice(&std::fs::read(folder.join(peft::CONFIG)).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        std::fs::write(changed.path().join(peft::CONFIG), config.to_string()).unwrap();
        std::fs::copy(folder.join(peft::TENSORS), changed.path().join(peft::TENSORS)).unwrap();
        peft::with_adapter(&base(&name), &files(changed.path())).map(drop).map_err(|error| error.to_string())
    };
    let refused = [
        (
            json!({ "peft_type": "IA3" }),
            "adapter_config.json: `peft_type` = \"IA3\" is not supported (supported: \"LORA\")",
        ),
        (json!({ "use_dora": true }), "adapter_config.json: `use_dora` = true is not supported (supported: false)"),
        (json!({ "bias": "all" }), "adapter_config.json: `bias` = \"all\" is not supported (supported: \"none\")"),
        (
            json!({ "init_lora_weights": "pissa" }),
            "adapter_config.json: `init_lora_weights` = \"pissa\" is not supported (supported: true, false, \
             \"gaussian\", \"orthogonal\", \"eva\")",
        ),
        (
            json!({ "trainable_token_indices": [1] }),
            "adapter_config.json: `trainable_token_indices` = [1] is not supported (supported: null)",
        ),
        (
            json!({ "target_modules": 3 }),
            "`adapter_config.json` is not valid: `target_modules` is 3, expected a list of names, a regular \
             expression, or \"all-linear\"",
        ),
        (
            json!({ "layers_to_transform": [1] }),
            "layers_to_transform chooses among names; with a regular expression say it there",
        ),
    ];
    for (edit, message) in refused {
        assert_eq!(open(edit), Err(message.to_owned()));
    }
    let message = open(json!({ "rank_pattern": [3] })).unwrap_err();
    assert!(message.contains("expected a map from patterns to numbers"), "{message}");
    // What says nothing here is no error: PEFT's lists name modules of many families.
    let unmatched = json!({ "rank_pattern": { "v_proj": 2, "c_attn": 3 } });
    assert_eq!(open(unmatched), Ok(()));
    let pickled = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join(peft::CONFIG), pickled.path().join(peft::CONFIG)).unwrap();
    std::fs::write(pickled.path().join("adapter_model.bin"), "x").unwrap();
    let message = peft::with_adapter(&base(&name), &files(pickled.path())).unwrap_err().to_string();
    insta::assert_snapshot!(message, @"`adapter_model.bin` can't be read as a PyTorch checkpoint: it is no zip archive, as torch writes since 1.6");
    std::fs::remove_file(pickled.path().join("adapter_model.bin")).unwrap();
    let message = peft::with_adapter(&base(&name), &files(pickled.path())).unwrap_err().to_string();
    insta::assert_snapshot!(message, @"the model has no `adapter_model.safetensors`");
}

/// All adapters of the reference: those on models that there is a family for.
#[test]
fn every_reference_adapter_gives_its_logits() {
    let Some(root) = std::env::var_os("PALINODE_REFERENCE").map(|root| PathBuf::from(root).join("fixtures")) else {
        return;
    };
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let manifest = read(root.join("manifest.json"));
    let mut compared = 0;
    for (name, entry) in manifest["models"].as_object().unwrap() {
        if entry["task"] != "lm" || entry["trained"] != true {
            continue;
        }
        let base = match CausalLm::load(&files(&root.join("models").join(name)), &Device::flex()) {
            Err(palinode_models::ModelError::Config(palinode_models::ConfigError::ModelType(_))) => continue,
            base => base.unwrap_or_else(|error| panic!("{name}: {error}")),
        };
        let tensors = |file: &str| -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
            let bytes = std::fs::read(root.join("expected").join(name).join(file)).unwrap();
            let number = |view: &safetensors::tensor::TensorView<'_>| match view.dtype() {
                safetensors::Dtype::I64 => {
                    view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
                }
                _ => view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            };
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            tensors.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), number(&view)))).collect()
        };
        let (inputs, trained) = (tensors("forward.safetensors"), tensors("trained.safetensors"));
        let (dims, ids) = &inputs["right.input_ids"];
        let mask: Vec<bool> = inputs["right.attention_mask"].1.iter().map(|&real| real == 1.0).collect();
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        let batch = Batch::new(ids, mask.clone(), [dims[0], dims[1]]).unwrap();
        let vocab = base.config().vocab_size;
        let plain = values(base.forward(&batch).unwrap());
        for place in std::fs::read_dir(root.join("adapters").join(name)).unwrap() {
            let place = place.unwrap().path();
            let tag = place.file_name().unwrap().to_str().unwrap().to_owned();
            for stage in ["init", "plain", "trainer"] {
                let folder = place.join(stage);
                if !folder.exists() {
                    continue;
                }
                let mut model = base.clone();
                let config = peft::load_adapter(&mut model, &files(&folder)).unwrap();
                let logits = values(model.forward(&batch).unwrap());
                let key = format!("lora_{tag}.{stage}");
                let want =
                    if stage == "init" { Some(&inputs["right.logits"]) } else { trained.get(&format!("{key}.logits")) };
                for (row, _) in mask.iter().enumerate().filter(|&(_, &real)| real) {
                    let here = row * vocab..(row + 1) * vocab;
                    if let Some((_, want)) = want {
                        for at in here.clone() {
                            assert!((f64::from(logits[at]) - want[at]).abs() < 1e-4, "{name} {key} at {at}");
                        }
                    }
                    if let Some((_, kl)) = trained.get(&format!("{key}.kl_base_tuned")) {
                        let [p, q] =
                            [&plain, &logits].map(|x| palinode_models::sampling::log_probabilities(&x[here.clone()]));
                        let found: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
                        assert!((found - kl[row]).abs() < 1e-4, "{name} {key}: KL {found} for {}", kl[row]);
                    }
                }
                let written = tempfile::tempdir().unwrap();
                peft::save_adapter(&model, &config, &format!("models/{name}"), written.path()).unwrap();
                let open = |folder: &Path| Weights::open_file(&files(folder), peft::TENSORS).unwrap();
                let (mut theirs, mut ours) = (open(&folder), open(written.path()));
                let names: Vec<String> = theirs.names().map(str::to_owned).collect();
                assert_eq!(ours.names().collect::<Vec<_>>(), names, "{name} {key}");
                for tensor in &names {
                    assert_eq!(ours.read(tensor).unwrap(), theirs.read(tensor).unwrap(), "{name} {key} {tensor}");
                }
                compared += 1;
            }
        }
    }
    assert!(compared >= 18, "only {compared} adapters were compared");
}

/// Random models of other shapes than the fixtures', with a head width that is no part of the hidden width.
#[test]
fn adapters_fit_models_of_any_shape() {
    let config = ModelConfig { kv_heads: 2, head: 10, ..ModelConfig::llama(90, 32, 36, 3, 6, 52) };
    let mut model = CausalLm::random(config, 3, &Device::flex()).unwrap();
    let base = model.clone();
    let config = LoraConfig { rank_pattern: vec![(r"layers\.\d*[02]\..*".into(), 7)], ..LoraConfig::paper_text(3) };
    lora::attach(&mut model, &config, 1).unwrap();
    assert_eq!(model.adapters()["model.layers.2.self_attn.q_proj"].a.val().dims(), [36, 7]);
    assert_eq!(model.adapters()["model.layers.1.self_attn.o_proj"].b.val().dims(), [3, 36]);
    let written = tempfile::tempdir().unwrap();
    peft::save_adapter(&model, &config, "base", written.path()).unwrap();
    let again = peft::with_adapter(&base, &files(written.path())).unwrap();
    let ids = Batch::single(&[1, 2, 3]).unwrap();
    assert_eq!(values(again.forward(&ids).unwrap()), values(model.forward(&ids).unwrap()));
}
