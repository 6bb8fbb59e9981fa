//! `palinode status`: one line a stage, on one screen.

use std::{collections::BTreeSet, fmt::Write as _};

use palinode_engine::{
    status::{Cause, Counts, StageStatus, Status as State, status as find},
    strays::{Stray, strays},
};

use super::words::count;
use crate::{
    cli::{Format, Status},
    exit::Exit,
    output::{Failure, out},
};

/// Lines of stages that fit on a screen. Of more, those that are fresh are only counted.
const SCREEN: usize = 40;
/// A cause is cut to what fits beside a name.
const CAUSE: usize = 160;

pub(crate) fn status(args: &Status) -> Result<Exit, Failure> {
    let (graph, cache) = super::pipeline_and_cache(&args.pipeline, super::look)?;
    let graph = super::kept(graph);
    let selection = super::selection(&graph, &[])?;
    let plan = super::kept(super::planned(&graph, &selection, &cache, BTreeSet::new())?);
    let status = find(&graph, &plan, &cache);
    let strays = strays(&graph, &cache, &super::beside(&args.pipeline.file, "out"));
    match args.format {
        Format::Json => {
            let mut value = serde_json::json!(status);
            value["strays"] = serde_json::json!(strays);
            out(&format!("{value:#}\n"))
        }
        Format::Text => out(&(text(&status) + &told(&strays))),
    }
}

fn text(status: &State) -> String {
    let fresh = |stage: &&StageStatus| stage.counts.fresh == stage.counts.instances;
    let crowded = status.stages.len() > SCREEN;
    let shown: Vec<&StageStatus> =
        status.stages.iter().filter(|stage| !(crowded && fresh(stage))).take(SCREEN).collect();
    let width = shown.iter().map(|stage| stage.stage.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for stage in &shown {
        let _ = writeln!(text, "{:width$}  {}", stage.stage, line(stage));
    }
    let left_out = status.stages.len() - shown.len();
    if left_out > 0 {
        let fresh = status.stages.iter().filter(fresh).count();
        let rest = left_out - fresh.min(left_out);
        let mut parts = vec![format!("{} fresh", count(left_out - rest, "more stage"))];
        if rest > 0 {
            parts.push(format!("{rest} more that are not: `palinode plan` tells all"));
        }
        let _ = writeln!(text, "{}", parts.join(", "));
    }
    let _ = writeln!(text, "{}: {}", status.pipeline, words(&status.counts));
    for run in &status.runs {
        let _ = writeln!(text, "going on: run {run}");
    }
    text
}

/// Files that were published once and that nothing keeps up to date any more.
fn told(strays: &[Stray]) -> String {
    let Some(first) = strays.first() else { return String::new() };
    let (files, path) = (count(strays.len(), "file"), first.path.display());
    format!("{files} of stages that are gone, like {path}: `palinode gc PIPELINE --out` removes them\n")
}

fn words(counts: &Counts) -> String {
    let words = counts.words().into_iter().map(|(count, word)| format!("{count} {word}"));
    words.collect::<Vec<_>>().join(", ")
}

fn line(stage: &StageStatus) -> String {
    let counts = &stage.counts;
    let mut text = match counts.words()[..] {
        [(1, word)] => word.to_owned(),
        [(count, word)] => format!("{word} x{count}"),
        _ => words(counts),
    };
    if let Some(first) = stage.running_now.first().filter(|first| **first != stage.stage) {
        let _ = write!(text, "; {first} is running");
    }
    for Cause { address, reason } in [&stage.first_failed, &stage.first_stale].into_iter().flatten() {
        let reason = one_line(reason);
        let _ =
            if *address == stage.stage { write!(text, "; {reason}") } else { write!(text, "; {address}: {reason}") };
    }
    text
}

fn one_line(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    let mut cut: String = line.chars().take(CAUSE).collect();
    if cut.len() < reason.len() {
        cut.push('…');
    }
    cut
}
