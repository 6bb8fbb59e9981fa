//! `palinode logs`: what a stage said when its result was made, or when it last failed.

use std::{collections::BTreeSet, fs};

use palinode_engine::{execute::failed_dir, plan::Decision};

use crate::{
    cli::Logs,
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn logs(args: &Logs) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let selection = super::selection(&graph, std::slice::from_ref(&args.stage))?;
    let cache = super::existing(&args.pipeline)?;
    let plan = super::planned(&graph, &selection, &cache, BTreeSet::new())?;
    let wanted = super::instances(&graph, &args.stage)?;
    let mut text = String::new();
    for node in plan.nodes.iter().filter(|node| wanted.contains(&node.node)) {
        let result = match &node.decision {
            Decision::Hit(result) => Some(result.clone()),
            _ => node.last.and_then(|key| cache.stored(&key).ok().flatten()),
        };
        text.push_str(&format!("== {}\n", node.address));
        // There only since the last attempt failed.
        if let Ok(log) = fs::read_to_string(failed_dir(cache.root(), &node.address).join("log")) {
            text.push_str(&log);
            continue;
        }
        let log = result.and_then(|result| cache.locate(&result.log).ok().flatten());
        match log.and_then(|path| fs::read_to_string(path).ok()) {
            Some(log) => text.push_str(&log),
            None => text.push_str("(no log: it never ran to its end, or its log is no longer in the cache)\n"),
        }
    }
    out(&text)
}
