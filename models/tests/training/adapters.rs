//! Adapters: PEFT's files read and written, where adapters go and how they begin, merging.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::lora::{self, LoraConfig, LoraInit, Targets};
use palinode_models::model::values;
use palinode_models::weights::Weights;
use palinode_models::{CausalLm, ModelFiles, peft};
use serde_json::Value;

use crate::fixtures::{MODELS, json, own};

fn assert_outcome(name: &str, key: &str, tuned: &CausalLm) {
    let (logit, divergence) = own().outcome(name, key, tuned);
    assert!(logit < 1e-4 && divergence < 1e-4, "{name} {key}: logits differ by {logit}, KL by {divergence}");
}

#[test]
fn adapters_are_read_as_peft_reads_them_and_written_back() {
    for name in MODELS {
        for tag in ["r2", "r4", "r8"] {
            let folder = own().adapter(name, &format!("{tag}/plain"));
            let (model, config) = own().adapted(name, &format!("{tag}/plain"));
            assert_outcome(name, &format!("lora_{tag}.plain"), &model);

            let written = tempfile::tempdir().unwrap();
            peft::save_adapter(&model, &config, &format!("models/{name}"), written.path()).unwrap();
            let open = |folder: &Path| Weights::open_file(&ModelFiles::folder(folder).unwrap(), peft::TENSORS).unwrap();
            let (mut theirs, mut ours) = (open(&folder), open(written.path()));
            let names: Vec<String> = theirs.names().map(str::to_owned).collect();
            assert_eq!(ours.names().collect::<Vec<_>>(), names);
            for tensor in &names {
                assert_eq!(ours.read(tensor).unwrap(), theirs.read(tensor).unwrap(), "{tensor}");
            }
            let (theirs, ours) = (json(folder.join(peft::CONFIG)), json(written.path().join(peft::CONFIG)));
            for (key, value) in ours.as_object().unwrap() {
                assert_eq!(value, &theirs[key], "{name} {tag}: {key}");
            }
            let again = tempfile::tempdir().unwrap();
            peft::save_adapter(&model, &config, &format!("models/{name}"), again.path()).unwrap();
            for file in [peft::CONFIG, peft::TENSORS] {
                let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
                assert_eq!(read(written.path()), read(again.path()));
            }
        }
    }
}

#[test]
fn an_adapted_folder_opens_like_a_plain_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (name, path) in ModelFiles::folder(own().path("models/gpt2")).unwrap().iter() {
        files.insert(format!("base/{name}"), path.to_owned());
    }
    let (model, config) = own().adapted("gpt2", "r4/plain");
    peft::save_adapter(&model, &config, "base", folder.path()).unwrap();
    for (name, path) in ModelFiles::folder(folder.path()).unwrap().iter() {
        files.insert(name.to_owned(), path.to_owned());
    }
    let opened = peft::load_model(&files.into_iter().collect(), &Device::flex()).unwrap();
    assert_outcome("gpt2", "lora_r4.plain", &opened);
    let plain = ModelFiles::folder(own().path("models/gpt2")).unwrap();
    assert!(!lora::has_adapters(&peft::load_model(&plain, &Device::flex()).unwrap()));
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let open = |edit: &dyn Fn(&mut Value), tensors: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut config = json(own().adapter("gpt2", "r4/init").join(peft::CONFIG));
        edit(&mut config);
        std::fs::write(folder.path().join(peft::CONFIG), config.to_string()).unwrap();
        std::fs::copy(own().adapter("gpt2", tensors).join(peft::TENSORS), folder.path().join(peft::TENSORS)).unwrap();
        let files = ModelFiles::folder(folder.path()).unwrap();
        peft::load_adapter(&mut own().base("gpt2"), &files).unwrap_err().to_string()
    };
    let key = |at: usize, path: &str, factor: char| {
        format!("`base_model.model.transformer.h.{at}.{path}.lora_{factor}.weight`")
    };
    assert_eq!(
        open(&|config| config["target_modules"] = "q_proj".into(), "r4/init"),
        "the regular expression `q_proj` matches no linear layer's whole path, such as `transformer.h.0.attn.c_attn`"
    );
    assert_eq!(
        open(&|config| config["target_modules"] = vec!["q_proj"].into(), "r4/init"),
        "no linear layer is called `q_proj`; the model has c_attn, c_fc, c_proj, lm_head"
    );
    assert_eq!(
        open(&|config| config["use_dora"] = true.into(), "r4/init"),
        "adapter_config.json: `use_dora` = true is not supported (supported: false)"
    );
    let missing = open(&|config| config["target_modules"] = vec!["c_attn", "c_fc"].into(), "r4/init");
    assert!(missing.contains(&format!("{} is missing", key(2, "mlp.c_fc", 'B'))), "{missing}");
    let extra = open(&|config| config["target_modules"] = vec!["c_fc"].into(), "r4/init");
    assert!(extra.contains(&format!("{} belongs to no target", key(0, "attn.c_attn", 'A'))), "{extra}");
    let shape = open(&|_| {}, "r2/init");
    assert!(shape.contains(&format!("{} has shape [2, 64], expected [4, 64]", key(1, "attn.c_attn", 'A'))), "{shape}");
}

#[test]
fn presets_target_and_start_as_they_say() {
    for name in MODELS {
        let mut model = own().base(name);
        let plain = LoraConfig::peft_default(model.config().family, 8);
        lora::attach(&mut model, &plain, 1).unwrap();
        let (_, theirs) = own().adapted(name, "r8/init");
        assert_eq!((plain.rank, plain.dropout, plain.rslora), (8, 0.0, false));
        assert_eq!((plain.alpha, &plain.targets), (8.0, &theirs.targets));
        for (path, adapter) in model.adapters() {
            let [input, _] = adapter.a.val().dims();
            let a = values(adapter.a.val());
            let bound = 1.0 / (input as f32).sqrt();
            assert!(a.iter().all(|x| x.abs() <= bound) && a.iter().any(|x| x.abs() > 0.9 * bound), "{path}");
            assert!(values(adapter.b.val()).iter().all(|&x| x == 0.0));
            assert_eq!(adapter.norm(), 0.0);
        }

        let mut model = own().base(name);
        lora::attach(&mut model, &LoraConfig::paper_text(16), 1).unwrap();
        let adapters = model.adapters();
        assert_eq!(adapters.len(), 3 * if name == "gpt2" { 4 } else { 7 });
        assert!(!adapters.contains_key("lm_head"));
        let a: Vec<f32> = adapters.values().flat_map(|adapter| values(adapter.a.val())).collect();
        let deviation = (a.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / a.len() as f64).sqrt();
        assert!((deviation - 0.02).abs() < 1e-3, "{deviation}");
        assert!(adapters.values().all(|adapter| adapter.scale == 1.0));
        let again = lora::attach(&mut model, &LoraConfig::paper_text(2), 1).unwrap_err();
        assert_eq!(again.to_string(), "the model has adapters already: merge them first");
    }
}

#[test]
fn a_lower_rank_starts_as_the_beginning_of_a_higher() {
    let start = |rank| {
        let mut model = own().base("llama");
        lora::attach(&mut model, &LoraConfig::paper_text(rank), 3).unwrap();
        model.adapters().remove("model.layers.1.mlp.down_proj").unwrap().a.val()
    };
    let (low, high) = (start(2), start(8));
    assert_eq!(values(low), values(high.narrow(1, 0, 2)));
}

#[test]
fn merging_keeps_the_function_and_unmerging_gives_the_weights_back() {
    for name in MODELS {
        let (mut model, _) = own().adapted(name, "r8/plain");
        let untouched = own().base(name).tensors();
        let adapters = lora::merge(&mut model);
        assert!(!lora::has_adapters(&model));
        assert_outcome(name, "lora_r8.plain", &model);
        let merged = lora::delta_norms(&own().base(name), &model);
        assert_eq!(merged.len(), adapters.len());
        for (path, adapter) in &adapters {
            let (dense, factored) = (merged[&format!("{path}.weight")], adapter.norm());
            assert!((dense - factored).abs() < 1e-4 * factored, "{path}: {dense} {factored}");
        }
        lora::unmerge(&mut model, adapters).unwrap();
        for (tensor, (_, values)) in model.tensors() {
            let worst = values.iter().zip(&untouched[&tensor].1).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-6, "{tensor}: {worst}");
        }
        assert_outcome(name, "lora_r8.plain", &model);
    }
}

#[test]
fn targets_match_whole_names() {
    let mut model = own().base("gpt2");
    let attach = |model: &mut CausalLm, names: &[&str]| {
        let targets = Targets::Names(names.iter().map(|&name| name.to_owned()).collect());
        lora::attach(model, &LoraConfig { targets, init: LoraInit::KaimingUniform, ..LoraConfig::paper_text(2) }, 0)
    };
    assert_eq!(
        attach(&mut model, &["proj"]).unwrap_err().to_string(),
        "no linear layer is called `proj`; the model has c_attn, c_fc, c_proj, lm_head"
    );
    attach(&mut model, &["attn.c_proj"]).unwrap();
    assert_eq!(model.adapters().len(), 3);
    let zero = LoraConfig { rank: 0, ..LoraConfig::paper_text(2) };
    let message = lora::attach(&mut own().base("gpt2"), &zero, 0).unwrap_err().to_string();
    assert_eq!(message, "LoRA's rank is 0, expected at least 1");
}
