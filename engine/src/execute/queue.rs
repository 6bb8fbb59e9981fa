//! The ready-queue of a run: the plan's instances as tasks, with their edges, resources and expected durations.

use std::collections::{BTreeMap, HashMap};

use petgraph::graph::NodeIndex;

use super::RunOptions;
use crate::{
    graph::{Binding, Graph, Missing, Source},
    plan::{Decision, Plan},
    ready::{self, Limits, Need, ReadyQueue, TaskId},
};

pub(super) fn queue(graph: &Graph, plan: &Plan, options: &RunOptions) -> ReadyQueue {
    let ids: HashMap<NodeIndex, TaskId> = plan.nodes.iter().enumerate().map(|(id, node)| (node.node, id)).collect();
    let tasks = plan.nodes.iter().map(|node| {
        let instance = graph.instance(node.node);
        let mut needs: BTreeMap<TaskId, bool> = BTreeMap::new();
        let mut need = |source: &Source, success: bool| {
            if let Some(&on) = ids.get(&source.node) {
                *needs.entry(on).or_default() |= success;
            }
        };
        for binding in instance.inputs.values() {
            match binding {
                Binding::One(source) => need(source, true),
                Binding::Table { rows, missing } => {
                    let sources = rows.iter().filter_map(|row| row.source.as_ref());
                    sources.for_each(|source| need(source, *missing == Missing::Error));
                }
            }
        }
        let seconds = match &node.decision {
            Decision::Hit(_) => 0.0,
            _ => node.seconds.unwrap_or(1.0),
        };
        let needs = needs.into_iter().map(|(on, success)| Need { on, success }).collect();
        ready::Task { needs, resources: instance.resources.clone(), seconds }
    });
    let limits = options.limits();
    let memory_mib = limits.memory_mib.unwrap_or(u64::MAX);
    ReadyQueue::new(tasks.collect(), Limits { jobs: options.jobs, cpus: limits.cpus, gpus: limits.gpus, memory_mib })
}
