//! What a result is a result of: the named parts of a key, kept so that a miss can be explained.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, Key, StageKey, TreeDigest, encode};

/// The named parts of a [`StageKey`]. Paths, names of stages, times, machines, thread counts are absent by design.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyParts {
    /// The stage kind, as `uses` names it.
    pub kind: String,
    /// The kind's revision: bumped by hand when its bytes change.
    pub revision: u32,
    /// Named facts about numerics that can change bytes (numerics revision of the models crate, device model, ...).
    pub numerics: BTreeMap<String, Value>,
    /// Canonical params: all defaults filled in, paths taken out.
    pub params: BTreeMap<String, Value>,
    /// Content behind each path in `with`, by param (`source`, `files[1]`).
    pub files: BTreeMap<String, TreeDigest>,
    /// Content at each input port.
    pub inputs: BTreeMap<String, PortContent>,
}

/// What arrives at a port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortContent {
    /// The output of one instance.
    One(TreeDigest),
    /// The outputs of several instances with their coordinates (axis, label) in the order of the axes; what it
    /// draws depends on the labels, so they are part of the key.
    Table(Vec<Row>),
}

/// One row of a gather.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Coordinates on the gathered axes: (axis, label), in the order of `axes:`.
    pub coords: Vec<(String, Value)>,
    /// The content, or `None` if this point failed or is missing and the gather drops such points.
    pub content: Option<TreeDigest>,
}

impl KeyParts {
    /// The key.
    pub fn key(&self) -> StageKey {
        let mut hasher = Digest::<Key>::hasher();
        let value = serde_json::to_value(self).expect("key parts have string keys and finite numbers");
        encode::value(&mut hasher, &value);
        Digest::finish(&hasher)
    }
}
