//! In which order stages are expanded, and the circles that have none.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
};

use petgraph::{
    algo::kosaraju_scc,
    graph::{DiGraph, NodeIndex},
};

use crate::{expand::Wire, mistake::Mistake, problem::Report, source::Place, spec::Spec};

/// The stages whose producers can all be expanded, in the order of the file where links allow it. Cycles are told.
pub(crate) fn order(wires: &[Vec<Wire<'_>>], sound: &[bool], spec: &Spec, report: &mut Report<'_>) -> Vec<usize> {
    let mut links: DiGraph<(), ()> = DiGraph::new();
    spec.stages.iter().for_each(|_| {
        links.add_node(());
    });
    let mut waits: Vec<usize> = Vec::new();
    for (number, wires) in wires.iter().enumerate() {
        waits.push(wires.len());
        for wire in wires {
            links.add_edge(NodeIndex::new(wire.stage), NodeIndex::new(number), ());
        }
    }
    // Not Tarjan's, which is recursive: a long chain of stages would be too much for the stack.
    for component in kosaraju_scc(&links) {
        if let Some(cycle) = cycle(&links, &component) {
            let last = cycle[cycle.len() - 2];
            let stage_name = |number: &usize| spec.stages.get_index(*number).map(|(name, _)| name.clone());
            let closing = wires[cycle[0]].iter().find(|wire| wire.stage == last);
            let place = closing.map_or_else(Place::root, |wire| wire.input.at.clone());
            report.at(&place, Mistake::Cycle { stages: cycle.iter().filter_map(stage_name).collect() });
        }
    }
    let mut ready: BinaryHeap<_> =
        waits.iter().enumerate().filter(|(_, waits)| **waits == 0).map(|(number, _)| Reverse(number)).collect();
    let mut order = Vec::new();
    while let Some(Reverse(number)) = ready.pop() {
        if !sound[number] {
            continue;
        }
        order.push(number);
        for next in links.neighbors(NodeIndex::new(number)) {
            waits[next.index()] -= 1;
            if waits[next.index()] == 0 {
                ready.push(Reverse(next.index()));
            }
        }
    }
    order
}

/// A shortest cycle through the first stage of a component, the first stage at both ends; `None` if it has none.
fn cycle(links: &DiGraph<(), ()>, component: &[NodeIndex]) -> Option<Vec<usize>> {
    let first = *component.iter().min()?;
    let component: HashSet<_> = component.iter().collect();
    let mut before: HashMap<NodeIndex, NodeIndex> = HashMap::new();
    let mut queue = VecDeque::from([first]);
    while let Some(node) = queue.pop_front() {
        for next in links.neighbors(node).filter(|next| component.contains(next)) {
            if next == first {
                let mut cycle = vec![first.index()];
                let mut back = node;
                while back != first {
                    cycle.push(back.index());
                    back = before[&back];
                }
                cycle.push(first.index());
                cycle.reverse();
                return Some(cycle);
            }
            before.entry(next).or_insert_with(|| {
                queue.push_back(next);
                node
            });
        }
    }
    None
}
