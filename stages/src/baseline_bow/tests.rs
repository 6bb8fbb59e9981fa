use palinode_engine::stage::{Kind as _, StageError};
use serde_json::{Value, json};

use super::BagOfWords;
use crate::{
    dataset::sst2::Sst2,
    records::{DATASET, PREDICTIONS, Prediction},
    testing::{Bench, Done, problems, reference},
};

fn examples(texts: &[(&str, &str)]) -> Vec<Value> {
    let one = |(at, (text, label)): (usize, &(&str, &str))| json!({ "id": at.to_string(), "text": text, "label": label, "group": label, "split": "train" });
    texts.iter().enumerate().map(one).collect()
}

const TRAIN: [(&str, &str); 6] = [
    ("a fine film", "good"),
    ("fine, fine acting", "good"),
    ("a dull film", "bad"),
    ("dull and slow", "bad"),
    ("a film", "good"),
    ("slow acting", "odd"),
];

fn run(train: &[(&str, &str)], test: &[(&str, &str)], with: Value) -> Result<Done, StageError> {
    let bench = Bench::new().rows("train", DATASET, &examples(train)).rows("data", DATASET, &examples(test));
    bench.run::<BagOfWords>(with)
}

/// The probability of `label` for each text.
fn probabilities(done: &Done, label: &str) -> Vec<f64> {
    let rows: Vec<Prediction> = done.rows("predictions", PREDICTIONS);
    rows.iter().map(|row| row.probabilities[label]).collect()
}

/// `LogisticRegression(C=1, tol=1e-10)` on `CountVectorizer(token_pattern=r"\w+")` of scikit-learn 1.9.
#[test]
fn probabilities_are_those_of_scikit_learn() {
    let near = |found: Vec<f64>, expected: &[f64]| {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    };
    let two: Vec<(&str, &str)> = TRAIN[..5].to_vec();
    let done = run(&two, &two, json!({})).unwrap();
    near(probabilities(&done, "good"), &TWO);
    let done = run(&TRAIN, &TRAIN, json!({})).unwrap();
    near(probabilities(&done, "good"), &THREE);
    let done = run(&two, &two, json!({ "c": 10.0, "ngrams": 2, "binary": true })).unwrap();
    near(probabilities(&done, "good"), &BIGRAMS);
}

const TWO: [f64; 5] = [0.7637029, 0.8390532, 0.4667271, 0.2814595, 0.6490573];
const THREE: [f64; 6] = [0.7936262, 0.8132568, 0.3637079, 0.1291688, 0.6163401, 0.2839002];
const BIGRAMS: [f64; 5] = [0.9598143, 0.9602704, 0.1044538, 0.0585438, 0.9169177];

#[test]
fn what_can_not_be_told_apart_is_told() {
    insta::assert_snapshot!(run(&TRAIN[..2], &TRAIN, json!({})).err().unwrap(), @"the training part has only one class: there is nothing to tell apart");
    insta::assert_snapshot!(run(&TRAIN[..4], &TRAIN, json!({})).err().unwrap(), @"`data` has a label that no training example has: `odd` of `5`");
    insta::assert_snapshot!(problems::<BagOfWords>(json!({ "c": 0, "ngrams": 0 })), @"
    ngrams: 0 is too few, give at least 1
    c: 0 is not a positive number
    ");
    let done = run(&TRAIN, &[("unheard of", "odd")], json!({ "min_texts": 2 })).unwrap();
    assert_eq!(done.summary["features"], 6);
}

/// Sentences of films, in two classes: about 0.80 of the test sentences are right.
#[test]
fn sst2_comes_out_as_known() {
    let Some(root) = reference() else { return };
    let bench = Bench::new().folder("folder", &root.join("data/sst2_glue"), &|name| Sst2::reads("folder", name));
    let data = bench.run::<Sst2>(json!({ "folder": "folder", "take": { "train": 4000 } })).unwrap();
    let bench = Bench::new().input("train", data.outputs["train"].clone()).input("data", data.outputs["test"].clone());
    let accuracy = bench.run::<BagOfWords>(json!({})).unwrap().summary["accuracy"].as_f64().unwrap();
    assert!((0.68..0.85).contains(&accuracy), "{accuracy}");
}

#[test]
fn bytes_are_those_of_this_revision() {
    insta::assert_snapshot!(run(&TRAIN, &TRAIN, json!({})).unwrap().digest(), @"predictions e1edcd833de7");
}
