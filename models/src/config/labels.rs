//! The classes of a sequence classifier: `id2label`, or `num_labels` alone.

use serde_json::{Map, Value, json};

use super::{ConfigError, keys::Keys, keys::wrong};

/// transformers leaves `id2label` out where it is the default of two classes.
const DEFAULT: usize = 2;
/// More classes than any data set has; a number in a file is not to fill the memory with names.
const MOST: usize = 1 << 20;

/// The names of the classes by number, if the file is a sequence classifier's. Old language models carry an
/// `id2label` too, which means nothing there.
pub(super) fn read(keys: Keys<'_>) -> Result<Vec<String>, ConfigError> {
    let named = match keys.get("architectures") {
        None => false,
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => !names.is_empty(),
        Some(other) => return Err(wrong("architectures", other, "a list of names")),
    };
    let classifier = keys.get("architectures").and_then(Value::as_array).into_iter().flatten();
    let classifier = classifier.filter_map(Value::as_str).any(|name| name.ends_with("ForSequenceClassification"));
    if named && !classifier {
        return Ok(Vec::new());
    }
    let names = match keys.get("id2label") {
        None => None,
        Some(Value::Object(map)) => Some(by_number(map)?),
        Some(other) => return Err(wrong("id2label", other, "an object")),
    };
    let count = match keys.get("num_labels") {
        None => None,
        Some(_) => Some(keys.size("num_labels", None)?),
    };
    let labels = match (names, count) {
        (Some(names), Some(count)) if names.len() != count => {
            return Err(wrong("num_labels", count, "the number of names in id2label"));
        }
        (Some(names), _) => names,
        (None, Some(count)) if count > MOST => return Err(wrong("num_labels", count, "at most 1048576")),
        (None, Some(count)) => numbered(count),
        (None, None) if classifier => numbered(DEFAULT),
        (None, None) => Vec::new(),
    };
    if !labels.is_empty() {
        keys.only("problem_type", &[json!("single_label_classification")], "single_label_classification")?;
    }
    Ok(labels)
}

fn by_number(map: &Map<String, Value>) -> Result<Vec<String>, ConfigError> {
    const EXPECTED: &str = "names for the numbers from 0 on";
    let name = |number: usize| map.get(&number.to_string()).and_then(Value::as_str).map(str::to_owned);
    let names: Option<Vec<String>> = (0..map.len()).map(name).collect();
    match names {
        Some(names) if !names.is_empty() => Ok(names),
        _ => Err(wrong("id2label", Value::from(map.clone()), EXPECTED)),
    }
}

/// The names that transformers gives to classes without one.
pub(crate) fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("LABEL_{number}")).collect()
}

pub(super) fn render(labels: &[String], value: &mut Value) {
    if labels.is_empty() {
        return;
    }
    let id2label: Map<String, Value> =
        labels.iter().enumerate().map(|(number, name)| (number.to_string(), json!(name))).collect();
    let label2id: Map<String, Value> =
        labels.iter().enumerate().map(|(number, name)| (name.clone(), json!(number))).collect();
    value["id2label"] = Value::from(id2label);
    value["label2id"] = Value::from(label2id);
}
