//! Agreement with transformers where a forward pass alone doesn't show it: other spellings, saving, greedy decoding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use palinode_models::model::values;
use palinode_models::weights::write_safetensors;
use palinode_models::{Batch, CausalLm, GenerateOptions, LogitLens, ModelFiles, Prompt, Tokenizer, generate};
use safetensors::SafeTensors;
use serde_json::Value;

mod support;

use support::{device, tolerance};

const TOLERANCE: f64 = 1e-4;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn load(model: &str) -> CausalLm {
    CausalLm::load(&ModelFiles::folder(fixture("models").join(model)).unwrap(), &device()).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Tensors of a file as f64, whatever they are stored as.
struct Expected(BTreeMap<String, Vec<f64>>, [usize; 2]);

impl Expected {
    fn read(model: &str) -> Self {
        let bytes = std::fs::read(fixture(&format!("expected/{model}/forward.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let shape = tensors.tensor("right.input_ids").unwrap().shape().to_vec();
        let numbers = tensors.tensors().into_iter().map(|(name, view)| {
            let data = view.data();
            let numbers = match view.dtype() {
                safetensors::Dtype::I64 => {
                    data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
                }
                _ => data.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            };
            (name, numbers)
        });
        Expected(numbers.collect(), [shape[0], shape[1]])
    }

    fn get(&self, name: &str) -> Option<&[f64]> {
        self.0.get(name).map(Vec::as_slice)
    }

    fn batch(&self, side: &str) -> Option<Batch> {
        let ids = self.get(&format!("{side}.input_ids"))?.iter().map(|&id| id as u32).collect();
        let mask = self.get(&format!("{side}.attention_mask"))?.iter().map(|&real| real == 1.0).collect();
        Some(Batch::new(ids, mask, self.1).unwrap())
    }
}

/// Compares rows where the mask says that they are real.
fn assert_close(found: &[f32], expected: &[f64], mask: &[bool], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let width = expected.len() / mask.len();
    for (row, _) in mask.iter().enumerate().filter(|&(_, &real)| real) {
        for at in row * width..(row + 1) * width {
            let difference = (f64::from(found[at]) - expected[at]).abs();
            assert!(difference < tolerance(TOLERANCE), "{what}, row {row}: {} for {}", found[at], expected[at]);
        }
    }
}

fn agrees(name: &str, model: &CausalLm, expected: &str) {
    let expected = Expected::read(expected);
    for side in ["right", "left"] {
        let Some(batch) = expected.batch(side) else { continue };
        let logits = values(model.forward(&batch).unwrap());
        assert_close(
            &logits,
            expected.get(&format!("{side}.logits")).unwrap(),
            batch.mask(),
            &format!("{name} {side}"),
        );
    }
    let batch = expected.batch("right").unwrap();
    for (depth, hidden) in model.hidden(&batch).unwrap().into_iter().enumerate() {
        if let Some(expected) = expected.get(&format!("right.hidden.{depth}")) {
            assert_close(&values(hidden), expected, batch.mask(), &format!("{name} hidden.{depth}"));
        }
    }
    let lens: Vec<_> = LogitLens::read(model, &batch, 10).unwrap().depths.concat();
    let [top1, entropy, most] =
        ["top1", "entropy", "max_prob"].map(|what| expected.get(&format!("right.lens.{what}")).unwrap());
    assert_eq!(lens.len(), top1.len());
    for (at, point) in lens.iter().enumerate().filter(|(at, _)| batch.mask()[at % batch.mask().len()]) {
        assert_eq!(f64::from(point.top1), top1[at], "{name} lens at {at}");
        assert!((point.entropy - entropy[at]).abs() < tolerance(TOLERANCE), "{name} entropy at {at}");
        assert!((point.max_probability - most[at]).abs() < tolerance(TOLERANCE), "{name} probability at {at}");
    }
}

#[test]
fn hub_spelling_of_gpt2() {
    let folder = tempfile::tempdir().unwrap();
    let original = load("gpt2");
    let mut tensors: BTreeMap<_, _> = original
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name.strip_prefix("transformer.").unwrap().to_owned(), tensor))
        .collect();
    tensors.insert("h.0.attn.masked_bias".into(), (vec![1], vec![-1e4]));
    tensors.insert("h.0.attn.bias".into(), (vec![1, 1, 64, 64], vec![1.0; 64 * 64]));
    tensors.insert("lm_head.weight".into(), tensors["wte.weight"].clone());
    write_safetensors(&folder.path().join("model.safetensors"), &tensors).unwrap();
    std::fs::write(folder.path().join("config.json"), original.config().render()).unwrap();
    let again = CausalLm::load(&ModelFiles::folder(folder.path()).unwrap(), &device()).unwrap();
    agrees("gpt2_hub_keys", &again, "gpt2");
}

/// The bare model's names, and fairseq's version.
#[test]
fn hub_spelling_of_opt() {
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::folder(fixture("models/opt")).unwrap();
    let original = CausalLm::load(&files, &device()).unwrap();
    let bare = |(name, tensor): (String, _)| (name.strip_prefix("model.").unwrap().to_owned(), tensor);
    let mut tensors: BTreeMap<_, _> = original.tensors().into_iter().map(bare).collect();
    tensors.insert("decoder.version".into(), (vec![1], vec![3.0]));
    write_safetensors(&folder.path().join("model.safetensors"), &tensors).unwrap();
    std::fs::write(folder.path().join("config.json"), original.config().render()).unwrap();
    let again = CausalLm::load(&ModelFiles::folder(folder.path()).unwrap(), &device()).unwrap();
    assert_eq!(again.tensors(), original.tensors());
}

#[test]
fn saved_models_are_the_same_and_have_one_form() {
    for name in ["gpt2", "llama", "llama_tied"] {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let model = load(name);
        model.save(first.path()).unwrap();
        let again = CausalLm::load(&ModelFiles::folder(first.path()).unwrap(), &device()).unwrap();
        agrees(name, &again, name);
        again.save(second.path()).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert_eq!(read(first.path()), read(second.path()), "{name} {file}");
        }
        let original = std::fs::read(fixture("models").join(name).join("model.safetensors")).unwrap();
        let saved = std::fs::read(first.path().join("model.safetensors")).unwrap();
        let (original, saved) =
            (SafeTensors::deserialize(&original).unwrap(), SafeTensors::deserialize(&saved).unwrap());
        assert_eq!(original.tensors().len(), saved.tensors().len());
        for (tensor, view) in original.tensors() {
            assert_eq!(view.data(), saved.tensor(&tensor).unwrap().data(), "{name} {tensor}");
        }
    }
}

#[test]
fn greedy_tokens() {
    for name in ["gpt2", "llama", "llama_gqa", "llama_tied"] {
        let model = load(name);
        let expected = json(&fixture(&format!("expected/{name}/generation.json")));
        let folder = if name.starts_with("llama") { "llama" } else { name };
        let tokenizer = Tokenizer::load(&ModelFiles::folder(fixture("models").join(folder)).unwrap()).unwrap();
        let ids: Vec<Vec<u32>> = serde_json::from_value(expected["input_ids"].clone()).unwrap();
        let mask: Vec<Vec<u32>> = serde_json::from_value(expected["attention_mask"].clone()).unwrap();
        let prompts: Vec<Prompt> = ids
            .iter()
            .zip(&mask)
            .map(|(ids, mask)| {
                Prompt::new(ids.iter().zip(mask).filter(|&(_, &real)| real == 1).map(|(&id, _)| id).collect())
            })
            .collect();
        for run in ["greedy", "greedy_eos"] {
            let sequences: Vec<Vec<u32>> = serde_json::from_value(expected[run]["sequences"].clone()).unwrap();
            let eos: Option<u32> = serde_json::from_value(expected[run]["eos"].clone()).unwrap();
            let options = GenerateOptions { eos: eos.into_iter().collect(), ..GenerateOptions::default() };
            let found = generate(&model, &tokenizer, &prompts, &options, |_, _| true).unwrap();
            for (found, mut expected) in found.iter().zip(sequences) {
                if let Some(end) = expected.iter().position(|id| Some(*id) == eos) {
                    expected.truncate(end + 1);
                }
                assert_eq!(found.tokens, expected, "{name} {run}");
            }
        }
    }
}

/// A trained model of 260 thousand parameters, which is not part of this project.
#[test]
fn stories() {
    let Some(reference) = std::env::var_os("PALINODE_REFERENCE").map(PathBuf::from) else {
        return;
    };
    if !reference.join("models/stories260K").exists() {
        return;
    }
    let files = ModelFiles::folder(reference.join("models/stories260K")).unwrap();
    let model = CausalLm::load(&files, &device()).unwrap();
    let tokenizer = Tokenizer::load(&files).unwrap();
    let expected = json(&reference.join("models/stories260K.expected.json"));
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    for case in expected["tokenizer_cases"].as_array().unwrap() {
        assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), true).unwrap(), ids(&case["input_ids"]));
    }
    let cases = expected["cases"].as_array().unwrap();
    let prompts: Vec<Prompt> =
        cases.iter().map(|case| Prompt::text(case["prompt"].as_str().unwrap(), &tokenizer).unwrap()).collect();
    let options = |max_new_tokens| GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
    let found = generate(&model, &tokenizer, &prompts, &options(60), |_, _| true).unwrap();
    for (case, found) in cases.iter().zip(&found) {
        assert_eq!(prompts[found.prompt].ids, ids(&case["input_ids"]));
        assert_eq!(found.tokens, ids(&case["greedy_ids"]));
    }
    let unprompted = &expected["unprompted_greedy"];
    let start = [Prompt::new(ids(&unprompted["input_ids"]))];
    let found = generate(&model, &tokenizer, &start, &options(256), |_, _| true).unwrap();
    assert_eq!(found[0].tokens, ids(&unprompted["greedy_ids"]));

    let lens = &expected["logit_lens"];
    let found = LogitLens::read(&model, &Batch::single(&ids(&lens["input_ids"])).unwrap(), 10).unwrap();
    for (depth, expected) in lens["layers"].as_array().unwrap().iter().enumerate() {
        let entropies: Vec<f64> = serde_json::from_value(expected["entropy_nats"].clone()).unwrap();
        for (at, (top1, entropy)) in ids(&expected["top1_ids"]).into_iter().zip(entropies).enumerate() {
            let point = &found.depths[depth][at];
            assert_eq!(point.top1, top1, "depth {depth} at {at}");
            assert!((point.entropy - entropy).abs() < tolerance(TOLERANCE), "depth {depth} at {at}: {}", point.entropy);
        }
    }
}
