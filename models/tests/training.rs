//! Agreement with torch, transformers and PEFT in training: losses, gradient norms and outcomes of ten AdamW steps,
//! full and LoRA; adapters read and written. The numbers come from `fixtures/make_fixtures.py`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::lora::{self, LoraConfig, LoraInit, Targets};
use palinode_models::model::values;
use palinode_models::train::{
    Example, Length, Reduction, StepReport, TrainConfig, TrainError, TrainReport, Trained, evaluate, train,
};
use palinode_models::weights::Weights;
use palinode_models::{Batch, CausalLm, ModelConfig, ModelFiles, peft};
use safetensors::SafeTensors;
use serde_json::Value;

const MODELS: [&str; 2] = ["gpt2", "llama"];

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn base(name: &str) -> CausalLm {
    CausalLm::load(&ModelFiles::folder(fixture("models").join(name)).unwrap(), &Device::flex()).unwrap()
}

fn adapter(name: &str, at: &str) -> PathBuf {
    fixture("adapters").join(name).join(at)
}

fn adapted(name: &str, at: &str) -> (CausalLm, LoraConfig) {
    let mut model = base(name);
    let config = peft::load_adapter(&mut model, &ModelFiles::folder(adapter(name, at)).unwrap()).unwrap();
    (model, config)
}

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Tensors of a file as f64, with their shapes.
fn tensors(path: &str) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(fixture(path)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let number = |view: &safetensors::tensor::TensorView<'_>| match view.dtype() {
        safetensors::Dtype::I64 => {
            view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
        }
        _ => view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
    };
    tensors.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), number(&view)))).collect()
}

/// The real tokens of each row of `ids` under `mask`.
fn rows(ids: &[f64], mask: &[f64], width: usize) -> Vec<Vec<u32>> {
    let real = |(ids, mask): (&[f64], &[f64])| {
        ids.iter().zip(mask).filter(|(_, real)| **real == 1.0).map(|(&id, _)| id as u32).collect()
    };
    ids.chunks(width).zip(mask.chunks(width)).map(real).collect()
}

fn examples(name: &str) -> Vec<Example> {
    let tensors = tensors(&format!("expected/{name}/train.safetensors"));
    let (shape, ids) = &tensors["input_ids"];
    let rows = rows(ids, &tensors["attention_mask"].1, shape[2]);
    rows.into_iter().map(|ids| Example { ids, loss_from: 0 }).collect()
}

/// The config of a run of the fixtures.
fn recipe(run: &Value, trained: Trained) -> TrainConfig {
    let trainer = run["mode"] == "trainer";
    TrainConfig {
        length: Length::Steps(10),
        micro_batch: 2,
        accumulation: 2,
        reduction: if trainer { Reduction::Tokens } else { Reduction::MicroBatches },
        rate: run["lr"].as_f64().unwrap(),
        warmup: run["warmup"].as_u64().unwrap() as usize,
        weight_decay: run["weight_decay"].as_f64().unwrap(),
        decay_vectors: !trainer,
        clip: trainer.then_some(1.0),
        trained,
        shuffle: false,
        bucket: false,
        ..TrainConfig::default()
    }
}

fn silent(_: &StepReport, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
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

/// `KL(base || tuned)` in nats at each real position.
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

/// Compares a trained model's logits and its divergence from the base with the fixtures'.
fn assert_outcome(name: &str, key: &str, tuned: &CausalLm) {
    let trained = tensors(&format!("expected/{name}/trained.safetensors"));
    let inputs = tensors(&format!("expected/{name}/forward.safetensors"));
    let (shape, ids) = &inputs["right.input_ids"];
    let mask = &inputs["right.attention_mask"].1;
    let batch = Batch::right_padded(&rows(ids, mask, shape[1]), 0).unwrap();
    let [_, seq] = batch.dims();
    assert_eq!(seq, shape[1]);
    let vocab = tuned.config().vocab_size;
    let found = values(tuned.forward_rows(&batch).unwrap());
    let before = values(base(name).forward_rows(&batch).unwrap());
    let kl = divergence(&before, &found, vocab);
    for (at, _) in mask.iter().enumerate().filter(|&(_, &real)| real == 1.0) {
        let want = trained[&format!("{key}.kl_base_tuned")].1[at];
        assert!((kl[at] - want).abs() < 1e-3 * (1.0 + want), "{name} {key}: KL {} for {want}", kl[at]);
        if let Some((_, logits)) = trained.get(&format!("{key}.logits")) {
            for token in at * vocab..(at + 1) * vocab {
                let difference = (f64::from(found[token]) - logits[token]).abs();
                assert!(difference < 2e-3, "{name} {key}: logit {} for {}", found[token], logits[token]);
            }
        }
    }
}

#[test]
fn full_finetuning_agrees() {
    for name in MODELS {
        let runs = &json(fixture(&format!("expected/{name}/train.json")))["runs"];
        for mode in ["plain", "trainer"] {
            let run = &runs[format!("full.{mode}")];
            let (tuned, report) = train(base(name), &examples(name), &recipe(run, Trained::All), silent).unwrap();
            assert_agrees(&report, run, &format!("{name} full {mode}"));
            if mode == "plain" {
                assert_outcome(name, "full.plain", &tuned);
            }
        }
    }
}

#[test]
fn lora_agrees() {
    for name in MODELS {
        let runs = json(fixture(&format!("expected/{name}/train.json")))["runs"].clone();
        for (key, run) in runs.as_object().unwrap().iter().filter(|(key, _)| key.starts_with("lora_")) {
            let (tag, mode) = key["lora_".len()..].split_once('.').unwrap();
            let (model, config) = adapted(name, &format!("{tag}/init"));
            assert_eq!(config.scale(), run["scaling"].as_f64().unwrap());
            let config = recipe(run, Trained::Adapters);
            let (tuned, report) = train(model, &examples(name), &config, silent).unwrap();
            assert_agrees(&report, run, &format!("{name} {key}"));
            if mode == "plain" {
                assert_outcome(name, key, &tuned);
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

#[test]
fn adapters_are_read_as_peft_reads_them_and_written_back() {
    for name in MODELS {
        for tag in ["r2", "r4", "r8"] {
            let folder = adapter(name, &format!("{tag}/plain"));
            let (model, config) = adapted(name, &format!("{tag}/plain"));
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
    for (name, path) in ModelFiles::folder(fixture("models/gpt2")).unwrap().iter() {
        files.insert(format!("base/{name}"), path.to_owned());
    }
    let (model, config) = adapted("gpt2", "r4/plain");
    peft::save_adapter(&model, &config, "base", folder.path()).unwrap();
    for (name, path) in ModelFiles::folder(folder.path()).unwrap().iter() {
        files.insert(name.to_owned(), path.to_owned());
    }
    let opened = peft::load_model(&files.into_iter().collect(), &Device::flex()).unwrap();
    assert_outcome("gpt2", "lora_r4.plain", &opened);
    let plain = ModelFiles::folder(fixture("models/gpt2")).unwrap();
    assert!(!lora::has_adapters(&peft::load_model(&plain, &Device::flex()).unwrap()));
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let open = |edit: &dyn Fn(&mut Value), tensors: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut config = json(adapter("gpt2", "r4/init").join(peft::CONFIG));
        edit(&mut config);
        std::fs::write(folder.path().join(peft::CONFIG), config.to_string()).unwrap();
        std::fs::copy(adapter("gpt2", tensors).join(peft::TENSORS), folder.path().join(peft::TENSORS)).unwrap();
        let files = ModelFiles::folder(folder.path()).unwrap();
        peft::load_adapter(&mut base("gpt2"), &files).unwrap_err().to_string()
    };
    let key = |at: usize, path: &str, factor: char| {
        format!("`base_model.model.transformer.h.{at}.{path}.lora_{factor}.weight`")
    };
    assert_eq!(
        open(&|config| config["target_modules"] = "q_proj".into(), "r4/init"),
        "`adapter_config.json` is not valid: `target_modules` is \"q_proj\", expected a list of names or \"all-linear\""
    );
    assert_eq!(
        open(&|config| config["target_modules"] = vec!["q_proj"].into(), "r4/init"),
        "no linear layer is called `q_proj`; the model has c_attn, c_fc, c_proj"
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
        let mut model = base(name);
        let plain = LoraConfig::peft_default(model.config().family, 8);
        lora::attach(&mut model, &plain, 1).unwrap();
        let (_, theirs) = adapted(name, "r8/init");
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

        let mut model = base(name);
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
        let mut model = base("llama");
        lora::attach(&mut model, &LoraConfig::paper_text(rank), 3).unwrap();
        model.adapters().remove("model.layers.1.mlp.down_proj").unwrap().a.val()
    };
    let (low, high) = (start(2), start(8));
    assert_eq!(values(low), values(high.narrow(1, 0, 2)));
}

#[test]
fn merging_keeps_the_function_and_unmerging_gives_the_weights_back() {
    for name in MODELS {
        let (mut model, _) = adapted(name, "r8/plain");
        let untouched = base(name).tensors();
        let adapters = lora::merge(&mut model);
        assert!(!lora::has_adapters(&model));
        assert_outcome(name, "lora_r8.plain", &model);
        let merged = lora::delta_norms(&base(name), &model);
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
fn the_control_trains_the_weights_that_lora_would_adapt() {
    let targets = Targets::Names(vec!["c_attn".into()]);
    let config = TrainConfig { trained: Trained::Weights(targets), ..TrainConfig::default() };
    let (tuned, report) = train(base("gpt2"), &examples("gpt2"), &config, silent).unwrap();
    assert_eq!(report.trained_parameters, 3 * 64 * 192);
    let changed: Vec<_> = lora::delta_norms(&base("gpt2"), &tuned).into_keys().collect();
    let expected: Vec<_> = (0..3).map(|at| format!("transformer.h.{at}.attn.c_attn.weight")).collect();
    assert_eq!(changed, expected);
    assert_eq!(report.delta_norms.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(report.delta_norm > 0.0);
}

#[test]
fn lora_leaves_the_base_alone_and_dropout_follows_the_seed() {
    let run = |dropout, seed| {
        let mut model = base("llama");
        let config = LoraConfig { dropout, ..LoraConfig::paper_text(4) };
        lora::attach(&mut model, &config, 0).unwrap();
        let config =
            TrainConfig { trained: Trained::Adapters, rate: 1e-2, shuffle: false, seed, ..TrainConfig::default() };
        train(model, &examples("llama"), &config, silent).unwrap()
    };
    let (tuned, report) = run(0.3, 1);
    assert_eq!(tuned.tensors(), base("llama").tensors());
    assert_eq!(report, run(0.3, 1).1);
    assert_ne!(report.steps, run(0.3, 2).1.steps);
    assert_ne!(report.steps, run(0.0, 1).1.steps);
    assert_eq!(run(0.0, 1).1.steps, run(0.0, 2).1.steps);
}

#[test]
fn bytes_do_not_depend_on_the_thread_count() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let config = ModelConfig::gpt2(700, 64, 128, 2, 4);
            let model = CausalLm::random(config, 5, &Device::flex()).unwrap();
            let ids = |at: u32| (0..40).map(|i| (i * 31 + at * 17) % 700).collect();
            let examples: Vec<Example> = (0..24).map(|at| Example { ids: ids(at), loss_from: 3 }).collect();
            let config = TrainConfig { length: Length::Steps(3), micro_batch: 12, ..TrainConfig::default() };
            let (tuned, report) = train(model, &examples, &config, silent).unwrap();
            (tuned.tensors(), report)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(one.1, three.1);
    assert!(one.0 == three.0, "weights differ");
}

/// Sums over as many values (4.3 million) as burn's CPU backend shares among threads, by family.
#[test]
fn bytes_of_large_sums_do_not_depend_on_the_thread_count() {
    for config in [ModelConfig::gpt2(64, 128, 512, 1, 4), ModelConfig::llama(64, 128, 512, 1, 4, 512)] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let model = CausalLm::random(config.clone(), 5, &Device::flex()).unwrap();
                let ids = |at: u32| (0..128).map(|i| (i * 31 + at * 17) % 64).collect();
                let examples: Vec<Example> = (0..66).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
                let config = TrainConfig { length: Length::Steps(1), micro_batch: 66, ..TrainConfig::default() };
                let (tuned, report) = train(model, &examples, &config, silent).unwrap();
                (tuned.tensors(), report)
            })
        };
        let (one, two) = (run(1), run(2));
        assert_eq!(one.1, two.1);
        assert!(one.0 == two.0, "weights of a {} differ", config.family.name());
    }
}

#[test]
fn padding_and_the_prompt_do_not_enter_the_loss() {
    let model = base("gpt2");
    let long = Example { ids: (1..12).collect(), loss_from: 9 };
    let short = Example { ids: vec![7, 8, 9], loss_from: 2 };
    let alone = |example: &Example| evaluate(&model, std::slice::from_ref(example), 1).unwrap();
    let together = evaluate(&model, &[long.clone(), short.clone()], 2).unwrap();
    let weighted = (2.0 * alone(&long) + alone(&short)) / 3.0;
    assert!((together - weighted).abs() < 1e-5, "{together} {weighted}");
    let prefix = Example { ids: (1..11).collect(), loss_from: 9 };
    let last = Example { ids: (1..12).collect(), loss_from: 10 };
    assert!((alone(&long) - (alone(&prefix) + alone(&last)) / 2.0).abs() < 1e-5);
}

#[test]
fn a_run_that_cannot_go_on_says_why() {
    let fails = |examples: &[Example], config: TrainConfig| {
        train(base("gpt2"), examples, &config, silent).map(drop).unwrap_err().to_string()
    };
    let ids = |len: u32| Example { ids: (0..len).collect(), loss_from: 0 };
    assert_eq!(fails(&[], TrainConfig::default()), "there are no examples to train on");
    assert_eq!(
        fails(&[ids(4), ids(1)], TrainConfig::default()),
        "example 1 has no token to predict: it has 1, and the loss begins behind them"
    );
    assert_eq!(fails(&[ids(66)], TrainConfig::default()), "65 tokens do not fit the model's context of 64");
    assert_eq!(
        fails(&[ids(4)], TrainConfig { trained: Trained::Adapters, ..TrainConfig::default() }),
        "the model has no adapters to train"
    );
    assert_eq!(
        fails(&[ids(4)], TrainConfig { micro_batch: 0, ..TrainConfig::default() }),
        "training's micro_batch is 0, expected at least 1"
    );
    let broken = TrainConfig {
        rate: 1e30,
        length: Length::Steps(9),
        decay_vectors: true,
        weight_decay: 1e9,
        ..TrainConfig::default()
    };
    let message = fails(&[ids(4)], broken);
    assert!(message.starts_with("the loss became NaN at step 1 (learning rate 8.8"), "{message}");
    let stop = |report: &StepReport, total| {
        assert_eq!(total, 20);
        if report.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let config = TrainConfig { length: Length::Epochs(4), ..TrainConfig::default() };
    let cancelled = train(base("gpt2"), &examples("gpt2"), &config, stop);
    assert!(matches!(cancelled, Err(TrainError::Cancelled { step: 2 })));
}

#[test]
fn a_last_window_that_is_not_full_is_a_step_of_its_own() {
    let examples = &examples("llama")[..7];
    let config = TrainConfig { micro_batch: 2, accumulation: 2, length: Length::Epochs(2), ..TrainConfig::default() };
    let (_, report) = train(base("llama"), examples, &config, silent).unwrap();
    assert_eq!((report.steps.len(), report.examples, report.effective_batch), (4, 14, 4));
    let tokens: usize = examples.iter().map(|example| example.ids.len() - 1).sum();
    assert_eq!(report.tokens, 2 * tokens);
}

/// Gradients of LoRA's factors against central differences of the loss.
#[test]
fn lora_gradients_match_finite_differences() {
    for name in MODELS {
        let examples = &examples(name)[..2];
        let (model, _) = adapted(name, "r4/plain");
        let path = model.adapters().into_keys().next_back().unwrap();
        // One plain-gradient step: AdamW's first moment is (1 - beta1) g, and with a huge eps the update is
        // proportional to the gradient itself, so the change of a factor shows its gradient.
        let eps = 1e6;
        let adamw = palinode_models::train::AdamW { eps, ..Default::default() };
        let config = TrainConfig {
            trained: Trained::Adapters,
            rate: eps,
            adamw,
            clip: None,
            decay: palinode_models::train::Decay::Constant,
            micro_batch: 2,
            length: Length::Steps(1),
            ..TrainConfig::default()
        };
        let (tuned, _) = train(model.clone(), examples, &config, silent).unwrap();
        for factor in ['a', 'b'] {
            let of = |model: &CausalLm| {
                let adapter = model.adapters().remove(&path).unwrap();
                let param = if factor == 'a' { adapter.a } else { adapter.b };
                param.val()
            };
            let (before, after) = (values(of(&model)), values(of(&tuned)));
            for at in [0, 7, before.len() / 2, before.len() - 1] {
                let gradient = f64::from(before[at]) - f64::from(after[at]);
                let loss = |shift: f32| {
                    let mut moved = model.clone();
                    moved.each_linear(|linear_path, linear| {
                        if linear_path == path
                            && let Some(adapter) = &mut linear.lora
                        {
                            let param = if factor == 'a' { &mut adapter.a } else { &mut adapter.b };
                            let dims = param.val().dims();
                            let mut values = values(param.val());
                            values[at] += shift;
                            *param = burn::module::Param::from_tensor(palinode_models::layers::ops::from_vec(
                                values,
                                dims,
                                &Device::flex(),
                            ));
                        }
                    });
                    evaluate(&moved, examples, 2).unwrap()
                };
                let step = 2e-2f32;
                let numeric = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
                let allowed = 2e-3 + 0.02 * numeric.abs();
                assert!((gradient - numeric).abs() < allowed, "{name} {factor}[{at}]: {gradient} for {numeric}");
            }
        }
    }
}

#[test]
fn targets_match_whole_names() {
    let mut model = base("gpt2");
    let attach = |model: &mut CausalLm, names: &[&str]| {
        let targets = Targets::Names(names.iter().map(|&name| name.to_owned()).collect());
        lora::attach(model, &LoraConfig { targets, init: LoraInit::KaimingUniform, ..LoraConfig::paper_text(2) }, 0)
    };
    assert_eq!(
        attach(&mut model, &["proj"]).unwrap_err().to_string(),
        "no linear layer is called `proj`; the model has c_attn, c_fc, c_proj"
    );
    attach(&mut model, &["attn.c_proj"]).unwrap();
    assert_eq!(model.adapters().len(), 3);
    let zero = LoraConfig { rank: 0, ..LoraConfig::paper_text(2) };
    let message = lora::attach(&mut base("gpt2"), &zero, 0).unwrap_err().to_string();
    assert_eq!(message, "LoRA's rank is 0, expected at least 1");
}
