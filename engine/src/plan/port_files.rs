//! Files from outside at input ports, hashed before anything is decided.

use std::{collections::HashMap, sync::Arc};

use palinode_cache::Cache;
use petgraph::graph::NodeIndex;

use super::{PlanError, identity::Outside};
use crate::{files::FileSet, graph::Graph};

/// What is in each set of files.
#[derive(Default)]
pub(super) struct PortFiles(HashMap<FileSet, Outside>);

impl PortFiles {
    /// Hashes each set of files of these instances once, however many read it.
    pub(super) fn hash(graph: &Graph, nodes: &[NodeIndex], cache: &Cache) -> Result<Self, PlanError> {
        let mut hashed = HashMap::new();
        for &node in nodes {
            let instance = graph.instance(node);
            for (port, set) in &instance.files {
                if !hashed.contains_key(set) {
                    let external = set.hash(cache).map_err(|source| PlanError::Files {
                        address: instance.address.to_string(),
                        port: port.clone(),
                        source: Box::new(source),
                    })?;
                    let digest = external.tree.digest();
                    hashed.insert(set.clone(), Outside { external: Arc::new(external), digest });
                }
            }
        }
        Ok(Self(hashed))
    }

    /// What is in the files of an instance that was among those.
    pub(super) fn get(&self, set: &FileSet) -> Option<&Outside> {
        self.0.get(set)
    }
}
