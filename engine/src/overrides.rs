//! `--set`: values from the command line, laid over the file's before it is read.

use std::{collections::HashMap, path::PathBuf};

use serde_yaml::{Mapping, Value};

use crate::{mistake::Mistake, problem::Report, yaml};

/// What the command line says beside the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `params.judge`, `axes.rank` or `stages.tuned.with.steps`, and the value, parsed as YAML. Of two for one path
    /// the later counts.
    pub sets: Vec<(String, Value)>,
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
    /// The value is no YAML.
    #[error("the value of `--set {set}` is not valid YAML: {error}")]
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
        let parse = |set: &String| match set.split_once('=') {
            Some((path, value)) if !path.trim().is_empty() => match yaml::value(value) {
                Ok(value) => Ok((path.trim().to_owned(), value)),
                Err(error) => Err(SetError::Value { set: set.clone(), error }),
            },
            _ => Err(SetError::NoName { set: set.clone() }),
        };
        Ok(Self { sets: sets.iter().map(parse).collect::<Result<_, _>>()?, cwd })
    }
}

/// Lays `overrides` over `file`. Gives the axes that were replaced, as the file has them.
pub(crate) fn apply(file: &mut Value, overrides: &Overrides, report: &mut Report<'_>) -> HashMap<String, Value> {
    let mut declared = HashMap::new();
    for (path, value) in &overrides.sets {
        let text = format!("{path}={}", shown(value));
        match apply_one(file, path, value) {
            Ok(Applied { path, before, picks }) => {
                if let [top, axis] = path.as_slice()
                    && top == "axes"
                    && let Some(before) = before
                {
                    declared.entry(axis.clone()).or_insert(before);
                }
                report.overridden(path, text, picks);
            }
            Err(mistake) => report.set(text, mistake),
        }
    }
    declared
}

struct Applied {
    path: Vec<String>,
    before: Option<Value>,
    picks: bool,
}

fn apply_one(file: &mut Value, path: &str, value: &Value) -> Result<Applied, Mistake> {
    let segments: Vec<String> = path.split('.').map(str::to_owned).collect();
    let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let may_be_new = match texts.as_slice() {
        ["params", _, ..] | ["axes", _] => false,
        ["stages", _, "with", _, ..] => true,
        _ => return Err(Mistake::SetPath { path: path.to_owned() }),
    };
    let mut node = &mut *file;
    for (i, segment) in segments.iter().enumerate() {
        // A stage may lack `with`, and `with` the param that is set.
        if may_be_new && i >= 2 && node.is_mapping() && node.get(segment.as_str()).is_none() {
            node[segment.as_str()] = Value::Mapping(Mapping::new());
        }
        let known = match &*node {
            Value::Mapping(map) => map.keys().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let unknown =
            || Mistake::SetUnknown { path: segments[..=i].join("."), known: with_prefix(&segments[..i], known) };
        node = match node.is_mapping() {
            true => node.get_mut(segment.as_str()).ok_or_else(unknown)?,
            false => return Err(unknown()),
        };
    }
    let (value, picks) = match texts.as_slice() {
        ["axes", axis] => pick(axis, node, value)?,
        _ => (value.clone(), false),
    };
    let before = Some(std::mem::replace(node, value));
    Ok(Applied { path: segments, before, picks })
}

fn with_prefix(path: &[String], known: Vec<String>) -> Vec<String> {
    known.into_iter().map(|name| format!("{}.{name}", path.join("."))).collect()
}

/// Labels given for an axis of records pick these by name.
fn pick(axis: &str, declared: &Value, labels: &Value) -> Result<(Value, bool), Mistake> {
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
