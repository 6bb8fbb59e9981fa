//! `palinode show`: one result, or the instances of a stage.

use std::{collections::BTreeSet, fmt::Write as _};

use palinode_cache::{Cache, PortContent, Record};
use palinode_engine::{
    plan::{Decision, PlanNode},
    show::{Shown, show as find},
};
use serde_json::{Value, json};

use super::words::{size, table, time};
use crate::{
    cli::{Format, Show},
    exit::Exit,
    output::{Failure, out},
    report::span,
};

pub(crate) fn show(args: &Show) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let selection = super::selection(&graph, std::slice::from_ref(&args.stage))?;
    let wanted = super::instances(&graph, &args.stage)?;
    let cache = super::existing(&args.pipeline)?;
    let plan = super::planned(&graph, &selection, &cache, BTreeSet::new())?;
    let nodes: Vec<&PlanNode> = plan.nodes.iter().filter(|node| wanted.contains(&node.node)).collect();
    match nodes[..] {
        [node] => one(node, &cache, args.format),
        _ => several(&nodes, &cache, args),
    }
}

/// The result that a node has now or, if that is to be made, had last; with what keeps it from being the one wanted.
fn record(node: &PlanNode, cache: &Cache) -> Result<(Option<Record>, Option<String>), Failure> {
    let read = |key| cache.record(&key).map_err(|error| Failure::usage(error.to_string()));
    let reason = match &node.decision {
        Decision::Hit(result) => return Ok((read(result.key)?, None)),
        Decision::Run { reason, .. } | Decision::May { reason, .. } => reason.to_string(),
        Decision::Same { runs_as, .. } => format!("the same result as {runs_as}, which will run"),
    };
    Ok((node.last.map(read).transpose()?.flatten(), Some(reason)))
}

fn one(node: &PlanNode, cache: &Cache, format: Format) -> Result<Exit, Failure> {
    let (record, stale) = record(node, cache)?;
    let Some(record) = record else {
        let reason = stale.unwrap_or_default();
        return Err(Failure {
            exit: Exit::Failed,
            ..Failure::usage(format!("{} has no result: {reason}", node.address))
        });
    };
    let shown = find(&node.address, &record, cache).map_err(|error| Failure::usage(error.to_string()))?;
    match format {
        Format::Json => {
            let mut value = json!(shown);
            value["stale"] = json!(stale);
            out(&format!("{value:#}\n"))
        }
        Format::Text => out(&text(&shown, stale.as_deref(), cache)),
    }
}

fn several(nodes: &[&PlanNode], cache: &Cache, args: &Show) -> Result<Exit, Failure> {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for node in nodes {
        let (record, stale) = record(node, cache)?;
        let bytes = record.as_ref().map(bytes);
        let state = match (&record, &stale) {
            (Some(_), None) => "fresh",
            (Some(_), Some(_)) => "stale",
            (None, _) => "no result",
        };
        values.push(json!({ "address": node.address, "state": state, "bytes": bytes, "stale": stale }));
        let made = record.as_ref().map(|record| time(record.execution.started)).unwrap_or_default();
        let took = record.as_ref().map(|record| span(record.execution.seconds)).unwrap_or_default();
        rows.push(vec![node.address.clone(), state.to_owned(), bytes.map(size).unwrap_or_default(), took, made]);
    }
    match args.format {
        Format::Json => out(&format!("{:#}\n", Value::from(values))),
        Format::Text => {
            let mut text = table(&rows, &[2, 3]);
            if let Some(node) = nodes.first() {
                let _ = writeln!(
                    text,
                    "{} instances; one of them: palinode show {} '{}'",
                    nodes.len(),
                    args.pipeline.file.display(),
                    node.address
                );
            }
            out(&text)
        }
    }
}

fn bytes(record: &Record) -> u64 {
    record.outputs.values().map(palinode_cache::FileTree::size).sum()
}

fn text(shown: &Shown, stale: Option<&str>, cache: &Cache) -> String {
    let (record, made) = (&shown.record, &shown.record.execution);
    let mut text = format!("{} ({}, revision {})\n", shown.address, record.parts.kind, record.parts.revision);
    let mut line = |words: String| {
        let _ = writeln!(text, "{words}");
    };
    if let Some(stale) = stale {
        line(format!("  stale: {stale}; this is its last result"));
    }
    line(format!("  key      {}", record.key));
    line(format!(
        "  made     {} in {}, on {} ({}, palinode {})",
        time(made.started),
        span(made.seconds),
        made.host,
        made.device,
        made.palinode
    ));
    if let Some(git) = &made.git {
        line(format!("  git      {git}"));
    }
    if let Some(memory) = made.peak_memory_mib {
        line(format!("  memory   {memory} MiB at its peak"));
    }
    if made.address != shown.address {
        line(format!("  made as  {}", made.address));
    }
    for (name, value) in record.parts.params.iter().filter(|(name, _)| !record.parts.files.contains_key(*name)) {
        line(format!("  with.{name} = {}", brief(value)));
    }
    for (param, tree) in &record.parts.files {
        let place = made.places.get(param).map_or("", String::as_str);
        line(format!("  with.{param} = {place} ({})", tree.short()));
    }
    for (port, content) in &record.parts.inputs {
        line(match content {
            PortContent::One(tree) => format!("  input {port} = {}{}", tree.short(), from(record, port, cache)),
            PortContent::Table(rows) => match rows.iter().filter(|row| row.content.is_none()).count() {
                0 => format!("  input {port} = a table of {}", rows.len()),
                lacking => format!("  input {port} = a table of {}, {lacking} of them without a result", rows.len()),
            },
        });
    }
    for (name, value) in &record.summary {
        line(format!("  {name}: {}", brief(value)));
    }
    line(format!("outputs, {} together", size(bytes(record))));
    let widths = shown.files.iter().map(|file| file.port.len() + file.name.len() + 1).max().unwrap_or(0);
    for file in &shown.files {
        let place = file.path.as_ref().map_or_else(|| "lost".to_owned(), |path| path.display().to_string());
        line(format!("  {:widths$}  {:>10}  {place}", format!("{}/{}", file.port, file.name), size(file.size)));
        if let Some(preview) = &file.preview {
            preview.lines.iter().for_each(|shown| line(format!("    | {shown}")));
            if preview.more {
                line("    | ...".to_owned());
            }
        }
    }
    line(match &shown.log {
        Some(log) => format!("log\n  {}", log.display()),
        None => "log\n  lost".to_owned(),
    });
    // Records may have come from elsewhere; a terminal would obey what is in them.
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// The address under which an input's producer was made.
fn from(record: &Record, port: &str, cache: &Cache) -> String {
    let producer = record.sources.get(port).and_then(|keys| cache.record(keys.first()?).ok().flatten());
    producer.map(|record| format!(" of {}", record.execution.address)).unwrap_or_default()
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 100 { text } else { text.chars().take(100).chain(['…']).collect() }
}
