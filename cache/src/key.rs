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

/// The parts of a key where they lie: for a key whose parts nobody will ask for. Each list is in order of name.
#[derive(Debug)]
pub struct KeySketch<'a> {
    /// See [`KeyParts::kind`].
    pub kind: &'a str,
    /// See [`KeyParts::revision`].
    pub revision: u32,
    /// See [`KeyParts::numerics`].
    pub numerics: &'a BTreeMap<String, Value>,
    /// See [`KeyParts::params`].
    pub params: &'a [(&'a str, &'a Value)],
    /// See [`KeyParts::files`].
    pub files: &'a [(&'a str, TreeDigest)],
    /// See [`KeyParts::inputs`]; a table has no sketch.
    pub inputs: &'a [(&'a str, TreeDigest)],
}

impl KeySketch<'_> {
    /// The key: that of the same parts as [`KeyParts`].
    pub fn key(&self) -> StageKey {
        let mut bytes = Vec::with_capacity(1024);
        let sink = &mut bytes;
        encode::map(sink, 6);
        encode::text(sink, "files");
        encode::map(sink, self.files.len());
        for (param, tree) in self.files {
            encode::text(sink, param);
            encode::digest(sink, tree);
        }
        encode::text(sink, "inputs");
        encode::map(sink, self.inputs.len());
        for (port, tree) in self.inputs {
            encode::text(sink, port);
            encode::map(sink, 1);
            encode::text(sink, "one");
            encode::digest(sink, tree);
        }
        encode::text(sink, "kind");
        encode::text(sink, self.kind);
        encode::text(sink, "numerics");
        encode::map(sink, self.numerics.len());
        for (name, value) in self.numerics {
            encode::text(sink, name);
            encode::value(sink, value);
        }
        encode::text(sink, "params");
        encode::map(sink, self.params.len());
        for (name, value) in self.params {
            encode::text(sink, name);
            encode::value(sink, value);
        }
        encode::text(sink, "revision");
        encode::value(sink, &self.revision.into());
        Digest::of(&bytes)
    }
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

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};
    use serde_json::json;

    use super::*;
    use crate::encode::tests::arbitrary as arbitrary_value;

    fn tree(byte: u8) -> TreeDigest {
        Digest::of(&[byte])
    }

    fn arbitrary() -> impl Strategy<Value = KeyParts> {
        let row = |byte| Row { coords: vec![("rank".to_owned(), json!(byte))], content: Some(tree(byte)) };
        let port = prop_oneof![
            (0u8..4).prop_map(|byte| PortContent::One(tree(byte))),
            (1u8..4).prop_map(move |n| PortContent::Table((0..n).map(row).collect())),
        ];
        let params = btree_map("[a-d]", prop_oneof![arbitrary_value(), (0.0..1.0f64).prop_map(Value::from)], 0..4);
        let numerics = btree_map("[a-d]", arbitrary_value(), 0..2);
        let files = btree_map("[a-d]", (0u8..4).prop_map(tree), 0..3);
        ("[a-z]{1,8}", any::<u32>(), numerics, params, files, btree_map("[a-d]", port, 0..3)).prop_map(
            |(kind, revision, numerics, params, files, inputs)| KeyParts {
                kind,
                revision,
                numerics,
                params,
                files,
                inputs,
            },
        )
    }

    /// Every way to change one thing.
    fn mutations(parts: &KeyParts) -> Vec<(&'static str, KeyParts)> {
        let mut all = Vec::new();
        let mut add = |what, change: &dyn Fn(&mut KeyParts)| {
            let mut changed = parts.clone();
            change(&mut changed);
            if changed != *parts {
                all.push((what, changed));
            }
        };
        let row = |byte| Row { coords: vec![("axis".to_owned(), json!("x"))], content: Some(tree(byte)) };
        add("kind", &|parts| parts.kind.push('x'));
        add("revision", &|parts| parts.revision = parts.revision.wrapping_add(1));
        add("numerics added", &|parts| _ = parts.numerics.insert("new".to_owned(), json!(1)));
        add("numerics removed", &|parts| _ = parts.numerics.pop_first());
        add("param added", &|parts| _ = parts.params.insert("new".to_owned(), Value::Null));
        add("param removed", &|parts| _ = parts.params.pop_first());
        add("param changed", &|parts| parts.params.values_mut().for_each(|value| *value = json!([value.clone()])));
        add("file added", &|parts| _ = parts.files.insert("new".to_owned(), tree(0)));
        add("file changed", &|parts| parts.files.values_mut().for_each(|file| *file = tree(99)));
        add("input added", &|parts| _ = parts.inputs.insert("one".to_owned(), PortContent::One(tree(0))));
        add("table added", &|parts| _ = parts.inputs.insert("table".to_owned(), PortContent::Table(vec![row(0)])));
        for port in parts.inputs.keys() {
            add("input removed", &|parts| _ = parts.inputs.remove(port));
            add("input renamed", &|parts| {
                let content = parts.inputs.remove(port).unwrap();
                parts.inputs.insert(format!("{port}x"), content);
            });
            let table = |parts: &mut KeyParts, change: &dyn Fn(&mut Vec<Row>)| match parts.inputs.get_mut(port) {
                Some(PortContent::Table(rows)) => change(rows),
                Some(PortContent::One(one)) => *one = tree(98),
                None => {}
            };
            add("row added", &|parts| table(parts, &|rows| rows.push(row(1))));
            add("rows reordered", &|parts| table(parts, &|rows| rows.reverse()));
            add("row dropped", &|parts| table(parts, &|rows| rows[0].content = None));
            add("label", &|parts| table(parts, &|rows| rows[0].coords[0].1 = json!("0")));
            add("axis", &|parts| table(parts, &|rows| rows[0].coords[0].0 = "other".to_owned()));
        }
        all
    }

    /// The same value with the fields of every object in the opposite order.
    fn reversed(value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(reversed).collect(),
            Value::Object(fields) => fields.iter().rev().map(|(name, value)| (name.clone(), reversed(value))).collect(),
            scalar => scalar.clone(),
        }
    }

    /// As many random cases as `PROPTEST_CASES` says; else a small dose.
    fn cases() -> ProptestConfig {
        let given = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
        ProptestConfig::with_cases(given.unwrap_or(500))
    }

    fn sketched(parts: &KeyParts) -> Option<StageKey> {
        let input = |(port, content): (&'_ String, &PortContent)| match content {
            PortContent::One(tree) => Some((port.clone(), *tree)),
            PortContent::Table(_) => None,
        };
        let inputs = parts.inputs.iter().map(input).collect::<Option<Vec<_>>>()?;
        let sketch = KeySketch {
            kind: &parts.kind,
            revision: parts.revision,
            numerics: &parts.numerics,
            params: &parts.params.iter().map(|(name, value)| (name.as_str(), value)).collect::<Vec<_>>(),
            files: &parts.files.iter().map(|(param, tree)| (param.as_str(), *tree)).collect::<Vec<_>>(),
            inputs: &inputs.iter().map(|(port, tree)| (port.as_str(), *tree)).collect::<Vec<_>>(),
        };
        Some(sketch.key())
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn the_order_of_fields_does_not_count(parts in arbitrary()) {
            let value = serde_json::to_value(&parts).unwrap();
            let again: KeyParts = serde_json::from_value(reversed(&value)).unwrap();
            prop_assert_eq!(again.key(), parts.key());
        }

        #[test]
        fn any_change_gives_another_key(parts in arbitrary()) {
            for (what, changed) in mutations(&parts) {
                prop_assert_ne!(parts.key(), changed.key(), "{}", what);
            }
        }

        #[test]
        fn a_sketch_gives_the_key_of_its_parts(parts in arbitrary()) {
            prop_assert!(sketched(&parts).is_none_or(|key| key == parts.key()));
        }

        #[test]
        fn parts_read_back_with_the_same_key(parts in arbitrary()) {
            let again: KeyParts = serde_json::from_str(&serde_json::to_string(&parts).unwrap()).unwrap();
            prop_assert_eq!(again.key(), parts.key());
        }
    }

    /// Keys are on users' disks: a change here means that everyone's results are lost.
    #[test]
    fn the_encoding_is_frozen() {
        let key = crate::testing::parts(1).key();
        assert_eq!(key.hex(), "46cd1cde6fc573dbd9d0cc823108f3d18758dce6524aaeee9a5ae1830a965eb7");
    }
}
