//! `palinode status`: one line a stage.

use std::{collections::BTreeSet, fmt::Write as _};

use palinode_engine::plan::{Decision, PlanNode};
use serde_json::json;

use crate::{
    cli::{Format, Status},
    exit::Exit,
    output::{Failure, out},
};

/// What is said of the instances of one stage.
#[derive(Default)]
struct Line {
    instances: usize,
    fresh: usize,
    never: usize,
    /// The first stale instance and why it is stale.
    stale: Option<(String, String)>,
}

pub(crate) fn status(args: &Status) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let selection = super::selection(&graph, &[])?;
    let plan = super::planned(&graph, &selection, &super::cache(&args.pipeline)?, BTreeSet::new())?;
    let mut lines: Vec<(String, Line)> = Vec::new();
    for node in &plan.nodes {
        let stage = &graph.instance(node.node).address.stage;
        let line = match lines.iter().position(|(name, _)| name == stage) {
            Some(i) => &mut lines[i].1,
            None => {
                lines.push((stage.clone(), Line::default()));
                &mut lines.last_mut().expect("just pushed").1
            }
        };
        line.add(node);
    }
    match args.format {
        Format::Json => {
            let value = lines.iter().map(|(stage, line)| {
                let stale =
                    line.stale.as_ref().map(|(address, reason)| json!({ "address": address, "reason": reason }));
                json!({ "stage": stage, "instances": line.instances, "fresh": line.fresh, "never_run": line.never,
                        "stale": line.instances - line.fresh - line.never, "first_stale": stale })
            });
            out(&format!("{:#}\n", serde_json::Value::from_iter(value)))
        }
        Format::Text => out(&text(&lines)),
    }
}

impl Line {
    fn add(&mut self, node: &PlanNode) {
        self.instances += 1;
        let reason = match &node.decision {
            Decision::Hit(_) => return self.fresh += 1,
            _ if node.last.is_none() => return self.never += 1,
            Decision::Run { reason, .. } | Decision::May { reason, .. } => reason.to_string(),
            Decision::Same { runs_as, .. } => format!("the same result as {runs_as}, which will run"),
        };
        self.stale.get_or_insert((node.address.clone(), reason));
    }
}

fn text(lines: &[(String, Line)]) -> String {
    let width = lines.iter().map(|(stage, _)| stage.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (stage, line) in lines {
        let stale = line.instances - line.fresh - line.never;
        let words = match line.instances {
            n if line.fresh == n => "fresh".to_owned(),
            n if line.never == n => "never run".to_owned(),
            1 => "stale".to_owned(),
            _ => format!("{} fresh, {stale} stale, {} never run", line.fresh, line.never),
        };
        let count = if line.instances == 1 { String::new() } else { format!(" x{}", line.instances) };
        let _ = write!(text, "{stage:width$}  {words}{count}");
        let _ = match &line.stale {
            Some((address, reason)) if address == stage => writeln!(text, "; {reason}"),
            Some((address, reason)) => writeln!(text, "; {address}: {reason}"),
            None => writeln!(text),
        };
    }
    text
}
