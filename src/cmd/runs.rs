//! `palinode runs`: what runs there were.

use palinode_engine::runs::{RunInfo, list};
use serde_json::{Value, json};

use super::words::{count, table, time};
use crate::{
    cli::{Format, Runs},
    exit::Exit,
    output::{Failure, out, say},
    report::span,
};

pub(crate) fn runs(args: &Runs) -> Result<Exit, Failure> {
    let root = super::place(args.place.pipeline.as_deref(), args.place.cache.as_ref())?;
    let mut runs = list(&root).map_err(|error| Failure::usage(format!("{}: {error}", root.display())))?;
    runs.reverse();
    let hidden = runs.len().saturating_sub(args.limit);
    runs.truncate(args.limit);
    if let Format::Json = args.format {
        return out(&format!("{:#}\n", Value::from_iter(runs.iter().map(json))));
    }
    if runs.is_empty() {
        say(&format!("no runs in {}\n", root.display()));
        return Ok(Exit::Done);
    }
    let exit = out(&table(&runs.iter().map(row).collect::<Vec<_>>(), &[4]))?;
    if hidden > 0 {
        say(&format!("and {} before: --limit N\n", count(hidden, "run")));
    }
    Ok(exit)
}

/// How a run went, in a word.
fn state(run: &RunInfo) -> &'static str {
    match &run.summary {
        None if run.live => "running",
        None => "killed",
        Some(summary) if summary.complete() => "done",
        Some(summary) if summary.failed > 0 => "failed",
        Some(_) => "stopped",
    }
}

fn row(run: &RunInfo) -> Vec<String> {
    let (seconds, mut parts) = match &run.summary {
        None => (String::new(), Vec::new()),
        Some(summary) => {
            let counts = [
                (summary.executed, "executed"),
                (summary.cached, "cached"),
                (summary.failed, "failed"),
                (summary.blocked, "blocked"),
                (summary.cancelled, "cancelled"),
            ];
            let parts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
            (span(summary.seconds), parts.collect())
        }
    };
    if parts.is_empty() {
        parts.push(if run.summary.is_some() { "nothing selected".to_owned() } else { String::new() });
    }
    vec![run.run.clone(), time(run.started), run.pipeline.clone(), state(run).to_owned(), seconds, parts.join(", ")]
}

/// The summary without its list of instances: `diff` and the log itself have those.
fn json(run: &RunInfo) -> Value {
    let mut value = json!({
        "run": run.run, "pipeline": run.pipeline, "file": run.file, "started": run.started, "state": state(run),
    });
    if let Some(s) = &run.summary {
        value["summary"] = json!({
            "executed": s.executed, "cached": s.cached, "failed": s.failed, "blocked": s.blocked,
            "cancelled": s.cancelled, "seconds": s.seconds, "written": s.written,
        });
    }
    value
}
