//! Agreement with torch, transformers and PEFT: losses, gradient norms, rates and outcomes of AdamW steps, full and
//! through adapters, as a plain loop has it and as transformers' Trainer has it.

use palinode_models::model::values;
use palinode_models::train::{Length, Reduction, TrainConfig, TrainReport, Trained, train};
use serde_json::Value;

use crate::fixtures::{Fixtures, all, json, numbers, silent};

/// The config of a run of the fixtures.
fn recipe(fixtures: &Fixtures, name: &str, run: &Value, trained: Trained) -> TrainConfig {
    let file = json(fixtures.path(&format!("expected/{name}/train.json")));
    let shape = fixtures.tensors(&format!("expected/{name}/train.safetensors"))["input_ids"].0.clone();
    let trainer = run["mode"] == "trainer";
    let count = |value: &Value| value.as_u64().unwrap() as usize;
    let betas = numbers(&file["betas"]);
    let adamw = palinode_models::train::AdamW { beta1: betas[0], beta2: betas[1], eps: file["eps"].as_f64().unwrap() };
    TrainConfig {
        length: Length::Steps(count(&file["steps"])),
        micro_batch: shape[1],
        accumulation: count(&file["accumulation"]),
        reduction: if trainer { Reduction::Tokens } else { Reduction::MicroBatches },
        rate: run["lr"].as_f64().unwrap(),
        warmup: count(&run["warmup"]),
        adamw,
        weight_decay: run["weight_decay"].as_f64().unwrap(),
        decay_vectors: !trainer,
        clip: trainer.then(|| file["clip_norm_in_trainer_mode"].as_f64().unwrap()),
        trained,
        shuffle: false,
        bucket: false,
        ..TrainConfig::default()
    }
}

fn assert_agrees(report: &TrainReport, run: &Value, what: &str) {
    let losses = numbers(&run["loss"]);
    let norms = numbers(&run["grad_norm_before_clip"]);
    let rates = numbers(&run["learning_rate"]);
    assert_eq!(report.steps.len(), losses.len(), "{what}");
    assert_eq!(report.trained_parameters as u64, run["trainable"].as_u64().unwrap(), "{what}");
    for (step, ((loss, norm), rate)) in report.steps.iter().zip(losses.iter().zip(&norms).zip(&rates)) {
        let at = step.step;
        assert!((step.loss - loss).abs() < 1e-3, "{what}, step {at}: loss {} for {loss}", step.loss);
        assert!((step.rate - rate).abs() < 1e-12, "{what}, step {at}: rate {} for {rate}", step.rate);
        let difference = (step.gradient_norm - norm).abs() / norm;
        assert!(difference < 1e-3, "{what}, step {at}: gradient norm {} for {norm}", step.gradient_norm);
    }
}

fn assert_outcome(fixtures: &Fixtures, name: &str, key: &str, tuned: &palinode_models::CausalLm) {
    let (logit, divergence) = fixtures.outcome(name, key, tuned);
    assert!(logit < 2e-4 && divergence < 1e-4, "{name} {key}: logits differ by {logit}, KL by {divergence}");
}

#[test]
fn full_finetuning_agrees() {
    for fixtures in all() {
        let names = fixtures.trained();
        assert!(["gpt2", "llama"].iter().all(|name| names.iter().any(|found| found == name)), "{names:?}");
        for name in &names {
            let runs = &json(fixtures.path(&format!("expected/{name}/train.json")))["runs"];
            for mode in ["plain", "trainer"] {
                let run = &runs[format!("full.{mode}")];
                let config = recipe(&fixtures, name, run, Trained::All);
                let (tuned, report) = train(fixtures.base(name), &fixtures.examples(name), &config, silent).unwrap();
                assert_agrees(&report, run, &format!("{name} full {mode}"));
                if mode == "plain" {
                    assert_outcome(&fixtures, name, "full.plain", &tuned);
                }
            }
        }
    }
}

#[test]
fn lora_agrees() {
    for fixtures in all() {
        for name in &fixtures.trained() {
            let runs = json(fixtures.path(&format!("expected/{name}/train.json")))["runs"].clone();
            let runs = runs.as_object().unwrap();
            assert!(runs.keys().filter(|key| key.starts_with("lora_")).count() > 1, "{name}");
            for (key, run) in runs.iter().filter(|(key, _)| key.starts_with("lora_")) {
                let (tag, mode) = key["lora_".len()..].split_once('.').unwrap();
                let (model, config) = fixtures.adapted(name, &format!("{tag}/init"));
                assert_eq!(config.scale(), run["scaling"].as_f64().unwrap());
                let config = recipe(&fixtures, name, run, Trained::Adapters);
                let (tuned, report) = train(model, &fixtures.examples(name), &config, silent).unwrap();
                assert_agrees(&report, run, &format!("{name} {key}"));
                if mode == "plain" {
                    assert_outcome(&fixtures, name, key, &tuned);
                }
                for (path, adapter) in tuned.adapters() {
                    for (factor, param) in [("A", &adapter.a), ("B", &adapter.b)] {
                        let norm = values(param.val()).iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                        let want = &run["final_norm"][format!("base_model.model.{path}.lora_{factor}.default.weight")];
                        let want = want.as_f64().unwrap();
                        assert!((norm - want).abs() < 1e-3 * want, "{name} {key} {path} {factor}: {norm} for {want}");
                    }
                }
            }
        }
    }
}
