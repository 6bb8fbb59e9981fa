//! Where a result came from: the walk from its record up through the records of its sources.

use std::collections::{BTreeMap, BTreeSet};

use palinode_cache::{Cache, CacheError, FileEntry, FileTree, PortContent, Record, StageKey, TreeDigest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Results by key, each with its inputs: a DAG, in which a shared ancestor stands once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// The results.
    pub nodes: BTreeMap<StageKey, Node>,
}

/// One result: what it was made of. Nothing about who made it when: the same results give the same lineage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its address in the pipeline that published it, or else in the one that made it.
    pub address: String,
    /// The stage kind.
    pub kind: String,
    /// The kind's revision.
    pub revision: u32,
    /// Named facts about numerics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numerics: BTreeMap<String, Value>,
    /// Canonical params.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// Files and folders from outside, by param.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, OutsideFile>,
    /// Inputs by port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Vec<Link>>,
    /// Its output files, by port.
    pub outputs: BTreeMap<String, BTreeMap<String, FileEntry>>,
}

/// A file or folder from outside the cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutsideFile {
    /// Its name where it lay; not its path, which says more about a machine than about a result.
    pub name: String,
    /// Digest of the files in it that were read.
    pub digest: TreeDigest,
}

/// One result at an input port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// In a gather: its coordinates on the gathered axes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coords: Vec<(String, Value)>,
    /// The content; `None`: the point failed or was missing, and the gather dropped it.
    pub content: Option<TreeDigest>,
    /// The result that it is an output of; `None` if dropped, or if it is files from outside.
    pub source: Option<StageKey>,
    /// Files from outside: the name of the file or folder where they lay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
}

/// What arrives at each port of `record`, with the results it came from.
pub fn links(record: &Record) -> BTreeMap<String, Vec<Link>> {
    let link = |(port, content): (&String, &PortContent)| {
        let mut sources = record.sources.get(port).into_iter().flatten().copied();
        let links = match content {
            PortContent::One(tree) => {
                let source = sources.next();
                let outside = record.execution.places.get(&format!("inputs.{port}")).filter(|_| source.is_none());
                let outside = outside.map(|place| last_part(place));
                vec![Link { coords: vec![], content: Some(*tree), source, outside }]
            }
            PortContent::Table(rows) => {
                let link = |row: &palinode_cache::Row| Link {
                    coords: row.coords.clone(),
                    content: row.content,
                    source: row.content.and_then(|_| sources.next()),
                    outside: None,
                };
                rows.iter().map(link).collect()
            }
        };
        (port.clone(), links)
    };
    record.parts.inputs.iter().map(link).collect()
}

impl Lineage {
    /// The lineage of `record`. `names` gives the addresses that results have now (a renamed stage keeps its results).
    ///
    /// A record that is gone leaves a gap: its key is still in the links that lead to it.
    ///
    /// # Errors
    /// If the cache can't be read.
    pub fn of(record: &Record, cache: &Cache, names: &BTreeMap<StageKey, String>) -> Result<Self, CacheError> {
        let mut lineage = Self::default();
        let (mut seen, mut open) = (BTreeSet::from([record.key]), vec![record.clone()]);
        while let Some(record) = open.pop() {
            for key in record.sources.values().flatten() {
                if seen.insert(*key) {
                    open.extend(cache.record(key)?);
                }
            }
            lineage.nodes.insert(record.key, node(&record, names.get(&record.key)));
        }
        Ok(lineage)
    }

    /// The result `key`'s output port that holds `content`.
    pub fn port(&self, key: &StageKey, content: &TreeDigest) -> Option<&str> {
        let holds = |files: &BTreeMap<String, FileEntry>| FileTree(files.clone()).digest() == *content;
        self.nodes.get(key)?.outputs.iter().find(|(_, files)| holds(files)).map(|(port, _)| port.as_str())
    }
}

fn last_part(place: &str) -> String {
    place.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

fn node(record: &Record, name: Option<&String>) -> Node {
    let outside = |(param, digest): (&String, &TreeDigest)| {
        let place = record.execution.places.get(param).map_or("", String::as_str);
        (param.clone(), OutsideFile { name: last_part(place), digest: *digest })
    };
    Node {
        address: name.unwrap_or(&record.execution.address).clone(),
        kind: record.parts.kind.clone(),
        revision: record.parts.revision,
        numerics: record.parts.numerics.clone(),
        params: record.parts.params.clone(),
        files: record.parts.files.iter().map(outside).collect(),
        inputs: links(record),
        outputs: record.outputs.iter().map(|(port, tree)| (port.clone(), tree.0.clone())).collect(),
    }
}
