//! The graph as Mermaid and Graphviz text: stages as nodes, with their axes and how many instances they have; ports
//! on the edges.

use std::{collections::BTreeSet, fmt::Write as _};

use indexmap::IndexMap;

use crate::graph::{Binding, Graph};

/// A stage as drawn.
struct Stage<'g> {
    kind: &'g str,
    axes: Vec<&'g str>,
    instances: usize,
    /// Producer, port, and whether it comes as a table.
    inputs: BTreeSet<(usize, &'g str, bool)>,
}

fn stages(graph: &Graph) -> IndexMap<&str, Stage<'_>> {
    let mut stages: IndexMap<&str, Stage<'_>> = IndexMap::new();
    for node in &graph.order {
        let instance = graph.instance(*node);
        let mut inputs = BTreeSet::new();
        for (port, from) in instance.links() {
            let producer = graph.instance(from).address.stage.as_str();
            let table = matches!(instance.inputs[port], Binding::Table { .. });
            inputs.extend(stages.get_index_of(producer).map(|producer| (producer, port, table)));
        }
        let stage = stages.entry(&instance.address.stage).or_insert_with(|| Stage {
            kind: instance.kind.name(),
            axes: instance.coords.iter().map(|(axis, _)| axis.as_str()).collect(),
            instances: 0,
            inputs: BTreeSet::new(),
        });
        stage.instances += 1;
        stage.inputs.extend(inputs);
    }
    stages
}

impl Stage<'_> {
    /// `rank x seed: 12`, or nothing for a stage without axes.
    fn points(&self) -> Option<String> {
        (!self.axes.is_empty()).then(|| format!("{}: {}", self.axes.join(" x "), self.instances))
    }
}

/// As a Mermaid flowchart. A thick arrow is a gather.
pub fn mermaid(graph: &Graph) -> String {
    let stages = stages(graph);
    let mut text = String::from("flowchart LR\n");
    for (number, (name, stage)) in stages.iter().enumerate() {
        let points = stage.points().map(|points| format!("<br/>{points}")).unwrap_or_default();
        // Writing to a string can't fail.
        let _ = writeln!(text, "  s{number}[\"<b>{name}</b><br/>{}{points}\"]", stage.kind);
    }
    for (number, stage) in stages.values().enumerate() {
        for (from, port, table) in &stage.inputs {
            let arrow = if *table { "==>" } else { "-->" };
            let _ = writeln!(text, "  s{from} {arrow}|{port}| s{number}");
        }
    }
    text
}

/// As a Graphviz digraph. A bold edge is a gather.
pub fn dot(graph: &Graph) -> String {
    let stages = stages(graph);
    let mut text = format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quoted(&graph.pipeline));
    for (name, stage) in &stages {
        let points = stage.points().map(|points| format!("\n{points}")).unwrap_or_default();
        let label = quoted(&format!("{name}\n{}{points}", stage.kind));
        let _ = writeln!(text, "  {} [label={label}];", quoted(name));
    }
    for (name, stage) in &stages {
        for (from, port, table) in &stage.inputs {
            let Some((from, _)) = stages.get_index(*from) else { continue };
            let style = if *table { ", style=bold" } else { "" };
            let _ = writeln!(text, "  {} -> {} [label={}{style}];", quoted(from), quoted(name), quoted(port));
        }
    }
    text.push_str("}\n");
    text
}

/// A string of Graphviz.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
