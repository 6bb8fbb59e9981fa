//! Training of classifiers agrees with transformers: ten AdamW steps as `fixtures/make_fixtures.py` made them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use palinode_models::lora::{self, LoraConfig, attach};
use palinode_models::model::values;
use palinode_models::train::{
    Labelled, Length, LossPass, Reduction, TrainConfig, TrainError, Trainable, Trained, train,
};
use palinode_models::weights::Weights;
use palinode_models::{Batch, ModelFiles, SequenceClassifier, peft};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

mod support;

use support::{device, tolerance};

fn roots() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let reference = std::env::var_os("PALINODE_REFERENCE").map(|root| Path::new(&root).join("fixtures"));
    std::iter::once(own).chain(reference.filter(|root| root.exists())).collect()
}

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Each classifier that was trained, with its root.
fn trained() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for root in roots() {
        for (name, entry) in json(root.join("manifest.json"))["models"].as_object().unwrap() {
            if entry["task"] == "cls" && entry["trained"] == true {
                found.push((root.clone(), name.clone()));
            }
        }
    }
    assert!(found.len() > 2, "the fixtures are missing");
    found
}

fn load(root: &Path, name: &str) -> SequenceClassifier {
    SequenceClassifier::load(&ModelFiles::folder(root.join("models").join(name)).unwrap(), &device()).unwrap()
}

/// Shape and numbers of a tensor.
fn tensor(tensors: &SafeTensors<'_>, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
    let view = tensors.tensor(name).ok()?;
    let data = view.data();
    let numbers = match view.dtype() {
        Dtype::I64 => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        _ => data.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
    };
    Some((view.shape().to_vec(), numbers))
}

/// The examples, and how many there are in a micro-batch.
fn examples(root: &Path, name: &str) -> (Vec<Labelled>, usize) {
    let bytes = std::fs::read(root.join(format!("expected/{name}/train.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (shape, ids) = tensor(&tensors, "input_ids").unwrap();
    let (_, mask) = tensor(&tensors, "attention_mask").unwrap();
    let (_, labels) = tensor(&tensors, "labels").unwrap();
    let types = tensor(&tensors, "token_type_ids").map(|(_, types)| types);
    let width = shape[2];
    let example = |row: usize| {
        let places = (row * width..(row + 1) * width).filter(|&at| mask[at] == 1.0);
        let pick = |values: &[f64]| places.clone().map(|at| values[at] as u32).collect();
        Labelled {
            ids: pick(&ids),
            types: types.as_deref().map(pick).unwrap_or_default(),
            label: labels[row] as u32,
            weight: 1.0,
        }
    };
    ((0..labels.len()).map(example).collect(), shape[1])
}

/// The model that a run began with, or came to: a classifier with the adapters of PEFT's files.
fn adapted(root: &Path, name: &str, at: &str) -> (SequenceClassifier, LoraConfig) {
    let mut model = load(root, name);
    let files = ModelFiles::folder(root.join("adapters").join(name).join(at)).unwrap();
    let config = peft::load_adapter(&mut model, &files).unwrap_or_else(|error| panic!("{name} {at}: {error}"));
    (model, config)
}

#[test]
fn ten_steps_agree_with_transformers_and_peft() {
    for (root, name) in trained() {
        let recorded = json(root.join(format!("expected/{name}/train.json")));
        let (examples, micro_batch) = examples(&root, &name);
        let runs = recorded["runs"].as_object().unwrap();
        assert!(runs.keys().filter(|key| key.starts_with("lora_")).count() > 3, "{name}");
        for (key, run) in runs {
            let trainer = run["mode"] == "trainer";
            let tag = key.strip_prefix("lora_").and_then(|key| key.split('.').next());
            let config = TrainConfig {
                length: Length::Steps(recorded["steps"].as_u64().unwrap() as usize),
                micro_batch,
                accumulation: recorded["accumulation"].as_u64().unwrap() as usize,
                reduction: Reduction::MicroBatches,
                rate: run["lr"].as_f64().unwrap(),
                warmup: run["warmup"].as_u64().unwrap() as usize,
                weight_decay: run["weight_decay"].as_f64().unwrap(),
                decay_vectors: !trainer,
                clip: trainer.then_some(1.0),
                trained: if tag.is_some() { Trained::Adapters } else { Trained::All },
                shuffle: false,
                bucket: false,
                ..TrainConfig::default()
            };
            let model = match tag {
                Some(tag) => adapted(&root, &name, &format!("{tag}/init")).0,
                None => load(&root, &name),
            };
            let (tuned, report) = train(model, &examples, &config, |_: &_, _| ControlFlow::Continue(())).unwrap();
            assert_eq!(report.trained_parameters as u64, run["trainable"].as_u64().unwrap(), "{name} {key}");
            let losses: Vec<f64> = serde_json::from_value(run["loss"].clone()).unwrap();
            let norms: Vec<f64> = serde_json::from_value(run["grad_norm_before_clip"].clone()).unwrap();
            assert_eq!(report.steps.len(), losses.len());
            for (step, (loss, norm)) in report.steps.iter().zip(losses.iter().zip(&norms)) {
                let at = step.step;
                assert!((step.loss - loss).abs() < tolerance(1e-3), "{name} {key} {at}: {} for {loss}", step.loss);
                let off = (step.gradient_norm - norm).abs() / norm;
                assert!(off < tolerance(1e-3), "{name} {key} {at}: norm {} for {norm}", step.gradient_norm);
            }
            if tag.is_some() {
                norms_agree(&tuned, run, &format!("{name} {key}"));
            }
            if !trainer {
                outcome_agrees(&root, &name, key, &tuned);
            }
        }
    }
}

/// Norms of the factors and of the head after training.
fn norms_agree(tuned: &SequenceClassifier, run: &Value, what: &str) {
    let mut found: Vec<(String, Vec<f32>)> = Vec::new();
    for (path, adapter) in tuned.adapters() {
        found.push((format!("{path}.lora_A.default.weight"), values(adapter.a.val())));
        found.push((format!("{path}.lora_B.default.weight"), values(adapter.b.val())));
    }
    for (name, (_, values)) in tuned.tensors() {
        if let Some(rest) = name.strip_prefix("score.") {
            found.push((format!("score.modules_to_save.default.{rest}"), values));
        } else if let Some(rest) = name.strip_prefix("classifier.") {
            found.push((format!("classifier.modules_to_save.default.{rest}"), values));
        }
    }
    let expected = run["final_norm"].as_object().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (name, values) in found {
        let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let want = expected[&format!("base_model.model.{name}")].as_f64().unwrap();
        assert!((norm - want).abs() < tolerance(1e-3) * want, "{what} {name}: {norm} for {want}");
    }
}

/// Logits of the evaluation batch after training.
fn outcome_agrees(root: &Path, name: &str, key: &str, tuned: &SequenceClassifier) {
    let [forward, after] = ["forward", "trained"]
        .map(|file| std::fs::read(root.join(format!("expected/{name}/{file}.safetensors"))).unwrap());
    let forward = SafeTensors::deserialize(&forward).unwrap();
    let (shape, ids) = tensor(&forward, "right.input_ids").unwrap();
    let (_, mask) = tensor(&forward, "right.attention_mask").unwrap();
    let ids = ids.iter().map(|&id| id as u32).collect();
    let mut batch = Batch::new(ids, mask.iter().map(|&real| real == 1.0).collect(), [shape[0], shape[1]]).unwrap();
    if let Some((_, types)) = tensor(&forward, "right.token_type_ids") {
        batch = batch.with_types(types.iter().map(|&kind| kind as u32).collect()).unwrap();
    }
    let after = SafeTensors::deserialize(&after).unwrap();
    let (_, expected) = tensor(&after, &format!("{key}.logits")).unwrap();
    for (found, expected) in values(tuned.forward(&batch).unwrap()).into_iter().zip(expected) {
        let off = (f64::from(found) - expected).abs();
        assert!(off < tolerance(2e-4), "{name} {key}: {found} for {expected}");
    }
}

/// Adapters and heads as PEFT saved them give its logits, and are written as it writes them.
#[test]
fn adapters_are_read_and_written_with_their_head() {
    for (root, name) in trained() {
        let tags = std::fs::read_dir(root.join(format!("adapters/{name}"))).unwrap();
        let tags: Vec<String> = tags.map(|tag| tag.unwrap().file_name().into_string().unwrap()).collect();
        assert!(tags.len() > 1, "{name}: {tags:?}");
        for tag in &tags {
            let folder = root.join(format!("adapters/{name}/{tag}/plain"));
            let (model, config) = adapted(&root, &name, &format!("{tag}/plain"));
            outcome_agrees(&root, &name, &format!("lora_{tag}.plain"), &model);
            let written = tempfile::tempdir().unwrap();
            // The head is written whether the config says so or not.
            let unsaid = LoraConfig { modules_to_save: Vec::new(), ..config.clone() };
            peft::save_adapter(&model, &unsaid, &format!("models/{name}"), written.path()).unwrap();
            let open = |folder: &Path| Weights::open_file(&ModelFiles::folder(folder).unwrap(), peft::TENSORS).unwrap();
            let (mut theirs, mut ours) = (open(&folder), open(written.path()));
            let names: Vec<String> = theirs.names().map(str::to_owned).collect();
            assert!(names.iter().any(|name| name.contains("score.") || name.contains("classifier.")), "{names:?}");
            assert_eq!(ours.names().collect::<Vec<_>>(), names, "{name}");
            for tensor in &names {
                assert_eq!(ours.read(tensor).unwrap(), theirs.read(tensor).unwrap(), "{name} {tensor}");
            }
            let (theirs, ours) = (json(folder.join(peft::CONFIG)), json(written.path().join(peft::CONFIG)));
            for (key, value) in ours.as_object().unwrap() {
                assert_eq!(value, &theirs[key], "{name} {tag}: {key}");
            }
            let mut again = load(&root, &name);
            assert_eq!(peft::load_adapter(&mut again, &ModelFiles::folder(written.path()).unwrap()).unwrap(), config);
            assert_eq!(again.tensors(), model.tensors());
            let mut merged = model.clone();
            lora::merge(&mut merged);
            outcome_agrees(&root, &name, &format!("lora_{tag}.plain"), &merged);
        }
    }
}

/// An older adapter, whose tensors are a pickle.
#[test]
fn an_adapter_in_a_pytorch_checkpoint_is_the_same() {
    let (root, name) = (roots().remove(0), "opt_cls");
    let (model, config) = adapted(&root, name, "r2/plain");
    let files: ModelFiles = [
        (peft::CONFIG, root.join(format!("adapters/{name}/r2/plain/{}", peft::CONFIG))),
        (peft::TORCH_TENSORS, root.join("checkpoints").join(peft::TORCH_TENSORS)),
    ]
    .into_iter()
    .collect();
    let mut again = load(&root, name);
    assert_eq!(peft::load_adapter(&mut again, &files).unwrap(), config);
    assert_eq!(again.tensors(), model.tensors());
    let factors = |model: &SequenceClassifier| {
        let both = |(path, adapter): (String, palinode_models::layers::LoraAdapter)| {
            (path, values(adapter.a.val()), values(adapter.b.val()))
        };
        model.adapters().into_iter().map(both).collect::<Vec<_>>()
    };
    assert!(!factors(&again).is_empty() && factors(&again) == factors(&model));
}

/// Adapters go where PEFT puts them, and the head learns beside them.
#[test]
fn adapters_and_the_head_learn() {
    for (root, name) in trained() {
        let (examples, micro_batch) = examples(&root, &name);
        let mut model = load(&root, &name);
        let before = model.tensors();
        let adapters = LoraConfig::peft_default(model.config().family, 2);
        attach(&mut model, &adapters, 5).unwrap();
        let config = TrainConfig {
            length: Length::Steps(4),
            micro_batch,
            rate: 1e-2,
            trained: Trained::Adapters,
            ..TrainConfig::default()
        };
        let (tuned, report) = train(model, &examples, &config, |_: &_, _| ControlFlow::Continue(())).unwrap();
        assert!(report.delta_norm > 0.0, "{name}");
        assert!(tuned.adapters().values().all(|adapter| adapter.norm() > 0.0), "{name}");
        let changed: Vec<String> =
            tuned.tensors().into_iter().filter(|(key, value)| before[key] != *value).map(|(key, _)| key).collect();
        let head = before.keys().filter(|key| key.starts_with("score.") || key.starts_with("classifier."));
        assert_eq!(changed, head.cloned().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn classes_and_rows_that_do_not_fit_are_told() {
    let (root, name) = trained().remove(0);
    let model = load(&root, &name);
    let loss = |ids: Vec<u32>, types: Vec<u32>, label| {
        model
            .loss(&[&Labelled { ids, types, label, weight: 1.0 }], &LossPass::plain())
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(loss(vec![5, 6], vec![], 0), Ok(()));
    insta::assert_snapshot!(loss(vec![5, 6], vec![], 3).unwrap_err(), @"class 3 is outside the classifier's 3");
    assert!(loss(vec![], vec![], 0).is_err() && loss(vec![5, 6], vec![0], 0).is_err());
    let none: [Labelled; 0] = [];
    let stop = |_: &_, _: usize| ControlFlow::Continue(());
    assert!(matches!(train(model, &none, &TrainConfig::default(), stop), Err(TrainError::NoExamples)));
}

#[test]
fn a_weight_makes_a_loss_count_so_many_times() {
    for (root, name) in trained() {
        let (rows, _) = examples(&root, &name);
        let model = load(&root, &name);
        let loss = |rows: &[&Labelled]| model.loss(rows, &LossPass::plain()).unwrap().into_scalar::<f32>();
        let weighed: Vec<Labelled> = rows
            .iter()
            .take(4)
            .enumerate()
            .map(|(at, row)| Labelled { weight: [0.5, 2.0, 0.5, 3.0][at], ..row.clone() })
            .collect();
        let expected: f32 =
            weighed.iter().map(|row| row.weight * loss(&[&Labelled { weight: 1.0, ..row.clone() }])).sum();
        let found = loss(&weighed.iter().collect::<Vec<_>>());
        assert!((found - expected).abs() < 1e-4 * expected.abs(), "{name}: {found} {expected}");
    }
}
