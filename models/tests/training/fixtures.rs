//! What `fixtures/make_fixtures.py` wrote with torch, transformers and PEFT, and models made of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use palinode_models::lora::LoraConfig;
use palinode_models::model::values;
use palinode_models::train::{Example, StepReport};
use palinode_models::{Batch, CausalLm, ModelFiles, peft};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::device;

pub(crate) const MODELS: [&str; 2] = ["gpt2", "llama"];

/// A folder of fixtures: the project's own, or a larger one.
#[derive(Debug, Clone)]
pub(crate) struct Fixtures(PathBuf);

pub(crate) fn own() -> Fixtures {
    Fixtures(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"))
}

/// The project's own, and those of the reference data if there are some.
pub(crate) fn all() -> Vec<Fixtures> {
    let reference = std::env::var_os("PALINODE_REFERENCE").map(|root| Fixtures(Path::new(&root).join("fixtures")));
    [own()].into_iter().chain(reference).collect()
}

impl Fixtures {
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Names of the models with a training run that are causal language models of a family that there is.
    pub(crate) fn trained(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("expected")).unwrap().map(|entry| entry.unwrap().file_name());
        let causal = |name: &String| {
            let labels = self.path(&format!("expected/{name}/train.json")).exists()
                && self.tensors(&format!("expected/{name}/train.safetensors"))["labels"].0.len() == 3;
            let config = std::fs::read_to_string(self.path(&format!("models/{name}/config.json")));
            labels && palinode_models::ModelConfig::parse(&config.unwrap()).is_ok()
        };
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).filter(causal).collect();
        names.sort();
        names
    }

    pub(crate) fn base(&self, name: &str) -> CausalLm {
        CausalLm::load(&ModelFiles::folder(self.path(&format!("models/{name}"))).unwrap(), &device()).unwrap()
    }

    pub(crate) fn adapter(&self, name: &str, at: &str) -> PathBuf {
        self.path(&format!("adapters/{name}/{at}"))
    }

    pub(crate) fn adapted(&self, name: &str, at: &str) -> (CausalLm, LoraConfig) {
        let mut model = self.base(name);
        let files = ModelFiles::folder(self.adapter(name, at)).unwrap();
        let config = peft::load_adapter(&mut model, &files).unwrap();
        (model, config)
    }

    /// Tensors of a file as f64, with their shapes.
    pub(crate) fn tensors(&self, path: &str) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
        let bytes = std::fs::read(self.path(path)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let number = |view: &safetensors::tensor::TensorView<'_>| match view.dtype() {
            safetensors::Dtype::I64 => {
                view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
            }
            _ => view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        };
        tensors.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), number(&view)))).collect()
    }

    /// The texts of a training run, in order. Ignored labels stand before the others.
    pub(crate) fn examples(&self, name: &str) -> Vec<Example> {
        let tensors = self.tensors(&format!("expected/{name}/train.safetensors"));
        let (shape, ids) = &tensors["input_ids"];
        let mask = &tensors["attention_mask"].1;
        let (ids, labels) = (rows(ids, mask, shape[2]), real(&tensors["labels"].1, mask, shape[2]));
        let example = |(ids, labels): (Vec<u32>, Vec<f64>)| {
            let loss_from = labels.iter().take_while(|&&label| label < 0.0).count();
            assert!(labels[loss_from..].iter().zip(&ids[loss_from..]).all(|(&label, &id)| label == f64::from(id)));
            Example { ids, loss_from }
        };
        ids.into_iter().zip(labels).map(example).collect()
    }

    /// The evaluation's batch with its mask.
    pub(crate) fn evaluation(&self, name: &str) -> (Batch, Vec<f64>) {
        let inputs = self.tensors(&format!("expected/{name}/forward.safetensors"));
        let (shape, ids) = &inputs["right.input_ids"];
        let mask = inputs["right.attention_mask"].1.clone();
        let batch = Batch::right_padded(&rows(ids, &mask, shape[1]), 0).unwrap();
        assert_eq!(batch.dims()[1], shape[1]);
        (batch, mask)
    }

    /// The largest differences of a trained model's logits, and of its divergence from the base, from the fixtures'.
    pub(crate) fn outcome(&self, name: &str, key: &str, tuned: &CausalLm) -> (f64, f64) {
        let trained = self.tensors(&format!("expected/{name}/trained.safetensors"));
        let (batch, mask) = self.evaluation(name);
        let vocab = tuned.config().vocab_size;
        let found = values(tuned.forward_rows(&batch).unwrap());
        let before = values(self.base(name).forward_rows(&batch).unwrap());
        let kl = divergence(&before, &found, vocab);
        let (mut logit, mut divergence) = (0.0f64, 0.0f64);
        for (at, _) in mask.iter().enumerate().filter(|&(_, &real)| real == 1.0) {
            divergence = divergence.max((kl[at] - trained[&format!("{key}.kl_base_tuned")].1[at]).abs());
            if let Some((_, logits)) = trained.get(&format!("{key}.logits")) {
                for token in at * vocab..(at + 1) * vocab {
                    let want = logits[token];
                    logit = logit.max((f64::from(found[token]) - want).abs() / (1.0 + want.abs()));
                }
            }
        }
        (logit, divergence)
    }
}

pub(crate) fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn real(values: &[f64], mask: &[f64], width: usize) -> Vec<Vec<f64>> {
    let real = |(values, mask): (&[f64], &[f64])| {
        values.iter().zip(mask).filter(|(_, real)| **real == 1.0).map(|(&value, _)| value).collect()
    };
    values.chunks(width).zip(mask.chunks(width)).map(real).collect()
}

/// The real tokens of each row of `ids` under `mask`.
fn rows(ids: &[f64], mask: &[f64], width: usize) -> Vec<Vec<u32>> {
    real(ids, mask, width).into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect()
}

/// `KL(base || tuned)` in nats at each position.
fn divergence(base: &[f32], tuned: &[f32], vocab: usize) -> Vec<f64> {
    let log_softmax = |row: &[f32]| {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|&x| f64::from(x - highest).exp()).sum();
        row.iter().map(|&x| f64::from(x - highest) - total.ln()).collect::<Vec<f64>>()
    };
    let row = |(base, tuned): (&[f32], &[f32])| {
        log_softmax(base).iter().zip(log_softmax(tuned)).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    base.chunks(vocab).zip(tuned.chunks(vocab)).map(row).collect()
}

pub(crate) fn silent(_: &StepReport, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
