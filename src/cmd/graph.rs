//! `palinode graph`: the pipeline's stages and links.

use std::collections::BTreeSet;

use palinode_engine::{draw::Drawing, status::words};

use crate::{
    cli::{Graph, GraphFormat},
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn graph(args: &Graph) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let words = if args.status {
        let cache = super::existing(&args.pipeline)?;
        let plan = super::planned(&graph, &super::selection(&graph, &[])?, &cache, BTreeSet::new())?;
        Some(words(&plan, &graph.pipeline, &cache))
    } else {
        None
    };
    if args.format == GraphFormat::Json {
        let node = |node: &_| {
            let instance = graph.instance(*node);
            let inputs: Vec<_> = palinode_engine::plan::sources(instance)
                .map(|source| format!("{}.{}", graph.instance(source.node).address, source.port))
                .collect();
            serde_json::json!({
                "address": instance.address.to_string(), "stage": instance.address.stage,
                "coords": instance.coords, "kind": instance.kind.name(), "inputs": inputs,
                "status": words.as_ref().and_then(|words| words.get(node)),
            })
        };
        return out(&format!("{:#}\n", serde_json::Value::from_iter(graph.order.iter().map(node))));
    }
    let mut drawing = if args.instances { Drawing::instances(&graph) } else { Drawing::stages(&graph) };
    if let Some(words) = &words {
        drawing.colour(words);
    }
    match args.format {
        GraphFormat::Dot => out(&drawing.dot()),
        GraphFormat::Svg => {
            let hint = if args.instances {
                "leave out --instances, or give `--format dot` to Graphviz"
            } else {
                "give `--format dot` to Graphviz"
            };
            out(&drawing.svg().map_err(|error| Failure::usage(error.to_string()).hint(hint))?)
        }
        GraphFormat::Mermaid | GraphFormat::Json => out(&drawing.mermaid()),
    }
}
