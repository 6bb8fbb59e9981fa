//! The numbers in a result's files of metrics: JSON and JSON Lines whose port or file is named `metrics`.

use std::{fs, path::Path};

use palinode_cache::{Cache, CacheError, Record};
use serde_json::Value;

use crate::compare::Flat;

/// A larger file is data, and no one reads its difference line by line.
const LIMIT: u64 = 1 << 20;

/// The values in the metrics files of `record`, by name. Files that are lost or can't be read are passed over.
pub(crate) fn of(record: &Record, cache: &Cache) -> Result<Flat, CacheError> {
    let mut flat = Flat::new();
    for (port, tree) in &record.outputs {
        for (name, entry) in &tree.0 {
            let path = Path::new(name);
            let named = port == "metrics" || path.file_stem().is_some_and(|stem| stem == "metrics");
            let lines = match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => false,
                Some("jsonl") => true,
                _ => continue,
            };
            if !named || entry.size > LIMIT {
                continue;
            }
            let Some(text) = cache.locate(entry)?.and_then(|path| fs::read_to_string(path).ok()) else { continue };
            if lines {
                rows(&text, &mut flat);
            } else if let Ok(value) = serde_json::from_str(&text) {
                flatten("", &value, &mut flat);
            }
        }
    }
    Ok(flat)
}

/// Each line is an object: its numbers are values, and all else says what they are values of. Lines that this doesn't
/// tell apart are a series, as of a training: its last line counts.
fn rows(text: &str, flat: &mut Flat) {
    for line in text.lines() {
        let Ok(Value::Object(row)) = serde_json::from_str(line) else { continue };
        let is_value = |value: &Value| match value {
            Value::Number(_) => true,
            Value::Array(items) => items.iter().all(Value::is_number),
            _ => false,
        };
        let identity = row.iter().filter(|(_, value)| !is_value(value)).map(|(_, value)| brief(value));
        let identity = identity.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
        for (name, value) in row.iter().filter(|(_, value)| is_value(value)) {
            flatten(&join(&identity, name), value, flat);
        }
    }
}

fn join(identity: &str, name: &str) -> String {
    if identity.is_empty() { name.to_owned() } else { format!("{identity}: {name}") }
}

/// `seed=0,rank=2` for an object or a list of pairs, the text of a string.
fn brief(value: &Value) -> String {
    let pair = |name: &str, value: &Value| format!("{name}={}", brief(value));
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => fields.iter().map(|(name, value)| pair(name, value)).collect::<Vec<_>>().join(","),
        Value::Array(items) => {
            let item = |item: &Value| match item.as_array().map(Vec::as_slice) {
                Some([Value::String(name), value]) => pair(name, value),
                _ => brief(item),
            };
            items.iter().map(item).collect::<Vec<_>>().join(",")
        }
        scalar => scalar.to_string(),
    }
}

/// The leaves of `value`: `architecture.layers`, `panels[0].rate`.
pub(crate) fn flatten(name: &str, value: &Value, flat: &mut Flat) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let dot = if name.is_empty() { "" } else { "." };
            fields.iter().for_each(|(field, value)| flatten(&format!("{name}{dot}{field}"), value, flat));
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) || items.len() <= 3 => {
            items.iter().enumerate().for_each(|(i, value)| flatten(&format!("{name}[{i}]"), value, flat));
        }
        leaf => drop(flat.insert(name.to_owned(), leaf.clone())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(flat: &Flat) -> String {
        flat.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
    }

    #[test]
    fn leaves_are_named_by_their_path() {
        let mut flat = Flat::new();
        flatten(
            "with.a",
            &json!({ "b": { "c": 1 }, "d": [1, 2], "e": [1, 2, 3, 4], "f": [{ "g": null }], "h": {} }),
            &mut flat,
        );
        insta::assert_snapshot!(told(&flat), @r"
        with.a.b.c = 1
        with.a.d[0] = 1
        with.a.d[1] = 2
        with.a.e = [1,2,3,4]
        with.a.f[0].g = null
        with.a.h = {}
        ");
    }

    #[test]
    fn lines_are_told_apart_by_what_is_no_number() {
        let mut flat = Flat::new();
        let lines = [
            json!({ "phase": "after", "coords": [["rank", 2]], "share": 0.5, "interval": [0.4, 0.6] }),
            json!({ "phase": "after", "coords": [["rank", 8]], "share": 0.25 }),
            json!({ "phase": "after", "coords": { "rank": 8 }, "share": 0.75 }),
            json!({ "step": 1 }),
        ];
        rows(&(lines.map(|line| line.to_string()).join("\n") + "\nno json\n[1]\n"), &mut flat);
        insta::assert_snapshot!(told(&flat), @r"
        rank=2 after: interval[0] = 0.4
        rank=2 after: interval[1] = 0.6
        rank=2 after: share = 0.5
        rank=8 after: share = 0.75
        step = 1
        ");
    }
}
