//! `palinode why`: the part of the key that changed, or where a hit came from.

use palinode_engine::explain::{Explanation, explain};

use crate::{
    cli::{Format, Why},
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn why(args: &Why) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let selection = super::selection(&graph, std::slice::from_ref(&args.stage))?;
    let wanted = super::instances(&graph, &args.stage)?;
    let cache = super::existing(&args.pipeline)?;
    let explained = explain(&graph, &selection, &wanted, &cache).map_err(|error| Failure::usage(error.to_string()))?;
    match args.format {
        Format::Json => out(&format!("{:#}\n", serde_json::json!(explained))),
        Format::Text => out(&explained.iter().map(Explanation::render).collect::<String>()),
    }
}
