//! `palinode export`: results as one archive.

use super::words::{count, size};
use crate::{
    cli::{Export, Format},
    exit::Exit,
    output::{Failure, out, say},
};

pub(crate) fn export(args: &Export) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let cache = super::existing(&args.pipeline)?;
    let _hold = cache.hold().map_err(|error| Failure::usage(error.to_string()))?;
    let results = super::results(&graph, &args.stages, &cache)?;
    let report = cache.export(&results, &args.output).map_err(|error| Failure::usage(error.to_string()))?;
    if report.missing > 0 {
        let missing = count(report.missing, "ancestor");
        say(&format!("warning: {missing} left out, whose results are no longer whole in the cache\n"));
    }
    match args.format {
        Format::Json => out(&format!("{:#}\n", serde_json::json!(report))),
        Format::Text => out(&format!(
            "{}: {} with {}, {} in {}\n",
            args.output.display(),
            count(results.len(), "result"),
            count(report.results - results.len().min(report.results), "ancestor"),
            size(report.bytes),
            count(report.blobs, "blob"),
        )),
    }
}
