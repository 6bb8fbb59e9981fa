//! `palinode gc`: remove what no one needs any more.

use palinode_engine::collect::{CollectOptions, Collected, collect};

use super::words::{count, usages};
use crate::{
    cli::{Format, Gc},
    exit::Exit,
    output::{Failure, out, say},
};

pub(crate) fn gc(args: &Gc) -> Result<Exit, Failure> {
    let cache = super::placed(&args.place)?;
    let options = CollectOptions { keep_runs: args.keep_runs, aside: args.aside, dry_run: args.dry_run };
    let waiting = || say("waiting for a moment in which no process is storing a result\n");
    let collected = collect(&cache, &options, waiting).map_err(|error| Failure::usage(error.to_string()))?;
    match args.format {
        Format::Json => out(&format!("{:#}\n", serde_json::json!(collected))),
        Format::Text => out(&text(&collected)),
    }
}

fn text(collected: &Collected) -> String {
    let verb = if collected.dry_run { "would remove" } else { "removed" };
    let mut text = match collected.report.removed.total().files {
        0 => "nothing to remove\n".to_owned(),
        _ => format!("{verb}\n{}", usages(&collected.report.removed)),
    };
    let mut why = vec![count(collected.runs.len(), "run")];
    if !collected.pins.is_empty() {
        why.push(format!("{} ({})", count(collected.pins.len(), "pin"), collected.pins.join(", ")));
    }
    text.push_str(&format!("kept, for {}\n{}", why.join(" and "), usages(&collected.report.kept)));
    text
}
