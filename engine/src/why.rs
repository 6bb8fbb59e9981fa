//! Why a stage runs: a [`Reason`] holds the old and the new values, and this file alone words it.

use std::{collections::BTreeMap, fmt};

use palinode_cache::{KeyParts, PortContent, Row, TreeDigest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why an instance runs, or may run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No result was ever recorded at this address.
    NeverRun,
    /// Something that determines the result differs from the last time.
    Changed(Vec<Change>),
    /// The record of the last result is gone, so there is nothing to compare with.
    RecordLost,
    /// The result is recorded, but these of its files are not in the cache or are damaged.
    OutputLost(Vec<LostFile>),
    /// Asked for.
    Forced,
    /// It waits for results that are not known yet.
    Upstream(Vec<String>),
}

/// A file of a recorded result that can't be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostFile {
    /// The output port; `None` for the stage's log.
    pub port: Option<String>,
    /// The file's name within the port.
    pub file: String,
}

/// One part of a key that differs. `None`: it was, or is, not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "old and new values of the part that the variant names")]
pub enum Change {
    Kind { old: String, new: String },
    Revision { kind: String, old: u32, new: u32 },
    Numerics { name: String, old: Option<Value>, new: Option<Value> },
    Param { name: String, old: Option<Value>, new: Option<Value> },
    File { param: String, old: Option<TreeDigest>, new: Option<TreeDigest> },
    Input { port: String, old: Option<PortContent>, new: Option<PortContent> },
    RowAdded { port: String, row: Row },
    RowRemoved { port: String, row: Row },
    RowChanged { port: String, old: Row, new: Row },
    RowsReordered { port: String },
}

/// What differs between two sets of key parts, in the order in which a person would ask.
pub fn diff(old: &KeyParts, new: &KeyParts) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.kind != new.kind {
        changes.push(Change::Kind { old: old.kind.clone(), new: new.kind.clone() });
    } else if old.revision != new.revision {
        changes.push(Change::Revision { kind: new.kind.clone(), old: old.revision, new: new.revision });
    }
    let numerics = pairs(&old.numerics, &new.numerics);
    changes.extend(numerics.map(|(name, old, new)| Change::Numerics { name, old, new }));
    for (name, old, new) in pairs(&old.params, &new.params) {
        params(name, old, new, &mut changes);
    }
    changes.extend(pairs(&old.files, &new.files).map(|(param, old, new)| Change::File { param, old, new }));
    for (port, old, new) in pairs(&old.inputs, &new.inputs) {
        match (old, new) {
            (Some(PortContent::Table(old)), Some(PortContent::Table(new))) => rows(&port, &old, &new, &mut changes),
            (old, new) => changes.push(Change::Input { port, old, new }),
        }
    }
    changes
}

/// The names whose values differ between two maps, in order of name.
fn pairs<'a, V: Clone + PartialEq>(
    old: &'a BTreeMap<String, V>,
    new: &'a BTreeMap<String, V>,
) -> impl Iterator<Item = (String, Option<V>, Option<V>)> + 'a {
    let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let values = names.into_iter().map(|name| (name.clone(), old.get(name).cloned(), new.get(name).cloned()));
    values.filter(|(_, old, new)| old != new)
}

/// Goes into objects, so that the field that differs is named and not the whole object.
fn params(name: String, old: Option<Value>, new: Option<Value>, changes: &mut Vec<Change>) {
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (&old, &new) {
        let sorted = |map: &serde_json::Map<String, Value>| map.clone().into_iter().collect::<BTreeMap<_, _>>();
        for (field, old, new) in pairs(&sorted(old), &sorted(new)) {
            params(format!("{name}.{field}"), old, new, changes);
        }
    } else {
        changes.push(Change::Param { name, old, new });
    }
}

fn rows(port: &str, old: &[Row], new: &[Row], changes: &mut Vec<Change>) {
    let before = changes.len();
    let port = port.to_owned();
    let find = |rows: &[Row], coords: &[(String, Value)]| rows.iter().find(|row| row.coords == coords).cloned();
    for row in old {
        match find(new, &row.coords) {
            None => changes.push(Change::RowRemoved { port: port.clone(), row: row.clone() }),
            Some(now) if now != *row => {
                changes.push(Change::RowChanged { port: port.clone(), old: row.clone(), new: now });
            }
            Some(_) => {}
        }
    }
    let added = new.iter().filter(|row| find(old, &row.coords).is_none());
    changes.extend(added.map(|row| Change::RowAdded { port: port.clone(), row: row.clone() }));
    if changes.len() == before {
        changes.push(Change::RowsReordered { port });
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRun => f.write_str("never run"),
            Self::Changed(changes) => list(f, changes, "; "),
            Self::RecordLost => f.write_str("the record of its last result is gone"),
            Self::OutputLost(files) => {
                f.write_str("output lost: ")?;
                list(f, files, ", ")
            }
            Self::Forced => f.write_str("forced"),
            Self::Upstream(addresses) => {
                f.write_str("waits on ")?;
                let shown = addresses.len().min(3);
                list(f, &addresses[..shown], ", ")?;
                if shown < addresses.len() { write!(f, " and {} more", addresses.len() - shown) } else { Ok(()) }
            }
        }
    }
}

impl fmt::Display for LostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            Some(port) => write!(f, "`{}` of output `{port}`", self.file),
            None => f.write_str("the log"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old_new =
            |f: &mut fmt::Formatter<'_>, what: String, old: &Option<Value>, new: &Option<Value>| match (old, new) {
                (Some(old), Some(new)) => {
                    let (old, new) = clip_both(&old.to_string(), &new.to_string(), 80);
                    write!(f, "{what} changed: {old} -> {new}")
                }
                (None, Some(new)) => write!(f, "{what} is new: {}", clip(new)),
                (Some(old), None) => write!(f, "{what} was dropped (it was {})", clip(old)),
                (None, None) => write!(f, "{what} changed"),
            };
        match self {
            Self::Kind { old, new } => write!(f, "kind changed: `{old}` -> `{new}`"),
            Self::Revision { kind, old, new } => write!(f, "revision of `{kind}` changed: {old} -> {new}"),
            Self::Numerics { name, old, new } => old_new(f, format!("numerics `{name}`"), old, new),
            Self::Param { name, old, new } => old_new(f, format!("`with.{name}`"), old, new),
            Self::File { param, old, new } => contents(f, format!("files behind `with.{param}`"), *old, *new),
            Self::Input { port, old, new } => match (old, new) {
                (Some(PortContent::One(old)), Some(PortContent::One(new))) => {
                    contents(f, format!("input `{port}`"), Some(*old), Some(*new))
                }
                (Some(_), Some(PortContent::Table(rows))) => {
                    write!(f, "input `{port}` changed: one result -> a table of {}", rows.len())
                }
                (Some(PortContent::Table(rows)), Some(_)) => {
                    write!(f, "input `{port}` changed: a table of {} -> one result", rows.len())
                }
                (None, _) => write!(f, "input `{port}` is new"),
                (Some(_), None) => write!(f, "input `{port}` was dropped"),
            },
            Self::RowAdded { port, row } => write!(f, "input `{port}` has a new row: {}", coords(&row.coords)),
            Self::RowRemoved { port, row } => write!(f, "input `{port}` lost the row {}", coords(&row.coords)),
            Self::RowChanged { port, old, new } => {
                contents(f, format!("input `{port}` at {}", coords(&old.coords)), old.content, new.content)
            }
            Self::RowsReordered { port } => write!(f, "the rows of input `{port}` changed their order"),
        }
    }
}

fn contents(f: &mut fmt::Formatter<'_>, what: String, old: Option<TreeDigest>, new: Option<TreeDigest>) -> fmt::Result {
    match (old, new) {
        (Some(old), Some(new)) => write!(f, "{what} changed ({} -> {})", old.short(), new.short()),
        (None, Some(new)) => write!(f, "{what} is new ({})", new.short()),
        (Some(old), None) => write!(f, "{what} was dropped (it was {})", old.short()),
        (None, None) => write!(f, "{what} changed"),
    }
}

/// Coordinates as people write them: `rank=8,seed=1`.
pub fn coords(coords: &[(String, Value)]) -> String {
    let text = |(axis, label): &(String, Value)| match label {
        Value::String(label) => format!("{axis}={label}"),
        label => format!("{axis}={label}"),
    };
    coords.iter().map(text).collect::<Vec<_>>().join(",")
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], separator: &str) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { separator })?;
    }
    Ok(())
}

/// JSON, shortened in the middle: long prompts and word lists would drown the message.
pub(crate) fn clip(value: &Value) -> String {
    let text = value.to_string();
    let count = text.chars().count();
    if count <= 80 {
        return text;
    }
    let head: String = text.chars().take(50).collect();
    let tail: String = text.chars().skip(count - 20).collect();
    format!("{head}…{tail}")
}

/// Two texts that differ, each in at most about `most` characters: where they are longer, from a little before the first
/// difference on.
pub fn clip_both(old: &str, new: &str, most: usize) -> (String, String) {
    let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
    let same = |(a, b): &(&char, &char)| a == b;
    let before = old.iter().zip(&new).take_while(same).count();
    let clip = |text: &[char]| {
        if text.len() <= most {
            return text.iter().collect();
        }
        // What fits from the beginning stays: people know texts by that.
        let from = if before < most / 2 { 0 } else { before.saturating_sub(most / 4).min(text.len() - most / 2) };
        let to = text.len().min(from + most);
        let [head, tail] = [from > 0, to < text.len()].map(|cut| if cut { "…" } else { "" });
        format!("{head}{}{tail}", text[from..to].iter().collect::<String>())
    };
    (clip(&old), clip(&new))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn tree(byte: u8) -> TreeDigest {
        TreeDigest::from_bytes([byte; 32])
    }

    fn parts() -> KeyParts {
        let row = |seed: u64, byte| Row { coords: vec![("seed".into(), json!(seed))], content: Some(tree(byte)) };
        KeyParts {
            kind: "generate".into(),
            revision: 1,
            numerics: [("models".to_owned(), json!(3))].into(),
            params: [("max_new_tokens".to_owned(), json!(20)), ("sampling".to_owned(), json!({"top_p": 1, "k": 5}))]
                .into(),
            files: [("source".to_owned(), tree(1))].into(),
            inputs: [
                ("model".to_owned(), PortContent::One(tree(0xde))),
                ("rates".to_owned(), PortContent::Table(vec![row(0, 7), row(1, 8)])),
            ]
            .into(),
        }
    }

    /// The words for what `edit` does to the parts.
    fn words(edit: impl FnOnce(&mut KeyParts)) -> String {
        let mut new = parts();
        edit(&mut new);
        Reason::Changed(diff(&parts(), &new)).to_string()
    }

    fn table(parts: &mut KeyParts) -> &mut Vec<Row> {
        match parts.inputs.get_mut("rates") {
            Some(PortContent::Table(rows)) => rows,
            _ => unreachable!(),
        }
    }

    #[test]
    fn each_change_is_worded() {
        assert_eq!(diff(&parts(), &parts()), []);
        assert_snapshot!(words(|p| p.kind = "echo".into()), @"kind changed: `generate` -> `echo`");
        assert_snapshot!(words(|p| p.revision = 2), @"revision of `generate` changed: 1 -> 2");
        assert_snapshot!(words(|p| { p.numerics.insert("models".into(), json!(4)); }), @"numerics `models` changed: 3 -> 4");
        assert_snapshot!(words(|p| { p.params.insert("max_new_tokens".into(), json!(24)); }), @"`with.max_new_tokens` changed: 20 -> 24");
        assert_snapshot!(words(|p| p.params.get_mut("sampling").unwrap()["k"] = json!(6)), @"`with.sampling.k` changed: 5 -> 6");
        assert_snapshot!(words(|p| { p.params.insert("seed".into(), json!("a".repeat(200))); }), @r#"`with.seed` is new: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…aaaaaaaaaaaaaaaaaaa""#);
        assert_snapshot!(words(|p| { p.params.remove("max_new_tokens"); }), @"`with.max_new_tokens` was dropped (it was 20)");
        assert_snapshot!(words(|p| { p.files.insert("source".into(), tree(2)); }), @"files behind `with.source` changed (010101010101 -> 020202020202)");
        assert_snapshot!(words(|p| { p.inputs.insert("model".into(), PortContent::One(tree(0xca))); }), @"input `model` changed (dededededede -> cacacacacaca)");
        assert_snapshot!(words(|p| { p.inputs.insert("lexicon".into(), PortContent::One(tree(0xca))); }), @"input `lexicon` is new");
        assert_snapshot!(words(|p| { p.inputs.remove("model"); }), @"input `model` was dropped");
        assert_snapshot!(words(|p| { p.inputs.insert("model".into(), PortContent::Table(vec![])); }), @"input `model` changed: one result -> a table of 0");
        assert_snapshot!(words(|p| { p.inputs.insert("rates".into(), PortContent::One(tree(3))); }), @"input `rates` changed: a table of 2 -> one result");
        assert_snapshot!(words(|p| table(p)[1].coords[0].1 = json!("x")), @"input `rates` lost the row seed=1; input `rates` has a new row: seed=x");
        assert_snapshot!(words(|p| table(p)[1].content = None), @"input `rates` at seed=1 was dropped (it was 080808080808)");
        assert_snapshot!(words(|p| table(p).reverse()), @"the rows of input `rates` changed their order");
    }

    #[test]
    fn of_long_texts_the_difference_is_shown() {
        let text = |rate: &str| {
            let (before, after) = ("x ".repeat(40), " and so on".repeat(30));
            format!("echo a rather long script that goes on and on, {before}--lr {rate}{after}")
        };
        let both = |old: &str, new: &str| {
            let (old, new) = clip_both(old, new, 60);
            format!("{old} -> {new}")
        };
        assert_snapshot!(both(&text("0.1"), &text("0.25")), @"…x x x x --lr 0.1 and so on and so on and so on and so on and… -> …x x x x --lr 0.25 and so on and so on and so on and so on an…");
        assert_snapshot!(both("a short one", &text("0.1")), @"a short one -> echo a rather long script that goes on and on, x x x x x x x…");
        assert_snapshot!(both(&text("0.1"), &format!("{} more", text("0.1"))), @"… and so on and so on and so on -> …so on and so on and so on more");
        assert_eq!(both("same", "other"), "same -> other");
    }

    #[test]
    fn each_reason_is_worded() {
        assert_snapshot!(Reason::NeverRun, @"never run");
        assert_snapshot!(Reason::RecordLost, @"the record of its last result is gone");
        assert_snapshot!(Reason::Forced, @"forced");
        let lost = |port: Option<&str>| LostFile { port: port.map(str::to_owned), file: "figure.svg".into() };
        assert_snapshot!(Reason::OutputLost(vec![lost(Some("figure")), lost(None)]), @"output lost: `figure.svg` of output `figure`, the log");
        assert_snapshot!(Reason::Upstream((0..5).map(|seed| format!("base[seed={seed}]")).collect()), @"waits on base[seed=0], base[seed=1], base[seed=2] and 2 more");
    }
}
