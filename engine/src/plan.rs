//! The plan: for each instance whether its result is there, or why it runs. One walk in topological order; it reads
//! the cache and outside files, and writes nothing but the cache's index of digests.
//!
//! [`Planner`] decides one instance at a time from what is settled upstream, so a run uses the same decisions again as
//! results become known.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    path::PathBuf,
    sync::Arc,
};

use palinode_cache::{Cache, CacheError, External, KeyParts, PortContent, Record, Row, StageKey, TreeDigest};
use petgraph::graph::NodeIndex;
use serde::Serialize;
use serde_json::Value;

use crate::{
    graph::{Binding, Graph, Instance, Source},
    why::{LostFile, Reason, diff},
};

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
    Hit(#[serde(serialize_with = "shared")] Arc<Record>),
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

fn shared<S: serde::Serializer>(record: &Arc<Record>, serializer: S) -> Result<S::Ok, S::Error> {
    record.as_ref().serialize(serializer)
}

impl Decision {
    /// The key, if it is known.
    pub fn key(&self) -> Option<StageKey> {
        match self {
            Self::Hit(record) => Some(record.key),
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

/// How an instance ended, as far as those downstream care.
#[derive(Debug, Clone)]
pub enum Settled {
    /// It has this result.
    Done(Arc<Record>),
    /// It has none, and won't.
    Failed,
}

/// Decides instances from what is settled upstream of them.
pub struct Planner<'a> {
    graph: &'a Graph,
    order: Vec<NodeIndex>,
    cache: Cache,
    force: BTreeSet<String>,
    outside: HashMap<(NodeIndex, String), Arc<External>>,
    settled: HashMap<NodeIndex, Settled>,
}

impl<'a> Planner<'a> {
    /// A planner that has hashed the selection's outside files, each once for those that read the same part of it.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn new(
        graph: &'a Graph,
        selection: &BTreeSet<NodeIndex>,
        cache: &Cache,
        options: &PlanOptions,
    ) -> Result<Self, PlanError> {
        let order: Vec<_> = graph.order.iter().copied().filter(|node| selection.contains(node)).collect();
        let mut hashed: HashMap<(&PathBuf, &str, &str), Arc<External>> = HashMap::new();
        let mut outside = HashMap::new();
        for &node in &order {
            let instance = graph.instance(node);
            for (param, path) in &instance.paths {
                let id = (path, instance.kind.name(), param.as_str());
                let external = match hashed.entry(id) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let external = cache.hash_path(path, &|file| instance.kind.reads(param, file));
                        let unreadable = |source| PlanError::Unreadable {
                            address: instance.address.to_string(),
                            param: param.clone(),
                            path: path.clone(),
                            source: Box::new(source),
                        };
                        new.insert(Arc::new(external.map_err(unreadable)?))
                    }
                };
                outside.insert((node, param.clone()), external.clone());
            }
        }
        let force = options.force.clone();
        Ok(Self { graph, order, cache: cache.clone(), force, outside, settled: HashMap::new() })
    }

    /// Decides all instances; hits are settled.
    ///
    /// # Errors
    /// If the cache can't be read.
    pub fn plan(&mut self) -> Result<Plan, PlanError> {
        let mut nodes = Vec::new();
        let mut running: HashMap<StageKey, String> = HashMap::new();
        for node in self.order.clone() {
            let instance = self.graph.instance(node);
            let address = instance.address.to_string();
            let last = self.cache.last(&self.graph.pipeline, &address);
            let mut decision = self.decide(node)?;
            match &decision {
                Decision::Hit(record) => self.settle(node, Settled::Done(record.clone())),
                Decision::Run { identity, .. } => match running.get(&identity.key) {
                    Some(runs_as) => {
                        let runs_as = runs_as.clone();
                        decision = Decision::Same { runs_as, identity: identity.clone() };
                    }
                    None => drop(running.insert(identity.key, address.clone())),
                },
                Decision::Same { .. } | Decision::May { .. } => {}
            }
            let seconds = match &decision {
                Decision::Hit(record) => Some(record.execution.seconds),
                _ => self.last_record(instance)?.map(|record| record.execution.seconds),
            };
            let kind = instance.kind.name().to_owned();
            nodes.push(PlanNode { node, address, kind, decision, last, seconds });
        }
        Ok(Plan { nodes })
    }

    /// Says how `node` ended.
    pub fn settle(&mut self, node: NodeIndex, settled: Settled) {
        self.settled.insert(node, settled);
    }

    /// How `node` ended, if it did.
    pub fn settled(&self, node: NodeIndex) -> Option<&Settled> {
        self.settled.get(&node)
    }

    /// The outside files of `node`, by param.
    pub fn outside(&self, node: NodeIndex) -> BTreeMap<String, Arc<External>> {
        let params = self.graph.instance(node).paths.keys();
        params.map(|param| (param.clone(), self.outside[&(node, param.clone())].clone())).collect()
    }

    /// Decides `node` from what is settled upstream.
    ///
    /// # Errors
    /// If the cache can't be read.
    pub fn decide(&self, node: NodeIndex) -> Result<Decision, PlanError> {
        let instance = self.graph.instance(node);
        let waits_on = self.waits_on(instance);
        let mut identity = self.identity(node);
        if !waits_on.is_empty() {
            // What is known of the parts already tells most of what a person asks.
            let reason = match self.changed(instance, &mut identity.parts, false)? {
                Reason::Changed(changes) if changes.is_empty() => Reason::Upstream(waits_on.clone()),
                reason => reason,
            };
            return Ok(Decision::May { reason, waits_on });
        }
        let forced = self.force.contains(&instance.address.stage);
        let reason = match self.cache.record(&identity.key)? {
            Some(record) => match lost(&record, &self.cache)? {
                _ if forced => Reason::Forced,
                lost if lost.is_empty() => return Ok(Decision::Hit(Arc::new(record))),
                lost => Reason::OutputLost(lost),
            },
            None => match self.changed(instance, &mut identity.parts, true)? {
                // The same parts, yet no record: it was here once.
                Reason::Changed(changes) if changes.is_empty() => Reason::RecordLost,
                reason => reason,
            },
        };
        Ok(Decision::Run { reason, identity })
    }

    /// How the parts differ from those of the last result at this address; without inputs where these aren't known.
    fn changed(&self, instance: &Instance, parts: &mut KeyParts, inputs: bool) -> Result<Reason, PlanError> {
        let Some(key) = self.cache.last(&self.graph.pipeline, &instance.address.to_string()) else {
            return Ok(Reason::NeverRun);
        };
        let Some(mut old) = self.cache.record(&key)?.map(|record| record.parts) else { return Ok(Reason::RecordLost) };
        if !inputs {
            old.inputs.clear();
            parts.inputs.clear();
        }
        Ok(Reason::Changed(diff(&old, parts)))
    }

    fn last_record(&self, instance: &Instance) -> Result<Option<Record>, PlanError> {
        match self.cache.last(&self.graph.pipeline, &instance.address.to_string()) {
            Some(key) => Ok(self.cache.record(&key)?),
            None => Ok(None),
        }
    }

    fn waits_on(&self, instance: &Instance) -> Vec<String> {
        let unknown = sources(instance).filter(|source| !self.settled.contains_key(&source.node));
        let nodes: BTreeSet<_> = unknown.map(|source| source.node).collect();
        nodes.into_iter().map(|node| self.graph.instance(node).address.to_string()).collect()
    }

    /// Key, parts and sources of `node`; only what is settled upstream is in them.
    fn identity(&self, node: NodeIndex) -> Identity {
        let instance = self.graph.instance(node);
        let mut sources: BTreeMap<String, Vec<StageKey>> = BTreeMap::new();
        let mut content = |port: &String, source: &Source| {
            let Some(Settled::Done(record)) = self.settled.get(&source.node) else { return None };
            let tree = record.outputs.get(&*source.port)?;
            sources.entry(port.clone()).or_default().push(record.key);
            Some(tree.digest())
        };
        let mut inputs = BTreeMap::new();
        for (port, binding) in &instance.inputs {
            let arrives = match binding {
                Binding::One(source) => content(port, source).map(PortContent::One),
                Binding::Table { rows, .. } => {
                    let row = |row: &crate::graph::TableRow| Row {
                        coords: row.coords.clone(),
                        content: row.source.as_ref().and_then(|source| content(port, source)),
                    };
                    Some(PortContent::Table(rows.iter().map(row).collect()))
                }
            };
            inputs.extend(arrives.map(|arrives| (port.clone(), arrives)));
        }
        let digest =
            |(param, external): (String, Arc<External>)| -> (String, TreeDigest) { (param, external.tree.digest()) };
        let parts = KeyParts {
            kind: instance.kind.name().to_owned(),
            revision: instance.kind.revision(),
            numerics: instance.kind.numerics_of(&instance.params),
            params: keyed(instance),
            files: self.outside(node).into_iter().map(digest).collect(),
            inputs,
        };
        Identity { key: parts.key(), parts, sources }
    }
}

/// The params that can change bytes.
fn keyed(instance: &Instance) -> BTreeMap<String, Value> {
    let mut params = instance.params.clone();
    params.retain(|name, _| !instance.kind.unkeyed().contains(&name.as_str()));
    params
}

/// All outputs that are linked to an instance.
pub fn sources(instance: &Instance) -> impl Iterator<Item = &Source> {
    instance.inputs.values().flat_map(|binding| match binding {
        Binding::One(source) => vec![source],
        Binding::Table { rows, .. } => rows.iter().filter_map(|row| row.source.as_ref()).collect(),
    })
}

/// The files of a result that can't be had.
///
/// # Errors
/// If the cache can't be read.
pub fn lost(record: &Record, cache: &Cache) -> Result<Vec<LostFile>, CacheError> {
    let mut lost = Vec::new();
    for (port, tree) in &record.outputs {
        for (file, entry) in &tree.0 {
            if cache.locate(entry)?.is_none() {
                lost.push(LostFile { port: Some(port.clone()), file: file.clone() });
            }
        }
    }
    if cache.locate(&record.log)?.is_none() {
        lost.push(LostFile { port: None, file: "log".to_owned() });
    }
    Ok(lost)
}
