//! The graph: every instance of every stage, linked. Made from a spec, and the last thing made before keys are known.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use indexmap::IndexMap;
use petgraph::graph::{DiGraph, NodeIndex};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    address,
    attempts::Attempts,
    files::FileSet,
    stage::{OutputPort, StageKind},
};

/// A stage at a point of its axes: `tuned[rank=8,seed=1]`. An address, not an identity: it is in no key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The stage's name.
    pub stage: String,
    /// (axis, canonical label text), in the order of `axes:`.
    pub coords: Vec<(String, String)>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stage)?;
        for (i, (axis, label)) in self.coords.iter().enumerate() {
            write!(f, "{}{axis}={}", if i == 0 { "[" } else { "," }, address::written(label))?;
        }
        if self.coords.is_empty() { Ok(()) } else { f.write_str("]") }
    }
}

/// One instance of a stage.
#[derive(Clone)]
pub struct Instance {
    /// Its address.
    pub address: Address,
    /// Coordinates with typed labels, in the order of `axes:`.
    pub coords: Vec<(String, Value)>,
    /// Its kind.
    pub kind: Arc<dyn StageKind>,
    /// Canonical params; each path param holds its own name.
    pub params: BTreeMap<String, Value>,
    /// Files and folders outside the cache, by name of the param, as absolute paths.
    pub paths: BTreeMap<String, PathBuf>,
    /// What is linked to each input port, by name. Not a `BTreeMap`: its least node is as large as the rest of all this.
    pub inputs: IndexMap<String, Binding>,
    /// Files from outside at further input ports.
    pub files: BTreeMap<String, FileSet>,
    /// What it needs to run.
    pub resources: Resources,
    /// How often it is tried, and for how long.
    pub attempts: Attempts,
}

impl Instance {
    /// Its output ports.
    pub fn outputs(&self) -> Vec<OutputPort> {
        self.kind.outputs_of(&|name| self.params.get(name))
    }

    /// All that it reads: port and producer, rows of a table one by one.
    pub fn links(&self) -> impl Iterator<Item = (&str, NodeIndex)> {
        self.inputs.iter().flat_map(|(port, binding)| {
            let (one, rows) = match binding {
                Binding::One(source) => (Some(source), &[] as &[TableRow]),
                Binding::Table { rows, .. } => (None, rows.as_slice()),
            };
            let sources = one.into_iter().chain(rows.iter().filter_map(|row| row.source.as_ref()));
            sources.map(|source| (port.as_str(), source.node))
        })
    }
}

/// What is linked to an input port.
#[derive(Debug, Clone)]
pub enum Binding {
    /// One output of one instance.
    One(Source),
    /// A gather.
    Table {
        /// Rows in the order of `axes:`; a row without a source is a point that doesn't exist upstream.
        rows: Vec<TableRow>,
        /// What to do about points that are missing or fail.
        missing: Missing,
    },
}

/// A row of a gather.
#[derive(Debug, Clone)]
pub struct TableRow {
    /// (axis, label) of the gathered axes.
    pub coords: Vec<(String, Value)>,
    /// Where it comes from.
    pub source: Option<Source>,
}

/// An output port of an instance.
#[derive(Debug, Clone)]
pub struct Source {
    /// The instance.
    pub node: NodeIndex,
    /// The name of the output port.
    pub port: Arc<str>,
}

/// What a gather does about points that are missing or failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// They are an error.
    #[default]
    Error,
    /// They are left out, which is in the key and told in what comes out.
    Drop,
}

/// What an instance needs to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// CPUs it keeps busy.
    #[serde(default = "one")]
    pub cpus: usize,
    /// Memory in MiB.
    #[serde(default)]
    pub memory_mib: u64,
    /// GPUs.
    #[serde(default)]
    pub gpus: usize,
}

fn one() -> usize {
    1
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1, memory_mib: 0, gpus: 0 }
    }
}

/// A pipeline's instances and links, acyclic by construction. Edges run from producer to consumer.
pub struct Graph {
    /// The pipeline's `name`.
    pub pipeline: String,
    /// The pipeline's file.
    pub file: PathBuf,
    /// The instances; the weight of an edge is the consumer's port.
    pub dag: DiGraph<Instance, String>,
    /// Nodes in a topological order, stages in the order of the file where links allow it.
    pub order: Vec<NodeIndex>,
}

impl Graph {
    /// The instance at `node`.
    pub fn instance(&self, node: NodeIndex) -> &Instance {
        &self.dag[node]
    }
}
