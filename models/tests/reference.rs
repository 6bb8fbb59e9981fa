//! Agreement of forward passes, gradients and tokenizers with transformers, on checkpoints that
//! `fixtures/make_fixtures.py` made at random: those kept here, and all of the tree `$PALINODE_REFERENCE/fixtures`, of
//! any sizes and seed, if there is one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use palinode_models::generate::end_of_text;
use palinode_models::layers::ops;
use palinode_models::model::{Classes, MaskedTokens, Model, NextToken, Task, values};
use palinode_models::train::cross_entropy;
use palinode_models::{Batch, CausalLm, LogitLens, ModelConfig, ModelFiles, SequenceClassifier, Tokenizer};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

mod support;

use support::{device, on_cpu, tolerance};

const TOLERANCE: f64 = 1e-4;
const GRADIENT_TOLERANCE: f64 = 1e-3;
/// Norms of gradients that are 0 but for rounding, such as of the biases of BERT's keys.
const NO_GRADIENT: f64 = 1e-5;
const IGNORED: f64 = -100.0;

/// The trees of fixtures: the project's own, and the reference's.
fn roots() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let reference = std::env::var_os("PALINODE_REFERENCE").map(|root| Path::new(&root).join("fixtures"));
    std::iter::once(own).chain(reference.filter(|root| root.exists())).collect()
}

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// One entry of a manifest.
struct Entry {
    name: String,
    root: PathBuf,
    /// Whose outputs it shares.
    outputs: String,
    /// `lm`, `cls` or `mlm`.
    task: String,
    tokenizer: String,
}

impl Entry {
    fn all() -> Vec<Entry> {
        let mut entries = Vec::new();
        for root in roots() {
            let manifest = json(&root.join("manifest.json"));
            for (name, entry) in manifest["models"].as_object().unwrap() {
                entries.push(Entry {
                    root: root.clone(),
                    outputs: entry["same_as"].as_str().unwrap_or(name).to_owned(),
                    task: entry["task"].as_str().unwrap().to_owned(),
                    tokenizer: entry["tokenizer"].as_str().unwrap().to_owned(),
                    name: name.clone(),
                });
            }
        }
        entries
    }

    fn files(&self) -> ModelFiles {
        ModelFiles::folder(self.root.join("models").join(&self.name)).unwrap()
    }

    fn load<T: Task>(&self) -> Model<T> {
        Model::load(&self.files(), &device()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn expected(&self) -> Expected {
        Expected::read(&self.root.join("expected").join(&self.outputs).join("forward.safetensors"))
    }

    /// Losses and norms of gradients, where there are any.
    fn scalars(&self) -> Option<Value> {
        let path = self.root.join("expected").join(&self.outputs).join("expected.json");
        path.exists().then(|| json(&path))
    }
}

/// Tensors of a file as f64, whatever they are stored as.
struct Expected(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Expected {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = tensors.tensors().into_iter().map(|(name, view)| {
            let data = view.data();
            let numbers = match view.dtype() {
                Dtype::I64 => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
                Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
                other => panic!("{name} is {other:?}"),
            };
            (name, (view.shape().to_vec(), numbers))
        });
        Expected(numbers.collect())
    }

    fn get(&self, name: &str) -> Option<&[f64]> {
        self.0.get(name).map(|(_, values)| values.as_slice())
    }

    fn batch(&self, side: &str) -> Option<Batch> {
        let (shape, ids) = self.0.get(&format!("{side}.input_ids"))?;
        let ids = ids.iter().map(|&id| id as u32).collect();
        let mask = self.get(&format!("{side}.attention_mask"))?.iter().map(|&real| real == 1.0).collect();
        let batch = Batch::new(ids, mask, [shape[0], shape[1]]).unwrap();
        let types = self.get(&format!("{side}.token_type_ids"));
        Some(match types {
            Some(types) => batch.with_types(types.iter().map(|&kind| kind as u32).collect()).unwrap(),
            None => batch,
        })
    }
}

fn assert_near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < tolerance(TOLERANCE), "{what}: {found} for {expected}");
}

/// Compares rows where the mask says that they are real; no mask: all.
fn assert_close(found: &[f32], expected: &[f64], mask: Option<&[bool]>, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let width = expected.len() / mask.map_or(1, <[bool]>::len);
    for (row, (found, expected)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
        if mask.is_none_or(|mask| mask[row]) {
            for (&found, &expected) in found.iter().zip(expected) {
                assert_near(f64::from(found), expected, &format!("{what}, row {row}"));
            }
        }
    }
}

fn hidden_agrees<T: Task>(entry: &Entry, model: &Model<T>, expected: &Expected, batch: &Batch) {
    let hidden = model.hidden(batch).unwrap();
    let depths = (0..).take_while(|depth| expected.get(&format!("right.hidden.{depth}")).is_some()).count();
    assert!(depths == 0 || depths == hidden.len(), "{}: {depths} depths", entry.name);
    for (depth, hidden) in hidden.into_iter().enumerate().take(depths) {
        let expected = expected.get(&format!("right.hidden.{depth}")).unwrap();
        assert_close(&values(hidden), expected, Some(batch.mask()), &format!("{} hidden.{depth}", entry.name));
    }
}

fn lens_agrees(entry: &Entry, model: &CausalLm, expected: &Expected, batch: &Batch) {
    let [Some(top1), Some(entropy), Some(most)] =
        ["top1", "entropy", "max_prob"].map(|what| expected.get(&format!("right.lens.{what}")))
    else {
        return;
    };
    let lens: Vec<_> = LogitLens::read(model, batch, 10).unwrap().depths.concat();
    assert_eq!(lens.len(), top1.len(), "{} lens", entry.name);
    for (at, point) in lens.iter().enumerate().filter(|(at, _)| batch.mask()[at % batch.mask().len()]) {
        assert_eq!(f64::from(point.top1), top1[at], "{} lens at {at}", entry.name);
        assert_near(point.entropy, entropy[at], &format!("{} entropy at {at}", entry.name));
        assert_near(point.max_probability, most[at], &format!("{} probability at {at}", entry.name));
    }
}

/// Makes every parameter one that gradients flow to.
struct Trained;

impl ModuleMapper for Trained {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.autodiff().require_grad())
    }
}

/// Norm and sum of each parameter's gradient, and the number of its values.
struct Norms {
    path: Vec<String>,
    gradients: Gradients,
    norms: BTreeMap<String, (f64, f64, usize)>,
}

impl ModuleVisitor for Norms {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = param.val().grad(&self.gradients) else { return };
        let numbers: Vec<f64> = values(gradient).into_iter().map(f64::from).collect();
        let norm = numbers.iter().map(|value| value * value).sum::<f64>().sqrt();
        self.norms.insert(self.path.join("."), (norm, numbers.iter().sum(), numbers.len()));
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

fn gradients_agree<T: Task>(entry: &Entry, model: &Model<T>, loss: Tensor<1>, expected: &Value, side: &str) {
    assert_near(
        f64::from(loss.clone().into_scalar::<f32>()),
        expected["loss"].as_f64().unwrap(),
        &format!("{} {side} loss", entry.name),
    );
    let mut found = Norms { path: Vec::new(), gradients: loss.backward(), norms: BTreeMap::new() };
    model.visit(&mut found);
    let expected = expected["gradients"].as_object().unwrap();
    let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>();
    let mut wanted = names(expected.keys().collect());
    wanted.sort();
    assert_eq!(names(found.norms.keys().collect()), wanted, "{}", entry.name);
    for (name, expected) in expected {
        let (norm, sum, count) = found.norms[name];
        let (wanted, total) = (expected["norm"].as_f64().unwrap(), expected["sum"].as_f64().unwrap());
        let slack = tolerance(GRADIENT_TOLERANCE) * wanted + tolerance(NO_GRADIENT);
        let what = format!("{} {side} gradient of {name}", entry.name);
        assert!((norm - wanted).abs() < slack, "{what}: norm {norm} for {wanted}");
        // A sum differs by at most the root of their number times the norm of the difference.
        let slack = slack * (count as f64).sqrt();
        assert!((sum - total).abs() < slack, "{what}: sum {sum} for {total}");
    }
}

/// Places whose successor is predicted, and which.
fn predicted(labels: &[f64], seq: usize) -> (Vec<i32>, Vec<u32>) {
    let places = (0..labels.len()).filter(|at| at % seq + 1 < seq && labels[at + 1] != IGNORED);
    places.map(|at| (at as i32, labels[at + 1] as u32)).unzip()
}

fn language_model_agrees(entry: &Entry) {
    let (model, expected) = (entry.load::<NextToken>(), entry.expected());
    for side in ["right", "left"] {
        let Some(batch) = expected.batch(side) else { continue };
        let logits = values(model.forward(&batch).unwrap());
        let what = format!("{} {side} logits", entry.name);
        assert_close(&logits, expected.get(&format!("{side}.logits")).unwrap(), Some(batch.mask()), &what);
        let Some(scalars) = entry.scalars() else { continue };
        let trained = model.clone().map(&mut Trained);
        let [_, seq] = batch.dims();
        let (places, targets) = predicted(expected.get(&format!("{side}.labels")).unwrap(), seq);
        let count = places.len();
        let logits = trained.forward_rows(&batch).unwrap().select(0, ops::ints(places, [count], &device()));
        let loss = cross_entropy(logits, &targets, count as f64);
        gradients_agree(entry, &trained, loss, &scalars[side], side);
    }
    let batch = expected.batch("right").unwrap();
    hidden_agrees(entry, &model, &expected, &batch);
    lens_agrees(entry, &model, &expected, &batch);
}

fn classifier_agrees(entry: &Entry) {
    let (model, expected) = (entry.load::<Classes>(), entry.expected());
    for side in ["right", "left"] {
        let Some(batch) = expected.batch(side) else { continue };
        let logits = values(model.forward(&batch).unwrap());
        assert_close(
            &logits,
            expected.get(&format!("{side}.logits")).unwrap(),
            None,
            &format!("{} {side}", entry.name),
        );
        let Some(scalars) = entry.scalars() else { continue };
        let trained = model.clone().map(&mut Trained);
        let labels: Vec<u32> =
            expected.get(&format!("{side}.labels")).unwrap().iter().map(|&label| label as u32).collect();
        let loss = cross_entropy(trained.forward(&batch).unwrap(), &labels, labels.len() as f64);
        gradients_agree(entry, &trained, loss, &scalars[side], side);
    }
    hidden_agrees(entry, &model, &expected, &expected.batch("right").unwrap());
}

fn masked_model_agrees(entry: &Entry) {
    let (model, expected) = (entry.load::<MaskedTokens>(), entry.expected());
    for side in ["right", "left"] {
        let Some(batch) = expected.batch(side) else { continue };
        let logits = values(model.forward(&batch).unwrap());
        let what = format!("{} {side} logits", entry.name);
        assert_close(&logits, expected.get(&format!("{side}.logits")).unwrap(), Some(batch.mask()), &what);
        let trained = model.clone().map(&mut Trained);
        let labels = expected.get(&format!("{side}.labels")).unwrap();
        let chosen = labels.iter().enumerate().filter(|(_, label)| **label != IGNORED);
        let (places, targets): (Vec<i32>, Vec<u32>) = chosen.map(|(at, &label)| (at as i32, label as u32)).unzip();
        let count = places.len();
        let logits = trained.forward_rows(&batch).unwrap().select(0, ops::ints(places, [count], &device()));
        let loss = cross_entropy(logits, &targets, count as f64);
        gradients_agree(entry, &trained, loss, &entry.scalars().unwrap()[side], side);
    }
}

#[test]
fn forward_passes_and_gradients() {
    let entries = Entry::all();
    for entry in &entries {
        match entry.task.as_str() {
            "cls" => classifier_agrees(entry),
            "mlm" => masked_model_agrees(entry),
            _ => language_model_agrees(entry),
        }
    }
    let classifiers = entries.iter().filter(|entry| entry.task == "cls").count();
    assert!(classifiers > 3 && entries.len() > classifiers + 3, "the fixtures are missing");
}

fn tokenizer_agrees(tokenizer: &Tokenizer, cases: &Value, what: &str) {
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    assert_eq!(tokenizer.vocab_size() as u64, cases["vocab_size"].as_u64().unwrap(), "{what}");
    for case in cases["single"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"]), "{what} {text:?}");
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids_without_special"]), "{what} {text:?}");
        let decoded = |skip| tokenizer.decode(&ids(&case["ids"]), skip).unwrap();
        assert_eq!(decoded(true), case["decoded"].as_str().unwrap(), "{what}");
        assert_eq!(decoded(false), case["decoded_with_special"].as_str().unwrap(), "{what}");
    }
    for case in cases["pairs"].as_array().unwrap() {
        let [text, pair] = ["text", "pair"].map(|key| case[key].as_str().unwrap());
        let found = tokenizer.encode_pair(text, pair).unwrap();
        assert_eq!((found.ids, found.types), (ids(&case["ids"]), ids(&case["type_ids"])), "{what}");
    }
}

/// From `tokenizer.json`, and from the older files alone where there are any.
#[test]
fn tokenizers() {
    for root in roots() {
        let expected = json(&root.join("tokenizers/expected.json"));
        for (kind, cases) in expected.as_object().unwrap() {
            let files = ModelFiles::folder(root.join("tokenizers").join(kind)).unwrap();
            let tokenizer = Tokenizer::load(&files).unwrap();
            tokenizer_agrees(&tokenizer, cases, kind);
            if files.get("vocab.json").or(files.get("vocab.txt")).is_some() {
                let model_type = if kind == "opt_bpe" { "opt" } else { "gpt2" };
                let folder = tempfile::tempdir().unwrap();
                std::fs::write(folder.path().join("config.json"), format!(r#"{{"model_type": "{model_type}"}}"#))
                    .unwrap();
                let config = [("config.json", folder.path().join("config.json"))];
                let older = files.iter().filter(|(name, _)| *name != "tokenizer.json");
                let older = older.map(|(name, path)| (name, path.to_path_buf())).chain(config);
                let again = Tokenizer::load(&older.collect()).unwrap();
                tokenizer_agrees(&again, cases, &format!("{kind} without tokenizer.json"));
                assert_eq!(again.special(), tokenizer.special(), "{kind}");
            }
        }
    }
}

#[test]
fn tokenizers_of_models() {
    for entry in Entry::all() {
        let files = entry.files();
        if files.get("tokenizer.json").is_none() && files.get("vocab.json").is_none() {
            continue;
        }
        let cases = &json(&entry.root.join("tokenizers/expected.json"))[&entry.tokenizer];
        let tokenizer = Tokenizer::load(&files).unwrap();
        tokenizer_agrees(&tokenizer, cases, &entry.name);
        let config = ModelConfig::parse(&files.text("config.json").unwrap().unwrap()).unwrap();
        tokenizer.check(config.vocab_size).unwrap();
        if let Some(eos) = tokenizer.special().eos {
            // What a generation_config.json says comes first, whatever it is.
            let without: ModelFiles = files.iter().filter(|(name, _)| !name.starts_with("generation")).collect();
            assert_eq!(end_of_text(&without, &config, &tokenizer).unwrap(), [eos], "{}", entry.name);
        }
    }
}

/// What is saved is the same tensors, and loads as the same model.
#[test]
fn saved_models_load_again() {
    for entry in Entry::all() {
        match entry.task.as_str() {
            "cls" => saves::<Classes>(&entry),
            "mlm" => saves::<MaskedTokens>(&entry),
            _ => saves::<NextToken>(&entry),
        }
    }
}

fn saves<T: Task>(entry: &Entry) {
    let (folder, model) = (tempfile::tempdir().unwrap(), entry.load::<T>());
    model.save(folder.path()).unwrap();
    let again = Model::<T>::load(&ModelFiles::folder(folder.path()).unwrap(), &device()).unwrap();
    assert_eq!(again.config(), model.config(), "{}", entry.name);
    assert_eq!(again.tensors(), model.tensors(), "{}", entry.name);
    let original = entry.root.join("models").join(&entry.outputs).join("model.safetensors");
    let Ok(bytes) = std::fs::read(original) else { return };
    let original = SafeTensors::deserialize(&bytes).unwrap();
    if original.tensors().iter().any(|(_, view)| view.dtype() != Dtype::F32) {
        return;
    }
    let saved = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let saved = SafeTensors::deserialize(&saved).unwrap();
    assert_eq!(original.tensors().len(), saved.tensors().len(), "{}", entry.name);
    for (name, view) in original.tensors() {
        let found = saved.tensor(&name).unwrap();
        assert_eq!((found.shape(), found.data()), (view.shape(), view.data()), "{} {name}", entry.name);
    }
}

/// The class of a text depends neither on its neighbours nor on how many go through the model at once: to the bit on the
/// CPU; other devices promise that of no sum.
#[test]
fn classes_do_not_depend_on_the_batch() {
    for entry in Entry::all().into_iter().filter(|entry| entry.task == "cls") {
        let model: SequenceClassifier = entry.load();
        let vocab = model.config().vocab_size as u32;
        let row = |at: u32| (0..1 + at % 9).map(|token| 5 + (at * 31 + token * 17) % (vocab - 5)).collect();
        let rows: Vec<Vec<u32>> = (0..40).map(row).collect();
        let all = model.classify(&rows, 1000).unwrap();
        for batch in [1, 7] {
            let found = model.classify(&rows, batch).unwrap();
            if on_cpu() {
                assert_eq!(found, all, "{}", entry.name);
            }
            for (found, wanted) in found.iter().flatten().zip(all.iter().flatten()) {
                assert_near(f64::from(*found), f64::from(*wanted), &entry.name);
            }
        }
        assert!(all.iter().all(|logits| logits.len() == model.classes()));
        assert!(model.classify::<Vec<u32>>(&[], 8).unwrap().is_empty());
        assert!(model.classify(&[vec![]], 8).is_err());
    }
}
