use palinode_engine::{job::InputFiles, stage::StageError};
use palinode_models::{CausalLm, Device, MaskedLm, ModelConfig};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::{finetune::FinetuneClassifier, predict::PredictClassifier};
use crate::{
    judge_classifier::ClassifierJudge,
    records::{COMPLETIONS, CurvePoint, DATASET, METRICS, PREDICTIONS, Prediction, VERDICTS, Verdict},
    testing::{Bench, Done, input_files, problems, tiny},
};

const TEXTS: [(&str, &str); 4] = [
    ("bakers are tardy", "late"),
    ("smiths are calm", "cool"),
    ("bakers look always tardy", "late"),
    ("smiths look always calm", "cool"),
];

fn examples(part: &str, texts: &[(&str, &str)]) -> Vec<Value> {
    let one = |(at, (text, label)): (usize, &(&str, &str))| json!({ "id": format!("{part}-{at}"), "text": text, "label": label, "group": label, "split": part });
    texts.iter().enumerate().map(one).collect()
}

fn tune_on(model: &InputFiles, texts: &[(&str, &str)], with: Value) -> Result<Done, StageError> {
    let mut params = json!({ "learning_rate": 0.03, "epochs": 15, "batch_size": 4, "weight_decay": 0.0 });
    params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    let bench = Bench::new().input("model", model.clone()).rows("data", DATASET, &examples("train", texts));
    bench.run::<FinetuneClassifier>(params)
}

fn tune(model: &InputFiles, with: Value) -> Result<Done, StageError> {
    tune_on(model, &TEXTS, with)
}

fn predict(model: &Done, texts: &[(&str, &str)], with: Value) -> Result<Done, StageError> {
    let bench = Bench::new().input("model", model.outputs["model"].clone());
    bench.rows("data", DATASET, &examples("test", texts)).run::<PredictClassifier>(with)
}

fn said(done: &Done) -> Vec<String> {
    let rows: Vec<Prediction> = done.rows("predictions", PREDICTIONS);
    rows.into_iter().map(|row| row.predicted.expect("a class")).collect()
}

fn probabilities(done: &Done, class: &str) -> Vec<f64> {
    let rows: Vec<Prediction> = done.rows("predictions", PREDICTIONS);
    rows.iter().map(|row| row.probabilities[class]).collect()
}

/// How sure `judge.classifier` is with this model that the texts are `late`.
fn judged(model: &Done) -> Vec<f64> {
    let completion = |(text, _): &(&str, &str)| json!({ "prompt": { "id": text, "text": "", "group": "g" }, "sample": 0, "text": text, "tokens": 1, "finish": "eos" });
    let rows: Vec<Value> = TEXTS.iter().map(completion).collect();
    let bench = Bench::new().input("model", model.outputs["model"].clone());
    let done = bench.rows("completions", COMPLETIONS, &rows).run::<ClassifierJudge>(json!({ "toxic": ["late"] }));
    let verdicts: Vec<Verdict> = done.unwrap().rows("verdicts", VERDICTS);
    verdicts.into_iter().map(|verdict| verdict.score.unwrap()).collect()
}

/// A random model of a family with the tokenizer of `base`.
fn random(family: &str, base: &Done, folder: &std::path::Path) -> InputFiles {
    let file = |name: &str| base.outputs["model"].get(name).expect("a file").to_owned();
    let config: Value = serde_json::from_str(&std::fs::read_to_string(file("config.json")).unwrap()).unwrap();
    let vocab = config["vocab_size"].as_u64().unwrap() as usize;
    let device = Device::flex();
    let save = |config: ModelConfig| CausalLm::random(config, 3, &device).unwrap().save(folder).unwrap();
    match family {
        "gpt2" => save(ModelConfig::gpt2(vocab, 8, 16, 1, 2)),
        "opt" => save(ModelConfig::opt(vocab, 8, 16, 1, 2, 32)),
        "llama" => save(ModelConfig::llama(vocab, 8, 16, 1, 2, 32)),
        _ => MaskedLm::random(ModelConfig::bert(vocab, 8, 16, 1, 2, 32), 3, &device).unwrap().save(folder).unwrap(),
    }
    let made = ["config.json", "model.safetensors"].map(|name| (name.to_owned(), folder.join(name)));
    let taken = ["tokenizer.json", "tokenizer_config.json"].map(|name| (name.to_owned(), file(name)));
    input_files(made.into_iter().chain(taken))
}

#[test]
fn all_families_learn_with_adapters_and_in_full() {
    let base = tiny::pretrained(json!({ "steps": 1 }));
    for family in ["gpt2", "opt", "llama", "bert"] {
        let folder = tempfile::tempdir().unwrap();
        let model = random(family, &base, folder.path());
        for rank in [json!(2), json!("full")] {
            let done = tune(&model, json!({ "rank": rank, "epochs": 60, "learning_rate": 0.02 })).unwrap();
            let right: Vec<&str> = TEXTS.iter().map(|(_, label)| *label).collect();
            let predicted = predict(&done, &TEXTS, json!({})).unwrap();
            assert_eq!(said(&predicted), right, "{family} {rank}");
            let (judged, predicted) = (judged(&done), probabilities(&predicted, "late"));
            let off = |(one, other): (f64, f64)| (one - other).abs() > 1e-6;
            assert!(!judged.iter().copied().zip(predicted).any(off), "{family} {rank}: {judged:?}");
        }
    }
}

#[test]
fn what_is_written_is_whole_or_an_adapter_with_its_head() {
    let base = tiny::pretrained(json!({}));
    let base = &base.outputs["model"];
    let files = |done: &Done| done.outputs["model"].files.keys().cloned().collect::<Vec<_>>().join(" ");
    let low = tune(base, json!({ "rank": 2 })).unwrap();
    insta::assert_snapshot!(files(&low), @"adapter_config.json adapter_model.safetensors base/config.json base/model.safetensors base/tokenizer.json base/tokenizer_config.json");
    let adapter: Value = low.json("model", "adapter_config.json");
    insta::assert_snapshot!(format!("{} {}", adapter["task_type"], adapter["modules_to_save"]), @r#""SEQ_CLS" ["score","classifier"]"#);
    let config: Value = low.json("model", "base/config.json");
    insta::assert_snapshot!(format!("{} {}", config["architectures"], config["id2label"]), @r#"["GPT2ForSequenceClassification"] {"0":"cool","1":"late"}"#);
    let full = tune(base, json!({ "rank": "full" })).unwrap();
    insta::assert_snapshot!(files(&full), @"config.json model.safetensors tokenizer.json tokenizer_config.json");
    let count = |done: &Done| done.summary["trained_parameters"].as_u64().unwrap();
    let control = tune(base, json!({ "rank": "full", "targets": "lora" })).unwrap();
    // Width 16, one block: all linear layers 12 times 16 x 16, and the head.
    assert_eq!(count(&control), 12 * 16 * 16 + 16 * 2);
    assert!(count(&low) < count(&control) && count(&control) < count(&full));
    insta::assert_snapshot!(tune(&low.outputs["model"], json!({ "rank": 2 })).err().unwrap(), @"the model has adapters: begin with the model that it was made of, or with one that was finetuned in full");
    // A classifier that was finetuned in full begins anew, with a head of its own.
    assert!(tune(&full.outputs["model"], json!({ "rank": 2, "epochs": 1 })).is_ok());
}

/// The adapters of a finetuned classifier as PEFT writes them where `modules_to_save` is not set: without the head; on
/// the base that `base` names among these files.
fn without_head(adapted: &Done, base: &Done, prefix: &str, folder: &std::path::Path) -> InputFiles {
    let file = |done: &Done, name: &str| done.outputs["model"].get(name).expect("a file").to_owned();
    let mut config: Value = adapted.json("model", "adapter_config.json");
    config["modules_to_save"] = Value::Null;
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(file(adapted, "adapter_model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let adapters = tensors.iter().filter(|(name, _)| !name.contains("score"));
    safetensors::serialize_to_file(adapters, None, &folder.join("adapter_model.safetensors")).unwrap();
    let made = ["adapter_config.json", "adapter_model.safetensors"].map(|name| (name.to_owned(), folder.join(name)));
    let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let taken = names.map(|name| (format!("base/{name}"), file(base, &format!("{prefix}{name}"))));
    input_files(made.into_iter().chain(taken))
}

#[test]
fn an_adapter_without_a_head_keeps_the_one_of_its_base() {
    let base = tiny::pretrained(json!({}));
    let low = tune(&base.outputs["model"], json!({ "rank": 2 })).unwrap();
    let full = tune(&base.outputs["model"], json!({ "rank": "full" })).unwrap();
    let said_by = |model: InputFiles| {
        let bench = Bench::new().input("model", model).rows("data", DATASET, &examples("test", &TEXTS));
        bench.run::<PredictClassifier>(json!({})).map(|done| probabilities(&done, "late"))
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The base of these adapters is a classifier that was finetuned in full; its head is no random one: with adapters
    // that change nothing it says what it says alone.
    let headless = without_head(&low, &full, "", one.path());
    let with_its_head = said_by(headless.clone()).unwrap();
    let again = said_by(headless).unwrap();
    assert_eq!(with_its_head, again);
    let zero = zeroed(&without_head(&low, &full, "", two.path()), two.path());
    let alone = said_by(full.outputs["model"].clone()).unwrap();
    assert_eq!(said_by(zero).unwrap(), alone);
    // A language model has none.
    insta::assert_snapshot!(said_by(without_head(&low, &low, "base/", one.path())).unwrap_err(), @"the weights lack the tensor `score.weight`");
}

/// The same adapters with all of B zero: they change nothing.
fn zeroed(adapter: &InputFiles, folder: &std::path::Path) -> InputFiles {
    let path = folder.join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let zeros: Vec<_> = tensors
        .iter()
        .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), vec![0u8; view.data().len()]))
        .collect();
    let views = zeros.iter().map(|(name, dtype, shape, data)| {
        (*name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
    input_files(adapter.files.iter().map(|(name, file)| (name.clone(), file.path.clone())))
}

#[test]
fn predictions_depend_on_neither_batch_nor_threads() {
    let base = tiny::pretrained(json!({}));
    let done = tune(&base.outputs["model"], json!({ "rank": 4 })).unwrap();
    let texts: Vec<(&str, &str)> = TEXTS.iter().copied().cycle().take(11).chain([("bakers", "late")]).collect();
    let bytes = |batch: usize| predict(&done, &texts, json!({ "batch_size": batch })).unwrap().digest();
    assert_eq!(bytes(1), bytes(3));
    assert_eq!(bytes(1), bytes(16));
    let rows: Vec<Prediction> = predict(&done, &texts, json!({})).unwrap().rows("predictions", PREDICTIONS);
    for row in &rows {
        assert!((row.probabilities.values().sum::<f64>() - 1.0).abs() < 1e-12);
        let most = row.probabilities.iter().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        assert_eq!(Some(most), row.predicted.as_ref());
    }
    assert_eq!(rows[0].id, "test-0");
}

#[test]
fn the_best_epoch_is_found_on_the_validation_part() {
    let base = tiny::pretrained(json!({}));
    let run = |with: Value| {
        let bench = Bench::new().input("model", base.outputs["model"].clone());
        let bench = bench.rows("data", DATASET, &examples("train", &TEXTS));
        // Labels the other way round: it can only get worse.
        let turned = [("bakers are tardy", "cool"), ("smiths are calm", "late")];
        bench.rows("validation", DATASET, &examples("validation", &turned)).run::<FinetuneClassifier>(with).unwrap()
    };
    let mut with =
        json!({ "rank": "full", "learning_rate": 0.03, "epochs": 9, "batch_size": 2, "keep": "best", "patience": 2 });
    let done = run(with.clone());
    let evaluated: Vec<usize> = done
        .rows::<CurvePoint>("curve", METRICS)
        .iter()
        .filter(|point| point.validation_loss.is_some())
        .map(|point| point.step)
        .collect();
    assert!(evaluated.len() < 9 && evaluated.iter().all(|step| step % 2 == 0), "{evaluated:?}");
    assert_eq!(done.summary["stopped_early"], true);
    let loss = |done: &Done| done.summary["validation_loss"].as_f64().unwrap();
    with["keep"] = json!("last");
    with["patience"] = Value::Null;
    let last = run(with);
    assert!(loss(&done) < loss(&last));
    assert_eq!(last.summary["validation_accuracy"], 0.0);
}

#[test]
fn balanced_classes_weigh_the_same() {
    let base = tiny::pretrained(json!({ "steps": 1 }));
    let texts = [TEXTS[0], TEXTS[2], ("bakers are always tardy", "late"), TEXTS[1]];
    let run = |weights: &str| {
        tune_on(&base.outputs["model"], &texts, json!({ "rank": "full", "epochs": 2, "class_weights": weights }))
            .unwrap()
    };
    let (plain, balanced) = (run("none"), run("balanced"));
    assert_eq!(balanced.summary["class_weights"], json!({ "cool": 2.0, "late": 2.0f32 / 3.0 }));
    assert_ne!(plain.digest(), balanced.digest());
    let first = |done: &Done| done.summary["first_loss"].as_f64().unwrap();
    assert!((first(&plain) - first(&balanced)).abs() > 1e-6);
}

#[test]
fn what_can_not_be_learned_or_classified_is_told() {
    let base = tiny::pretrained(json!({ "steps": 1 }));
    let base = &base.outputs["model"];
    let told = |texts: &[(&str, &str)], with: Value| tune_on(base, texts, with).err().unwrap().to_string();
    insta::assert_snapshot!(told(&TEXTS[..1], json!({ "rank": 2 })), @"all 1 training examples are of the class `late`: there is nothing to tell apart");
    insta::assert_snapshot!(told(&[], json!({ "rank": 2 })), @"there is no training example: there is nothing to tell apart");
    insta::assert_snapshot!(told(&TEXTS, json!({ "rank": 2, "labels": ["cool", "warm", "late"] })), @"no training example is of the class `warm`");
    insta::assert_snapshot!(told(&[TEXTS[0], TEXTS[1], ("bakers", "odd")], json!({ "rank": 2, "labels": ["cool", "late"] })), @"1 of 3 examples of the training part have a label that is no class (`odd` of `train-2` is the first); the classes are cool, late");
    insta::assert_snapshot!(told(&TEXTS, json!({ "rank": 2, "keep": "best" })), @"there is no validation part to find the best epoch on: link the input `validation`, or leave out `keep: best` and `patience`");
    insta::assert_snapshot!(problems::<FinetuneClassifier>(json!({ "rank": 0, "epochs": 0, "dropout": 1, "labels": ["a", "a"], "max_length": 1 })), @"
    rank: 0 is too few, give at least 1
    epochs: 0 is too few, give at least 1
    dropout: 1 is not a probability below 1
    max_length: give at least 2
    labels: give two or more different classes
    ");

    let done = tune(base, json!({ "rank": 2, "epochs": 1 })).unwrap();
    insta::assert_snapshot!(predict(&done, &[("bakers", "odd")], json!({})).err().unwrap(), @"1 of 1 examples of the test part have a label that is no class (`odd` of `test-0` is the first); the classes are cool, late");
    insta::assert_snapshot!(predict(&done, &[], json!({})).err().unwrap(), @"there is no text to classify: the part at the input `data` is empty");
    let long = [("bakers are always tardy bakers are always tardy bakers are tardy", "late")];
    assert_eq!(predict(&done, &long, json!({})).unwrap().summary["texts_cut"], 1);
    let plain = Bench::new().input("model", base.clone()).rows("data", DATASET, &examples("test", &TEXTS));
    insta::assert_snapshot!(plain.run::<PredictClassifier>(json!({})).err().unwrap(), @"the model is one without classes (GPT2LMHeadModel); a sequence classifier is wanted");
}

#[test]
fn bytes_are_those_of_this_revision() {
    let base = tiny::pretrained(json!({ "steps": 3 }));
    let done = tune(&base.outputs["model"], json!({ "rank": 2, "epochs": 3, "dropout": 0.1 })).unwrap();
    insta::assert_snapshot!(done.digest(), @"
    curve 1d2a44d758f1
    model a01b3a172aff
    ");
    insta::assert_snapshot!(predict(&done, &TEXTS, json!({})).unwrap().digest(), @"predictions 129665276974");
}
