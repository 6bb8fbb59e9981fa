//! `--set`: values from the command line, laid over the file's before it is read.

mod path;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
};

use serde_yaml::{Mapping, Value};

pub use path::{SetPath, Step};

use crate::{
    data::{describe, key_text},
    mistake::Mistake,
    overlay::{At, Files, Found, Layer, Replaced},
    yaml,
};

/// What the command line says beside the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--profile`: names under `profiles:`. Of two that say something about one value the later counts.
    pub profiles: Vec<String>,
    /// `--params`: files of params, laid over the profiles.
    pub params: Vec<PathBuf>,
    /// `--set`: `params.judge`, `axes.rank[0]` or `stages.tuned.with.steps`, and the value, parsed as YAML. Laid over all
    /// else; of two for one path the later counts.
    pub sets: Vec<(SetPath, Value)>,
    /// `--device` and its like: a param of `with`, for all stages whose kind has one of this name. The strongest of all.
    pub everywhere: Vec<(String, serde_json::Value)>,
    /// The folder that paths given here are relative to.
    pub cwd: PathBuf,
}

/// A `--set` that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// No `=`, or nothing before it.
    #[error("`--set {set}` lacks a `name=`")]
    NoName {
        /// As given.
        set: String,
    },
    /// What stands before the `=` is no path.
    #[error("`--set {set}`: {reason}")]
    Path {
        /// As given.
        set: String,
        /// In a few words.
        reason: String,
    },
    /// The value is no YAML.
    #[error("the value of `--set {set}` can't be used: {error}")]
    Value {
        /// As given.
        set: String,
        /// The parser's words.
        error: String,
    },
}

impl Overrides {
    /// Reads `path=value` texts; paths in them are relative to `cwd`.
    ///
    /// # Errors
    /// If one is no `path=value` with a value that is YAML.
    pub fn parse(sets: &[String], cwd: PathBuf) -> Result<Self, SetError> {
        let parse = |set: &String| {
            let (path, value) = SetPath::parse(set).map_err(|reason| match reason {
                None => SetError::NoName { set: set.clone() },
                Some(reason) => SetError::Path { set: set.clone(), reason },
            })?;
            let value = yaml::value(value).map_err(|error| SetError::Value { set: set.clone(), error })?;
            Ok((path, value))
        };
        Ok(Self { sets: sets.iter().map(parse).collect::<Result<_, _>>()?, cwd, ..Self::default() })
    }
}

/// Lays those of `overrides` over `whole` that are about `defaults`, or those that are not.
pub(crate) fn apply(
    whole: &mut Value,
    overrides: &Overrides,
    about_defaults: bool,
    files: &mut Files,
    replaced: &mut HashMap<String, Replaced>,
    found: &mut Vec<Found>,
) {
    for (path, value) in overrides.sets.iter().filter(|(path, _)| path.starts_with("defaults") == about_defaults) {
        let text = format!("--set {path}={}", shown(value));
        match apply_one(whole, path, value) {
            Ok(Applied { before, picks }) => {
                let names = path.texts();
                let mut layer = Layer::of_set(text, names.clone());
                if let ([axes, axis], Some(before)) = (names.as_slice(), before)
                    && axes == "axes"
                {
                    if picks {
                        layer.picked.insert(axis.clone());
                    }
                    if let Entry::Vacant(entry) = replaced.entry(axis.clone()) {
                        entry.insert(Replaced { before, by: "`--set`".to_owned() });
                    }
                }
                files.layers.push(layer);
            }
            Err(mistake) => found.push(Found { at: At::Option(text), mistake }),
        }
    }
}

struct Applied {
    before: Option<Value>,
    picks: bool,
}

fn apply_one(whole: &mut Value, path: &SetPath, value: &Value) -> Result<Applied, Mistake> {
    let steps = path.steps();
    let top = steps.first().and_then(Step::key).unwrap_or_default();
    // How many steps must lead to something that is there already.
    let known_steps = match (top, steps.len()) {
        ("params" | "axes", 2..) => steps.len(),
        ("stages", 3..) => 2,
        ("defaults", 3..) => 0,
        _ => return Err(Mistake::SetPath { path: path.to_string() }),
    };
    let mut node = &mut *whole;
    for (i, step) in steps.iter().enumerate() {
        let so_far = || path.shown(i + 1);
        if i >= known_steps
            && let Step::Key(key) = step
        {
            if node.is_null() {
                *node = Value::Mapping(Mapping::new());
            }
            if let Value::Mapping(map) = node
                && find(map, key).is_none()
            {
                map.insert(key.as_str().into(), Value::Null);
            }
        }
        node = match (step, node) {
            (Step::Index(index), Value::Sequence(items)) => {
                let length = items.len();
                items.get_mut(*index).ok_or_else(|| Mistake::SetIndex { path: path.shown(i), index: *index, length })?
            }
            (Step::Key(key), Value::Mapping(map)) => match find(map, key) {
                Some(key) => map.get_mut(&key).expect("it was just found"),
                None => {
                    let known = map.keys().filter_map(key_text).map(|key| path.sibling(i, &key)).collect();
                    return Err(Mistake::SetUnknown { path: so_far(), known });
                }
            },
            (Step::Index(_), other) => {
                return Err(Mistake::SetNotA { path: path.shown(i), expected: "a list", found: describe(other) });
            }
            (Step::Key(_), Value::Null) => return Err(Mistake::SetUnknown { path: so_far(), known: Vec::new() }),
            (Step::Key(_), other) => {
                return Err(Mistake::SetNotA { path: path.shown(i), expected: "a mapping", found: describe(other) });
            }
        };
    }
    let (value, picks) = match steps {
        [_, Step::Key(axis)] if top == "axes" => pick(axis, node, value)?,
        _ => (value.clone(), false),
    };
    Ok(Applied { before: Some(std::mem::replace(node, value)), picks })
}

/// The key that reads `text`: it may be a number in the file.
fn find(map: &Mapping, text: &str) -> Option<Value> {
    let own = Value::from(text);
    if map.contains_key(&own) {
        return Some(own);
    }
    map.keys().find(|key| key_text(key).is_some_and(|key| key == text)).cloned()
}

/// Labels given for an axis of records pick these by name; whether they did.
pub(crate) fn pick(axis: &str, declared: &Value, labels: &Value) -> Result<(Value, bool), Mistake> {
    let (Value::Sequence(records), Value::Sequence(labels)) = (declared, labels) else {
        return Ok((labels.clone(), false));
    };
    let is_record = |value: &Value| value.is_mapping();
    if !records.iter().any(is_record) || labels.iter().any(is_record) || labels.is_empty() {
        return Ok((Value::Sequence(labels.clone()), false));
    }
    let names: Vec<_> = records.iter().map(|record| record.get("name").and_then(label)).collect();
    let picked = labels.iter().map(|given| {
        let wanted = label(given);
        names.iter().position(|name| name.is_some() && *name == wanted).map(|i| records[i].clone()).ok_or_else(|| {
            let known = names.iter().flatten().cloned().collect();
            Mistake::UnknownLabel { axis: axis.to_owned(), label: shown(given), known }
        })
    });
    Ok((Value::Sequence(picked.collect::<Result<_, _>>()?), true))
}

/// The value in one line.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_else(|_| "...".to_owned()),
    }
}

/// The canonical labels of an axis as the file declares it.
pub(crate) fn labels(declared: &Value) -> Vec<String> {
    let Value::Sequence(items) = declared else { return Vec::new() };
    items.iter().filter_map(|item| label(item.get("name").unwrap_or(item))).collect()
}

fn label(value: &Value) -> Option<String> {
    crate::axes::canonical(&serde_json::to_value(value).ok()?).map(|(text, _)| text)
}
