//! The plan: for each instance whether its result is there, or why it runs. One walk in topological order; it reads
//! the cache and outside files, and writes nothing but the cache's index of digests.
//!
//! [`Planner`] decides one instance at a time from what is settled upstream, so a run uses the same decisions again as
//! results become known.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use palinode_cache::{Cache, CacheError, KeyParts, StageKey, StoredResult};
use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::{
    files::FilesError,
    graph::{Binding, Graph, Instance, Source},
    why::{LostFile, Reason},
};

mod identity;
mod planner;
mod port_files;

pub use self::planner::{Planner, Settled};

/// What to plan for.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Names of stages that run even if their result is there.
    pub force: BTreeSet<String>,
}

/// What each selected instance comes to, in topological order.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The instances.
    pub nodes: Vec<PlanNode>,
}

/// One instance of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlanNode {
    /// Its place in the graph.
    #[serde(skip)]
    pub node: NodeIndex,
    /// Its address.
    pub address: String,
    /// Its kind.
    pub kind: String,
    /// Hit or run.
    pub decision: Decision,
    /// The key of the last result at this address.
    pub last: Option<StageKey>,
    /// How long it took the last time, if it ever ran.
    pub seconds: Option<f64>,
}

/// Whether an instance's result is there.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is.
    Hit(#[serde(serialize_with = "shared")] Arc<StoredResult>),
    /// It is not, for this reason.
    Run {
        /// Why.
        reason: Reason,
        /// What it will be a result of.
        #[serde(flatten)]
        identity: Identity,
    },
    /// It is not, but the instance at this address makes the very same result.
    Same {
        /// The instance that runs for both.
        runs_as: String,
        /// What it will be a result of.
        #[serde(flatten)]
        identity: Identity,
    },
    /// Not known yet, since results upstream are not.
    May {
        /// What speaks for a run so far.
        reason: Reason,
        /// The instances upstream whose results are not known.
        waits_on: Vec<String>,
    },
}

fn shared<S: serde::Serializer>(result: &Arc<StoredResult>, serializer: S) -> Result<S::Ok, S::Error> {
    result.as_ref().serialize(serializer)
}

impl Decision {
    /// The key, if it is known.
    pub fn key(&self) -> Option<StageKey> {
        match self {
            Self::Hit(result) => Some(result.key),
            Self::Run { identity, .. } | Self::Same { identity, .. } => Some(identity.key),
            Self::May { .. } => None,
        }
    }
}

/// What a result is a result of.
#[derive(Debug, Clone, Serialize)]
pub struct Identity {
    /// The key.
    pub key: StageKey,
    /// Its named parts.
    pub parts: KeyParts,
    /// The results at each input port; a dropped row of a gather has none.
    pub sources: BTreeMap<String, Vec<StageKey>>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A path in `with` can't be read.
    #[error("{address}: `with.{param}`: can't read `{path}`: {source}")]
    Unreadable {
        /// The instance.
        address: String,
        /// The param.
        param: String,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: Box<CacheError>,
    },
    /// A record was there when it was planned with, and is gone.
    #[error("{address}: its record was removed from the cache meanwhile; try again")]
    Vanished {
        /// The instance.
        address: String,
    },
    /// Files at an input port can't be read.
    #[error("{address}: the input `{port}`: {source}")]
    Files {
        /// The instance.
        address: String,
        /// The port.
        port: String,
        /// Why.
        source: Box<FilesError>,
    },
    /// The cache can't be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Plans the instances in `selection`, which holds with each instance all that it needs.
///
/// # Errors
/// If an outside file or the cache can't be read.
pub fn plan(
    graph: &Graph,
    selection: &BTreeSet<NodeIndex>,
    cache: &Cache,
    options: &PlanOptions,
) -> Result<Plan, PlanError> {
    Planner::new(graph, selection, cache, options)?.plan()
}

/// All outputs that are linked to an instance.
pub fn sources(instance: &Instance) -> impl Iterator<Item = &Source> {
    instance.inputs.values().flat_map(|binding| {
        let (one, rows) = match binding {
            Binding::One(source) => (Some(source), [].as_slice()),
            Binding::Table { rows, .. } => (None, rows.as_slice()),
        };
        one.into_iter().chain(rows.iter().filter_map(|row| row.source.as_ref()))
    })
}

/// The files of a result that can't be had.
///
/// # Errors
/// If the cache can't be read.
pub fn lost(result: &StoredResult, cache: &Cache) -> Result<Vec<LostFile>, CacheError> {
    let mut lost = Vec::new();
    for (port, file, entry) in result.files() {
        if !cache.has(&entry)? {
            lost.push(LostFile { port: port.map(str::to_owned), file: file.to_owned() });
        }
    }
    Ok(lost)
}
