//! `palinode plan`: what `run` would do, and why.

use std::fmt::Write as _;

use palinode_engine::{
    plan::{Decision, Plan},
    resources,
};

use crate::{
    cli::{self, Format},
    exit::Exit,
    machine,
    output::{Failure, out},
};

pub(crate) fn plan(args: &cli::Plan) -> Result<Exit, Failure> {
    let (graph, cache) = super::pipeline_and_cache(&args.pipeline, super::look)?;
    let graph = super::kept(graph);
    let selection = super::selection(&graph, &args.targets)?;
    let force = super::force(&graph, &args.force)?;
    let plan = super::kept(super::planned(&graph, &selection, &cache, force)?);
    // A plan that could not be run is none.
    resources::check(&graph, &plan, machine::options(&args.resources).limits()).map_err(super::too_much)?;
    match args.format {
        Format::Json => out(&format!("{:#}\n", serde_json::json!(*plan))),
        Format::Text => out(&text(&plan)),
    }
}

fn text(plan: &Plan) -> String {
    let mut text = String::new();
    let mut counts = [0; 3];
    for node in &plan.nodes {
        let address = &node.address;
        let _ = match &node.decision {
            Decision::Hit(_) => {
                counts[0] += 1;
                writeln!(text, "cached   {address}")
            }
            Decision::Run { reason, .. } => {
                counts[1] += 1;
                writeln!(text, "run      {address}: {reason}")
            }
            Decision::Same { runs_as, .. } => {
                counts[0] += 1;
                writeln!(text, "same     {address}: the same result as {runs_as}")
            }
            Decision::May { reason, .. } => {
                counts[2] += 1;
                writeln!(text, "may run  {address}: {reason}")
            }
        };
    }
    let [cached, run, may] = counts;
    let _ = writeln!(text, "{cached} cached, {run} to run, {may} may run");
    text
}
