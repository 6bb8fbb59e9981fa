//! `palinode graph`: the pipeline's stages and links.

use palinode_engine::draw;

use crate::{
    cli::{Graph, GraphFormat},
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn graph(args: &Graph) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    match args.format {
        GraphFormat::Mermaid => out(&draw::mermaid(&graph)),
        GraphFormat::Dot => out(&draw::dot(&graph)),
        GraphFormat::Json => {
            let node = |node: &_| {
                let instance = graph.instance(*node);
                let inputs: Vec<_> = palinode_engine::plan::sources(instance)
                    .map(|source| format!("{}.{}", graph.instance(source.node).address, source.port))
                    .collect();
                serde_json::json!({
                    "address": instance.address.to_string(), "stage": instance.address.stage,
                    "coords": instance.coords, "kind": instance.kind.name(), "inputs": inputs,
                })
            };
            out(&format!("{:#}\n", serde_json::Value::from_iter(graph.order.iter().map(node))))
        }
    }
}
