//! Agreement with torch, transformers and PEFT: losses, gradient norms, rates and outcomes of AdamW steps, full and
//! through adapters, as a plain loop has it and as transformers' Trainer has it.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use palinode_models::model::values;
use palinode_models::train::{Length, LossPass, Reduction, TrainConfig, TrainReport, Trainable, Trained, train};
use serde_json::Value;

use crate::fixtures::{Fixtures, all, json, numbers, own, silent};
use crate::support::tolerance;

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
        assert!((step.loss - loss).abs() < tolerance(1e-3), "{what}, step {at}: loss {} for {loss}", step.loss);
        assert!((step.rate - rate).abs() < 1e-12, "{what}, step {at}: rate {} for {rate}", step.rate);
        let difference = (step.gradient_norm - norm).abs() / norm;
        assert!(difference < tolerance(1e-3), "{what}, step {at}: gradient norm {} for {norm}", step.gradient_norm);
    }
}

fn assert_outcome(fixtures: &Fixtures, name: &str, key: &str, tuned: &palinode_models::CausalLm) {
    let (logit, divergence) = fixtures.outcome(name, key, tuned);
    // AdamW's first steps go by the sign of a gradient, so where one is next to nothing its rounding decides. How far
    // that reaches was measured in torch itself: with the units of this GPT-2's MLPs in other orders (12 of them), its
    // logits after the ten steps lie 5e-6 to 3.3e-4 from those in float64, in full, and 6e-6 to 7e-5 with adapters. The
    // gradients that our steps go by are as exact as torch's: see `gradients_are_exact_but_for_rounding`.
    let bound = if name == "gpt2" { 3.5e-4 } else { 1e-4 };
    assert!(
        logit < tolerance(bound) && divergence < tolerance(1e-4),
        "{name} {key}: logits differ by {logit}, KL by {divergence}"
    );
}

#[test]
fn full_finetuning_agrees() {
    for fixtures in all() {
        let names = fixtures.trained();
        assert!(["gpt2", "llama", "opt"].iter().all(|name| names.iter().any(|found| found == name)), "{names:?}");
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
                        assert!(
                            (norm - want).abs() < tolerance(1e-3) * want,
                            "{name} {key} {path} {factor}: {norm} for {want}"
                        );
                    }
                }
            }
        }
    }
}

/// Makes every parameter one that gradients flow to.
struct Tracked;

impl ModuleMapper for Tracked {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.autodiff().require_grad())
    }
}

/// Gradients by name, two-dimensional ones transposed: as PEFT keeps the factors of its adapters.
struct Found<'a> {
    path: Vec<String>,
    gradients: &'a Gradients,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Found<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = param.val().grad(self.gradients) else { return };
        let gradient = if D == 2 { gradient.swap_dims(0, 1) } else { gradient };
        self.found.insert(self.path.join("."), values(gradient));
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

/// Against gradients that torch computed in float64 (`fixtures/make_exact.py`). Torch's own in float32 are off by 3e-7 to
/// 1.5e-6 of their norm; ours by as much, and neither with the fused operations nor without them by more.
#[test]
fn gradients_are_exact_but_for_rounding() {
    for name in ["gpt2", "llama"] {
        let model = own().adapted(name, "r8/plain").0.map(&mut Tracked);
        let examples = own().examples(name);
        let rows: Vec<_> = examples[..2].iter().collect();
        let tokens: usize = rows.iter().map(|row| row.ids.len() - 1).sum();
        let pass = LossPass { denominator: tokens as f64, ..LossPass::plain() };
        let gradients = model.loss(&rows, &pass).unwrap().backward();
        let mut found = Found { path: Vec::new(), gradients: &gradients, found: BTreeMap::new() };
        model.visit(&mut found);
        let exact = own().tensors(&format!("expected/{name}/exact.safetensors"));
        assert!(exact.len() > 5, "{name}");
        for (key, (_, want)) in exact {
            let found = &found.found[&key.replace("lora_A", "lora.a").replace("lora_B", "lora.b")];
            let pairs = || found.iter().zip(&want).map(|(&found, want)| (f64::from(found), want));
            let off = pairs().map(|(found, want)| (found - want).powi(2)).sum::<f64>();
            let norm = pairs().map(|(_, want)| want.powi(2)).sum::<f64>();
            let off = (off / norm).sqrt();
            assert!(off < tolerance(3e-6), "{name} {key}: off by {off:e} of its norm");
        }
    }
}
