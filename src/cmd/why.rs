//! `palinode why`: the part of the key that changed, or where a hit came from.

use palinode_engine::{explain::explain, plan::{PlanOptions, plan as make_plan}};

use crate::{
    cli::{Format, Why},
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn why(args: &Why) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let selection = super::selection(&graph, std::slice::from_ref(&args.stage))?;
    let cache = super::cache(&args.pipeline)?;
    let plan = make_plan(&graph, &selection, &cache, &PlanOptions::default())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let wanted = super::instances(&graph, &args.stage)?;
    let mut explained = Vec::new();
    for node in plan.nodes.iter().filter(|node| wanted.contains(&node.node)) {
        explained.push(explain(&graph, node, &cache).map_err(|error| Failure::usage(error.to_string()))?);
    }
    match args.format {
        Format::Json => out(&format!("{:#}\n", serde_json::json!(explained))),
        Format::Text => out(&explained.iter().map(ToString::to_string).collect::<String>()),
    }
}
