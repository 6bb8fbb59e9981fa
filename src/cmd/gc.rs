//! `palinode gc`: remove what no one needs any more.

use std::{fs, path::Path};

use palinode_cache::Cache;
use palinode_engine::{
    collect::{CollectOptions, Collected, collect},
    strays::{Stray, strays as find_strays},
};

use super::words::{count, usages};
use crate::{
    cli::{Format, Gc, Pipeline},
    exit::Exit,
    output::{Failure, out, say},
};

pub(crate) fn gc(args: &Gc) -> Result<Exit, Failure> {
    let cache = super::placed(&args.place)?;
    let strays = match &args.out {
        Some(out) => strays(args, out.as_deref(), &cache)?,
        None => Vec::new(),
    };
    let options = CollectOptions { keep_runs: args.keep_runs, aside: args.aside, dry_run: args.dry_run };
    let waiting = || say("waiting for a moment in which no process is storing a result\n");
    let collected = collect(&cache, &options, waiting).map_err(|error| Failure::usage(error.to_string()))?;
    if !args.dry_run {
        for stray in strays.iter().filter(|stray| !stray.altered) {
            fs::remove_file(&stray.path)
                .map_err(|error| Failure::usage(format!("can't remove {}: {error}", stray.path.display())))?;
        }
    }
    match args.format {
        Format::Json => {
            let mut value = serde_json::json!(collected);
            value["strays"] = serde_json::json!(strays);
            out(&format!("{value:#}\n"))
        }
        Format::Text => out(&(text(&collected) + &told(&strays, args.dry_run))),
    }
}

/// Published files of stages that the pipeline no longer has.
fn strays(args: &Gc, out: Option<&Path>, cache: &Cache) -> Result<Vec<Stray>, Failure> {
    let Some(file) = args.place.pipeline.clone() else {
        return Err(Failure::usage("--out needs PIPELINE: only it says which stages there are"));
    };
    let out = out.map_or_else(|| super::beside(&file, "out"), Path::to_owned);
    let pipeline =
        Pipeline { file, profile: Vec::new(), params: Vec::new(), set: Vec::new(), device: None, cache: None };
    Ok(find_strays(&super::pipeline(&pipeline)?, cache, &out))
}

fn told(strays: &[Stray], dry_run: bool) -> String {
    let line = |stray: &Stray| {
        let verb = match (stray.altered, dry_run) {
            (true, _) => "kept, since it was altered:",
            (false, true) => "would remove",
            (false, false) => "removed",
        };
        format!("{verb} {} (of {})\n", stray.path.display(), stray.address)
    };
    strays.iter().map(line).collect()
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
