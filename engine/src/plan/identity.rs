//! What an instance is a result of, as far as what is upstream of it is settled.

use std::{collections::BTreeMap, sync::Arc};

use palinode_cache::{External, KeyParts, KeySketch, PortContent, Row, StageKey, StoredOutput, TreeDigest};
use petgraph::graph::NodeIndex;
use serde_json::Value;

use super::{Identity, Planner, Settled};
use crate::graph::{Binding, Instance, Source, TableRow};

impl Planner<'_> {
    /// The key of `node` by itself. Its parts and sources, which most plans never ask for, take longer to put together.
    pub(super) fn key(&self, node: NodeIndex) -> StageKey {
        let instance = self.graph.instance(node);
        let mut inputs = Vec::with_capacity(instance.inputs.len());
        for (port, binding) in &instance.inputs {
            match binding {
                Binding::One(source) => {
                    inputs.extend(self.arriving(source).map(|(_, output)| (port.as_str(), output.tree)));
                }
                Binding::Table { .. } => return self.identity(node).key,
            }
        }
        inputs.extend(self.port_files(instance));
        inputs.sort_unstable_by_key(|(port, _)| *port);
        let unkeyed = instance.kind.unkeyed();
        let params: Vec<_> = crate::params::keyed(&instance.params, unkeyed).collect();
        let params: Vec<(&str, &Value)> = params.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        let outside = self.outside_of(node);
        let files: Vec<_> = outside.iter().map(|(param, external)| (param.as_str(), external.digest)).collect();
        KeySketch {
            kind: instance.kind.name(),
            revision: instance.kind.revision(),
            numerics: &self.numerics(instance),
            params: &params,
            files: &files,
            inputs: &inputs,
        }
        .key()
    }

    /// Key, parts and sources of `node`; only what is settled upstream is in them.
    pub(super) fn identity(&self, node: NodeIndex) -> Identity {
        let instance = self.graph.instance(node);
        let mut sources: BTreeMap<String, Vec<StageKey>> = BTreeMap::new();
        let mut content = |port: &String, source: &Source| {
            let (key, output) = self.arriving(source)?;
            sources.entry(port.clone()).or_default().push(key);
            Some(output.tree)
        };
        let mut inputs = BTreeMap::new();
        for (port, binding) in &instance.inputs {
            let arrives = match binding {
                Binding::One(source) => content(port, source).map(PortContent::One),
                Binding::Table { rows, .. } => {
                    let row = |row: &TableRow| Row {
                        coords: row.coords.clone(),
                        content: row.source.as_ref().and_then(|source| content(port, source)),
                    };
                    Some(PortContent::Table(rows.iter().map(row).collect()))
                }
            };
            inputs.extend(arrives.map(|arrives| (port.clone(), arrives)));
        }
        let files = self.port_files(instance).map(|(port, tree)| (port.to_owned(), PortContent::One(tree)));
        inputs.extend(files);
        let files = self.outside_of(node).iter().map(|(param, external)| (param.clone(), external.digest));
        let parts = KeyParts {
            kind: instance.kind.name().to_owned(),
            revision: instance.kind.revision(),
            numerics: self.numerics(instance).as_ref().clone(),
            params: keyed(instance),
            files: files.collect(),
            inputs,
        };
        Identity { key: parts.key(), parts, sources }
    }

    /// Contents of the files from outside at ports.
    fn port_files<'i>(&self, instance: &'i Instance) -> impl Iterator<Item = (&'i str, TreeDigest)> {
        instance.files.iter().filter_map(|(port, set)| Some((port.as_str(), self.files.get(set)?.digest)))
    }

    /// What comes from `source`, and the result that it is an output of.
    fn arriving(&self, source: &Source) -> Option<(StageKey, &StoredOutput)> {
        let Some(Settled::Done(result)) = self.settled(source.node) else { return None };
        Some((result.key, result.output(&source.port)?))
    }

    fn numerics(&self, instance: &Instance) -> Arc<BTreeMap<String, Value>> {
        Arc::new(instance.kind.numerics_of(&instance.params))
    }
}

/// A file or folder from outside, with its digest.
#[derive(Clone)]
pub(super) struct Outside {
    pub(super) external: Arc<External>,
    pub(super) digest: TreeDigest,
}

/// The params that can change bytes.
fn keyed(instance: &Instance) -> BTreeMap<String, Value> {
    let params = crate::params::keyed(&instance.params, instance.kind.unkeyed());
    params.map(|(name, value)| (name.to_owned(), value.into_owned())).collect()
}
