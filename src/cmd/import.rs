//! `palinode import`: results from an archive.

use jiff::Timestamp;
use palinode_cache::Pin;

use super::words::{count, size};
use crate::{
    cli::{Format, Import},
    exit::Exit,
    output::{Failure, out, say},
};

pub(crate) fn import(args: &Import) -> Result<Exit, Failure> {
    let root = super::place(args.place.pipeline.as_deref(), args.place.cache.as_ref())?;
    if !args.archive.is_file() {
        return Err(Failure::usage(format!("there is no archive at {}", args.archive.display())));
    }
    let cache = super::open(&root)?;
    // Until it is pinned.
    let _hold = cache.hold().map_err(|error| Failure::usage(error.to_string()))?;
    let report = cache.import(&args.archive).map_err(|error| Failure::usage(error.to_string()))?;
    if let Some(name) = &args.pin {
        let pin = Pin {
            name: name.clone(),
            pipeline: args.archive.display().to_string(),
            pinned: Timestamp::now(),
            results: report.asked_for.clone(),
        };
        cache.pin(&pin, false).map_err(|error| Failure::usage(error.to_string()))?;
    }
    for address in &report.differing {
        say(&format!("warning: {address} is here with other outputs; what was here first stays\n"));
    }
    if let Format::Json = args.format {
        return out(&format!("{:#}\n", serde_json::json!(report)));
    }
    let exit = out(&format!(
        "{}: {} new, {} here already; {} in {} verified\n",
        args.archive.display(),
        count(report.new, "result"),
        report.known,
        size(report.bytes),
        count(report.blobs, "blob"),
    ))?;
    if args.pin.is_none() && report.new > 0 {
        say("until a run uses them, `palinode gc` removes them: `--pin NAME` keeps them\n");
    }
    Ok(exit)
}
