//! The graph as a drawing: stages as nodes, with their axes and how many instances they have (or each instance as a
//! node), ports on the edges. As Mermaid and Graphviz text, and as SVG.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use indexmap::IndexMap;
use petgraph::graph::NodeIndex;

use crate::graph::{Binding, Graph};

mod svg;

pub use self::svg::TooLarge;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Drawing {
    title: String,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Debug, Clone)]
struct Node {
    name: String,
    kind: String,
    /// `rank x seed: 12`, or nothing for a stage without axes.
    points: Option<String>,
    /// The instances that it stands for.
    instances: Vec<NodeIndex>,
    state: Option<Shade>,
}

#[derive(Debug, Clone)]
struct Edge {
    from: usize,
    to: usize,
    port: String,
    /// A gather.
    table: bool,
}

/// How a state is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shade {
    word: &'static str,
    fill: &'static str,
    line: &'static str,
}

/// Worst first: a stage is drawn as the worst of its instances.
const SHADES: [Shade; 5] = [
    Shade { word: "failed", fill: "#f9d4d1", line: "#c0392b" },
    Shade { word: "running", fill: "#d3e5fb", line: "#2f6fb7" },
    Shade { word: "stale", fill: "#fdebc8", line: "#b9770e" },
    Shade { word: "never run", fill: "#eeeeee", line: "#777777" },
    Shade { word: "fresh", fill: "#d5f0d9", line: "#2e8b4a" },
];
const PLAIN: Shade = Shade { word: "", fill: "#f4f6f8", line: "#44546a" };

impl Drawing {
    /// A node for each stage, whatever its axes.
    pub fn stages(graph: &Graph) -> Self {
        let mut nodes: IndexMap<&str, Node> = IndexMap::new();
        let mut edges = BTreeSet::new();
        for node in &graph.order {
            let instance = graph.instance(*node);
            let stage = nodes.entry(&instance.address.stage).or_insert_with(|| Node {
                name: instance.address.stage.clone(),
                kind: instance.kind.name().to_owned(),
                points: (!instance.coords.is_empty())
                    .then(|| instance.coords.iter().map(|(axis, _)| axis.as_str()).collect::<Vec<_>>().join(" x ")),
                instances: Vec::new(),
                state: None,
            });
            stage.instances.push(*node);
            let to = nodes.get_index_of(instance.address.stage.as_str());
            for (port, from) in instance.links() {
                let from = nodes.get_index_of(graph.instance(from).address.stage.as_str());
                let table = matches!(instance.inputs[port], Binding::Table { .. });
                edges.extend(to.zip(from).map(|(to, from)| (to, from, port, table)));
            }
        }
        let mut nodes: Vec<Node> = nodes.into_values().collect();
        for node in &mut nodes {
            let count = node.instances.len();
            node.points.iter_mut().for_each(|points| *points = format!("{points}: {count}"));
        }
        Self::new(graph, nodes, edges)
    }

    /// A node for each instance.
    pub fn instances(graph: &Graph) -> Self {
        let places: BTreeMap<NodeIndex, usize> = graph.order.iter().enumerate().map(|(i, node)| (*node, i)).collect();
        let node = |node: &NodeIndex| Node {
            name: graph.instance(*node).address.to_string(),
            kind: graph.instance(*node).kind.name().to_owned(),
            points: None,
            instances: vec![*node],
            state: None,
        };
        let nodes = graph.order.iter().map(node).collect();
        let edges = graph.order.iter().enumerate().flat_map(|(to, node)| {
            let instance = graph.instance(*node);
            let table = |port: &str| matches!(instance.inputs[port], Binding::Table { .. });
            let places = &places;
            instance.links().filter_map(move |(port, from)| Some((to, *places.get(&from)?, port, table(port))))
        });
        Self::new(graph, nodes, edges.collect())
    }

    fn new(graph: &Graph, nodes: Vec<Node>, edges: BTreeSet<(usize, usize, &str, bool)>) -> Self {
        let edge =
            |(to, from, port, table): (usize, usize, &str, bool)| Edge { from, to, port: port.to_owned(), table };
        Self { title: graph.pipeline.clone(), nodes, edges: edges.into_iter().map(edge).collect() }
    }

    /// Colours each node by the states of its instances (see [`crate::status::words`]).
    pub fn colour(&mut self, words: &BTreeMap<NodeIndex, &'static str>) {
        for node in &mut self.nodes {
            let has = |shade: &&Shade| node.instances.iter().any(|instance| words.get(instance) == Some(&shade.word));
            node.state = SHADES.iter().find(has).copied();
        }
    }

    /// The states that occur.
    fn shades(&self) -> impl Iterator<Item = &Shade> {
        SHADES.iter().filter(|shade| self.nodes.iter().any(|node| node.state == Some(**shade)))
    }

    /// As a Mermaid flowchart. A thick arrow is a gather.
    pub fn mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        for (number, node) in self.nodes.iter().enumerate() {
            let points = node.points.as_ref().map(|points| format!("<br/>{}", coded(points))).unwrap_or_default();
            let (name, kind) = (coded(&node.name), coded(&node.kind));
            // Writing to a string can't fail.
            let _ = writeln!(text, "  s{number}[\"<b>{name}</b><br/>{kind}{points}\"]");
        }
        for edge in &self.edges {
            let arrow = if edge.table { "==>" } else { "-->" };
            let plain = |c: char| c.is_alphanumeric() || "_.-".contains(c);
            let port =
                if edge.port.chars().all(plain) { edge.port.clone() } else { format!("\"{}\"", coded(&edge.port)) };
            let _ = writeln!(text, "  s{} {arrow}|{port}| s{}", edge.from, edge.to);
        }
        for shade in self.shades() {
            let class = shade.word.replace(' ', "_");
            let of = |(number, node): (usize, &Node)| (node.state == Some(*shade)).then(|| format!("s{number}"));
            let nodes: Vec<_> = self.nodes.iter().enumerate().filter_map(of).collect();
            let _ = writeln!(text, "  classDef {class} fill:{},stroke:{}", shade.fill, shade.line);
            let _ = writeln!(text, "  class {} {class}", nodes.join(","));
        }
        text
    }

    /// As a Graphviz digraph. A bold edge is a gather.
    pub fn dot(&self) -> String {
        let mut text = format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quoted(&self.title));
        for node in &self.nodes {
            let points = node.points.as_ref().map(|points| format!("\n{points}")).unwrap_or_default();
            let label = quoted(&format!("{}\n{}{points}", node.name, node.kind));
            let colours = node.state.map(|shade| {
                let (word, fill, line) = (shade.word, shade.fill, shade.line);
                format!(", style=filled, fillcolor=\"{fill}\", color=\"{line}\", tooltip=\"{word}\"")
            });
            let _ = writeln!(text, "  {} [label={label}{}];", quoted(&node.name), colours.unwrap_or_default());
        }
        for edge in &self.edges {
            let style = if edge.table { ", style=bold" } else { "" };
            let (from, to) = (quoted(&self.nodes[edge.from].name), quoted(&self.nodes[edge.to].name));
            let _ = writeln!(text, "  {from} -> {to} [label={}{style}];", quoted(&edge.port));
        }
        text.push_str("}\n");
        text
    }
}

/// Text of Mermaid, which knows entities by `#` and reads HTML.
fn coded(text: &str) -> String {
    let mut coded = String::new();
    for c in text.chars() {
        match c {
            '"' => coded.push_str("#quot;"),
            '#' => coded.push_str("#35;"),
            '<' => coded.push_str("#lt;"),
            '>' => coded.push_str("#gt;"),
            '&' => coded.push_str("#amp;"),
            c if c.is_control() => coded.push(' '),
            c => coded.push(c),
        }
    }
    coded
}

/// A string of Graphviz.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests;
