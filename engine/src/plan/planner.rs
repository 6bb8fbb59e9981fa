//! Decides instances one at a time, from what is settled upstream of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    path::Path,
    sync::Arc,
};

use palinode_cache::{Cache, External, KeyParts, StageKey, StoredResult};
use petgraph::graph::NodeIndex;
use rayon::prelude::*;

use super::{
    Decision, Plan, PlanError, PlanNode, PlanOptions, identity::Outside, lost, port_files::PortFiles, sources,
};
use crate::{
    files::FileSet,
    graph::{Graph, Instance},
    why::{Reason, diff},
};

/// How an instance ended, as far as those downstream care.
#[derive(Debug, Clone)]
pub enum Settled {
    /// It has this result.
    Done(Arc<StoredResult>),
    /// It has none, and won't.
    Failed,
}

/// Decides instances from what is settled upstream of them.
pub struct Planner<'a> {
    pub(super) graph: &'a Graph,
    order: Vec<NodeIndex>,
    cache: Cache,
    force: BTreeSet<String>,
    /// By node.
    outside: HashMap<NodeIndex, Vec<(String, Outside)>>,
    pub(super) files: PortFiles,
    /// By node.
    settled: Vec<Option<Settled>>,
    /// Whole results, found together before the walk of a plan, and forgotten after it: they may be lost later.
    found: HashMap<StageKey, Arc<StoredResult>>,
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
        let outside = outside(graph, &order, cache)?;
        let files = PortFiles::hash(graph, &order, cache)?;
        let (force, settled) = (options.force.clone(), vec![None; graph.dag.node_count()]);
        Ok(Self { graph, order, cache: cache.clone(), force, outside, files, settled, found: HashMap::new() })
    }

    /// Decides all instances; hits are settled.
    ///
    /// # Errors
    /// If the cache can't be read.
    pub fn plan(&mut self) -> Result<Plan, PlanError> {
        let pipeline = &self.graph.pipeline;
        let address = |node: &NodeIndex| self.graph.instance(*node).address.to_string();
        let addresses: Vec<_> = self.order.par_iter().map(address).collect();
        let lasts: Vec<_> = addresses.iter().map(|address| self.cache.last(pipeline, address)).collect();
        // What an instance was last is mostly what it is now. A guess only saves time: the key decides.
        self.found = self.cache.check_all(&lasts.iter().flatten().copied().collect::<Vec<_>>());
        let likely = self.likely(&lasts);
        let mut nodes = Vec::with_capacity(addresses.len());
        let mut running: HashMap<StageKey, String> = HashMap::new();
        for ((node, address), last) in self.order.clone().into_iter().zip(addresses).zip(lasts) {
            let instance = self.graph.instance(node);
            let mut decision = match likely.hit(node, self) {
                Some(result) => Decision::Hit(result),
                None => self.decide(node)?,
            };
            match &decision {
                Decision::Hit(result) => self.settle(node, Settled::Done(result.clone())),
                Decision::Run { identity, .. } => match running.get(&identity.key) {
                    Some(runs_as) => {
                        let runs_as = runs_as.clone();
                        decision = Decision::Same { runs_as, identity: identity.clone() };
                    }
                    None => drop(running.insert(identity.key, address.clone())),
                },
                Decision::Same { .. } | Decision::May { .. } => {}
            }
            let seconds = match (&decision, last) {
                (Decision::Hit(result), _) => Some(result.seconds),
                (_, Some(last)) => self.cache.stored(&last)?.map(|result| result.seconds),
                (_, None) => None,
            };
            let kind = instance.kind.name().to_owned();
            nodes.push(PlanNode { node, address, kind, decision, last, seconds });
        }
        self.found = HashMap::new();
        Ok(Plan { nodes })
    }

    /// What each instance would be if all were what they were last: keys on all cores at once.
    fn likely(&mut self, lasts: &[Option<StageKey>]) -> Likely {
        for (node, last) in self.order.iter().zip(lasts) {
            let result = last.and_then(|last| self.found.get(&last));
            self.settled[node.index()] = result.map(|result| Settled::Done(result.clone()));
        }
        let this = &*self;
        let likely = |node: &NodeIndex| {
            let Some(Settled::Done(result)) = this.settled(*node) else { return None };
            let known = sources(this.graph.instance(*node)).all(|source| this.settled(source.node).is_some());
            (known && this.key(*node) == result.key).then(|| result.clone())
        };
        let results: Vec<_> = self.order.par_iter().map(likely).collect();
        let mut by_node = vec![None; self.settled.len()];
        self.order.iter().zip(results).for_each(|(node, result)| by_node[node.index()] = result);
        self.settled.fill(None);
        Likely(by_node)
    }

    /// Says how `node` ended.
    pub fn settle(&mut self, node: NodeIndex, settled: Settled) {
        self.settled[node.index()] = Some(settled);
    }

    /// How `node` ended, if it did.
    pub fn settled(&self, node: NodeIndex) -> Option<&Settled> {
        self.settled.get(node.index())?.as_ref()
    }

    /// The outside files of `node`, by param.
    pub fn outside(&self, node: NodeIndex) -> BTreeMap<String, Arc<External>> {
        self.outside_of(node).iter().map(|(param, outside)| (param.clone(), outside.external.clone())).collect()
    }

    /// The files from outside at input ports of `node`, by port.
    pub fn files(&self, node: NodeIndex) -> BTreeMap<String, (FileSet, Arc<External>)> {
        let files = self.graph.instance(node).files.iter();
        let one = |(port, set): (&String, &FileSet)| {
            Some((port.clone(), (set.clone(), self.files.get(set)?.external.clone())))
        };
        files.filter_map(one).collect()
    }

    /// The outside files of `node`, in order of param.
    pub(super) fn outside_of(&self, node: NodeIndex) -> &[(String, Outside)] {
        self.outside.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Decides `node` from what is settled upstream.
    ///
    /// # Errors
    /// If the cache can't be read.
    pub fn decide(&self, node: NodeIndex) -> Result<Decision, PlanError> {
        let instance = self.graph.instance(node);
        if sources(instance).any(|source| self.settled(source.node).is_none()) {
            return self.may_run(node);
        }
        let key = self.key(node);
        let forced = self.force.contains(&instance.address.stage);
        if !forced && let Some(result) = self.found.get(&key) {
            return Ok(Decision::Hit(result.clone()));
        }
        let stored = self.cache.stored(&key)?;
        let lost = stored.as_ref().map(|result| lost(result, &self.cache)).transpose()?.unwrap_or_default();
        let mut identity = self.identity(node);
        let reason = match stored {
            Some(_) if forced => Reason::Forced,
            Some(result) if lost.is_empty() => return Ok(Decision::Hit(result)),
            Some(_) => Reason::OutputLost(lost),
            None => match self.changed(instance, &mut identity.parts, true)? {
                // The same parts, yet no record: it was here once.
                Reason::Changed(changes) if changes.is_empty() => Reason::RecordLost,
                reason => reason,
            },
        };
        Ok(Decision::Run { reason, identity })
    }

    /// Not all that `node` needs is settled. What is known of the parts already tells most of what a person asks.
    fn may_run(&self, node: NodeIndex) -> Result<Decision, PlanError> {
        let instance = self.graph.instance(node);
        let waits_on = self.waits_on(instance);
        let reason = match self.changed(instance, &mut self.identity(node).parts, false)? {
            Reason::Changed(changes) if changes.is_empty() => Reason::Upstream(waits_on.clone()),
            reason => reason,
        };
        Ok(Decision::May { reason, waits_on })
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

    fn waits_on(&self, instance: &Instance) -> Vec<String> {
        let unknown = sources(instance).filter(|source| self.settled(source.node).is_none());
        let nodes: BTreeSet<_> = unknown.map(|source| source.node).collect();
        nodes.into_iter().map(|node| self.graph.instance(node).address.to_string()).collect()
    }
}

/// By node, the result that it has if each upstream has its likely one.
struct Likely(Vec<Option<Arc<StoredResult>>>);

impl Likely {
    fn hit(&self, node: NodeIndex, planner: &Planner<'_>) -> Option<Arc<StoredResult>> {
        let instance = planner.graph.instance(node);
        let result = self.0[node.index()].as_ref().filter(|_| !planner.force.contains(&instance.address.stage))?;
        let is_likely = |node: NodeIndex| match (planner.settled(node), &self.0[node.index()]) {
            (Some(Settled::Done(result)), Some(likely)) => result.key == likely.key,
            _ => false,
        };
        sources(instance).all(|source| is_likely(source.node)).then(|| result.clone())
    }
}

/// The outside files of each node that has any.
fn outside(
    graph: &Graph,
    order: &[NodeIndex],
    cache: &Cache,
) -> Result<HashMap<NodeIndex, Vec<(String, Outside)>>, PlanError> {
    let id = |instance: &'_ Instance, param: &'_ str| (instance.kind.name(), param.to_owned());
    let mut first: HashMap<(&Path, (&str, String)), usize> = HashMap::new();
    let mut reads = Vec::new();
    for node in order {
        let instance = graph.instance(*node);
        for (param, path) in &instance.paths {
            if let Entry::Vacant(new) = first.entry((path, id(instance, param))) {
                new.insert(reads.len());
                reads.push((instance, param, path));
            }
        }
    }
    let hash = |(instance, param, path): &(&Instance, &String, &std::path::PathBuf)| {
        let external = cache.hash_path(path, &|file| instance.kind.reads(param, file));
        let unreadable = |source| PlanError::Unreadable {
            address: instance.address.to_string(),
            param: (*param).clone(),
            path: (*path).clone(),
            source: Box::new(source),
        };
        let external = external.map_err(unreadable)?;
        Ok(Outside { digest: external.tree.digest(), external: Arc::new(external) })
    };
    let read: Vec<Result<Outside, PlanError>> = reads.par_iter().map(hash).collect();
    // The first problem in the order of the plan is told, however the threads went.
    let read: Vec<Outside> = read.into_iter().collect::<Result<_, _>>()?;
    let of = |node: &NodeIndex| {
        let instance = graph.instance(*node);
        let one = |(param, path): (&String, &std::path::PathBuf)| {
            (param.clone(), read[first[&(path.as_path(), id(instance, param))]].clone())
        };
        (*node, instance.paths.iter().map(one).collect())
    };
    let with_paths = order.iter().filter(|node| !graph.instance(**node).paths.is_empty());
    Ok(with_paths.map(of).collect())
}
