//! `diff`: two runs side by side. Instances meet by address; what is compared is what went in (params, files, inputs),
//! what became of them, and the numbers that came out: facts that stages told, and files of metrics.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
};

use palinode_cache::{Cache, CacheError, PortContent, Record, StageKey};
use serde::Serialize;
use serde_json::Value;

use crate::{
    event::Event,
    metrics,
    runs::{self, RunInfo},
};

/// Two runs, compared.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The first run.
    pub a: RunInfo,
    /// The second run.
    pub b: RunInfo,
    /// Instances that have the same result in both.
    pub same: usize,
    /// Instances that differ, in order of the second run.
    pub changed: Vec<Difference>,
    /// Instances of the first run alone.
    pub only_a: Vec<String>,
    /// Instances of the second run alone.
    pub only_b: Vec<String>,
    /// Instances with the same result under another address.
    pub renamed: Vec<(String, String)>,
}

/// How one instance differs.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The instance.
    pub address: String,
    /// What differs.
    pub rows: Vec<Row>,
    /// Whether a record is gone, so that more may differ.
    pub incomplete: bool,
}

/// One thing that differs. `None`: it is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `with.rank`, `input data`, `fact loss`, `metric ...`, `output model`, `outcome`.
    pub name: String,
    /// In the first run.
    pub a: Option<Value>,
    /// In the second run.
    pub b: Option<Value>,
    /// For numbers, how much more it is in the second.
    pub difference: Option<f64>,
}

/// Why runs can't be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A log can't be read.
    #[error("can't read the runs of this cache: {}", palinode_cache::reason(.0))]
    Log(#[from] io::Error),
    /// The cache can't be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// There is no such run.
    #[error(transparent)]
    Unknown(#[from] runs::UnknownRun),
}

/// Compares the runs that `a` and `b` name (see [`runs::find`]).
///
/// # Errors
/// If one is unknown, or something can't be read.
pub fn compare(cache: &Cache, a: &str, b: &str) -> Result<Comparison, CompareError> {
    let infos = runs::list(cache.root())?;
    let (a, b) = (runs::find(&infos, a)?.clone(), runs::find(&infos, b)?.clone());
    let (before, after) = (outcomes(cache, &a.run)?, outcomes(cache, &b.run)?);
    let places: HashMap<&str, &Outcome> = before.iter().map(|(address, outcome)| (address.as_str(), outcome)).collect();
    let (mut same, mut changed, mut only_b) = (0, Vec::new(), Vec::new());
    for (address, now) in &after {
        match places.get(address.as_str()) {
            None => only_b.push(address.clone()),
            Some(then) if then.key.is_some() && then.key == now.key => same += 1,
            Some(then) => {
                let difference = difference(cache, address, then, now)?;
                if difference.rows.is_empty() && !difference.incomplete { same += 1 } else { changed.push(difference) }
            }
        }
    }
    let there: BTreeSet<&str> = after.iter().map(|(address, _)| address.as_str()).collect();
    let mut only_a: Vec<String> =
        before.iter().map(|(address, _)| address.clone()).filter(|address| !there.contains(address.as_str())).collect();
    let renamed = renamed(&before, &after, &only_a, &only_b);
    only_a.retain(|address| !renamed.iter().any(|(old, _)| old == address));
    only_b.retain(|address| !renamed.iter().any(|(_, new)| new == address));
    Ok(Comparison { a, b, same, changed, only_a, only_b, renamed })
}

/// How an instance ended in a run.
struct Outcome {
    key: Option<StageKey>,
    word: &'static str,
}

/// Each instance of a run: in the order of the pipeline if it ran to its end, else in that in which they ended.
fn outcomes(cache: &Cache, run: &str) -> io::Result<Vec<(String, Outcome)>> {
    let mut order = Vec::new();
    let mut last: HashMap<String, Outcome> = HashMap::new();
    for line in runs::events(cache.root(), run)? {
        let (address, key, word) = match line.event {
            Event::StageFinished { address, key, .. } | Event::StageCached { address, key } => {
                (address, Some(key), "done")
            }
            Event::StageFailed { address, .. } => (address, None, "failed"),
            Event::StageBlocked { address, .. } => (address, None, "blocked"),
            Event::StageCancelled { address } => (address, None, "cancelled"),
            Event::RunFinished(summary) => {
                order = summary.nodes.into_iter().map(|node| node.address).collect();
                continue;
            }
            _ => continue,
        };
        if last.insert(address.clone(), Outcome { key, word }).is_none() {
            order.push(address);
        }
    }
    Ok(order.into_iter().filter_map(|address| last.remove(&address).map(|outcome| (address, outcome))).collect())
}

fn renamed(
    before: &[(String, Outcome)],
    after: &[(String, Outcome)],
    only_a: &[String],
    only_b: &[String],
) -> Vec<(String, String)> {
    let mut keys: HashMap<StageKey, &String> = HashMap::new();
    for (address, outcome) in before.iter().filter(|(address, _)| only_a.contains(address)) {
        keys.extend(outcome.key.map(|key| (key, address)));
    }
    let now = after.iter().filter(|(address, _)| only_b.contains(address));
    now.filter_map(|(new, outcome)| Some((keys.remove(&outcome.key?)?.clone(), new.clone()))).collect()
}

fn difference(cache: &Cache, address: &str, then: &Outcome, now: &Outcome) -> Result<Difference, CacheError> {
    let mut rows = Vec::new();
    let word = |outcome: &Outcome| Some(Value::from(outcome.word));
    push(&mut rows, "outcome", word(then), word(now));
    let record = |outcome: &Outcome| outcome.key.map(|key| cache.record(&key)).transpose().map(Option::flatten);
    let (old, new) = (record(then)?, record(now)?);
    let incomplete = (then.key.is_some() && old.is_none()) || (now.key.is_some() && new.is_none());
    if let (Some(old), Some(new)) = (&old, &new) {
        for (told, values) in [("", parts as fn(&Record) -> Flat), ("fact ", facts), ("", outputs)] {
            sides(&mut rows, told, values(old), values(new));
        }
        sides(&mut rows, "metric ", metrics::of(old, cache)?, metrics::of(new, cache)?);
    }
    Ok(Difference { address: address.to_owned(), rows, incomplete })
}

/// Values by name.
pub(crate) type Flat = BTreeMap<String, Value>;

fn parts(record: &Record) -> Flat {
    let parts = &record.parts;
    let mut flat =
        Flat::from([("kind".to_owned(), parts.kind.as_str().into()), ("revision".to_owned(), parts.revision.into())]);
    for (name, value) in &parts.numerics {
        metrics::flatten(&format!("numerics {name}"), value, &mut flat);
    }
    for (name, value) in parts.params.iter().filter(|(name, _)| !parts.files.contains_key(*name)) {
        metrics::flatten(&format!("with.{name}"), value, &mut flat);
    }
    for (param, tree) in &parts.files {
        flat.insert(format!("with.{param}"), format!("files {}", tree.short()).into());
    }
    for (port, content) in &parts.inputs {
        match content {
            PortContent::One(tree) => drop(flat.insert(format!("input {port}"), tree.short().into())),
            PortContent::Table(table) => {
                flat.insert(format!("input {port} rows"), table.len().into());
                for row in table {
                    let coords = row.coords.iter().map(|(axis, label)| format!("{axis}={}", word(label)));
                    let coords = coords.collect::<Vec<_>>().join(",");
                    let content = row.content.map_or(Value::Null, |tree| tree.short().into());
                    flat.insert(format!("input {port}[{coords}]"), content);
                }
            }
        }
    }
    flat
}

fn facts(record: &Record) -> Flat {
    let mut flat = Flat::new();
    for (name, value) in &record.summary {
        metrics::flatten(name, value, &mut flat);
    }
    flat
}

fn outputs(record: &Record) -> Flat {
    record.outputs.iter().map(|(port, tree)| (format!("output {port}"), tree.digest().short().into())).collect()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn sides(rows: &mut Vec<Row>, told: &str, mut a: Flat, mut b: Flat) {
    let names: BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
    for name in names {
        push(rows, &format!("{told}{name}"), a.remove(&name), b.remove(&name));
    }
}

fn push(rows: &mut Vec<Row>, name: &str, a: Option<Value>, b: Option<Value>) {
    if a == b {
        return;
    }
    let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_f64);
    let difference = number(&a).zip(number(&b)).map(|(a, b)| b - a);
    rows.push(Row { name: name.to_owned(), a, b, difference });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fakes::{Pipe, Place};

    fn pipe(names: [&str; 2], text: &str, mode: &str) -> Pipe {
        let mut pipe = Pipe::new();
        let a = pipe.text(names[0], text);
        pipe.after(names[1], a, json!({ "mode": mode }));
        pipe.text("fixed", "fixed");
        pipe
    }

    #[test]
    fn what_went_in_and_what_came_out_stand_side_by_side() {
        let place = Place::new();
        place.run(&pipe(["a", "b"], "one", "echo"));
        place.run(&pipe(["a", "b"], "three", "talk"));
        let found = compare(&place.cache, "last~1", "last").unwrap();
        assert_eq!((found.same, found.changed.len()), (1, 2));
        let row = |difference: &Difference, name: &str| difference.rows.iter().find(|row| row.name == name).cloned();
        let text = row(&found.changed[0], "with.text").unwrap();
        assert_eq!((text.a, text.b, text.difference), (Some(json!("one")), Some(json!("three")), None));
        let b = &found.changed[1];
        assert_eq!(row(b, "fact count").unwrap().b, Some(json!(3)));
        assert!(row(b, "input one").is_some() && row(b, "output text").is_some(), "{b:?}");
        let back = compare(&place.cache, "last", "last").unwrap();
        assert_eq!((back.same, back.changed.len()), (3, 0));
    }

    #[test]
    fn failures_renames_and_what_is_gone_are_told() {
        let place = Place::new();
        place.run(&pipe(["a", "b"], "one", "echo"));
        place.run(&pipe(["z", "b"], "one", "fail"));
        let found = compare(&place.cache, "last~1", "last").unwrap();
        assert_eq!(found.renamed, [("a".to_owned(), "z".to_owned())]);
        assert!(found.only_a.is_empty() && found.only_b.is_empty());
        assert_eq!(found.changed[0].rows[0].name, "outcome");
        assert_eq!(found.changed[0].rows[0].b, Some(json!("failed")));

        place.run(&pipe(["z", "b"], "two", "echo"));
        let plan = place.plan(&pipe(["z", "b"], "two", "echo"));
        place.cache.forget(&plan.nodes[0].decision.key().unwrap()).unwrap();
        let found = compare(&place.cache, "last~2", "last").unwrap();
        assert_eq!((found.only_a, found.only_b), (vec!["a".to_owned()], vec!["z".to_owned()]));
        assert!(compare(&place.cache, "last~9", "last").is_err());
    }

    #[test]
    fn numbers_have_differences() {
        let mut rows = Vec::new();
        push(&mut rows, "n", Some(json!(1)), Some(json!(1.5)));
        push(&mut rows, "s", Some(json!("a")), None);
        push(&mut rows, "same", Some(json!(2)), Some(json!(2)));
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].difference, rows[1].difference), (Some(0.5), None));
    }
}
