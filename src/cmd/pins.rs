//! `palinode pin`, `pins`, `unpin`: named results that `gc` keeps.

use jiff::Timestamp;
use palinode_cache::PinError;

use super::words::{count, table, time};
use crate::{
    cli::{Format, Pin, Pins, Unpin},
    exit::Exit,
    output::{Failure, out, say},
};

pub(crate) fn pin(args: &Pin) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let cache = super::existing(&args.pipeline)?;
    // From finding the results until the pin is written.
    let _hold = cache.hold().map_err(|error| Failure::usage(error.to_string()))?;
    let results = super::results(&graph, &args.stages, &cache)?;
    let number = results.len();
    let pin = palinode_cache::Pin {
        name: args.name.clone(),
        pipeline: graph.pipeline.clone(),
        pinned: Timestamp::now(),
        results,
    };
    cache.pin(&pin, args.replace).map_err(|error| match error {
        PinError::Taken(_) => Failure::usage(error.to_string()).hint("take another name, or give --replace"),
        error => Failure::usage(error.to_string()),
    })?;
    say(&format!("pinned {} as {}\n", count(number, "result"), args.name));
    Ok(Exit::Done)
}

pub(crate) fn pins(args: &Pins) -> Result<Exit, Failure> {
    let root = super::place(args.place.pipeline.as_deref(), args.place.cache.as_ref())?;
    let pins = super::look(&root)?.pins().map_err(|error| Failure::usage(error.to_string()))?;
    if let Format::Json = args.format {
        return out(&format!("{:#}\n", serde_json::json!(pins)));
    }
    let row = |pin: &palinode_cache::Pin| {
        let mut results: Vec<&str> = pin.results.keys().take(3).map(String::as_str).collect();
        if pin.results.len() > results.len() {
            results.push("...");
        }
        let number = count(pin.results.len(), "result");
        vec![pin.name.clone(), time(pin.pinned), pin.pipeline.clone(), number, results.join(", ")]
    };
    out(&table(&pins.iter().map(row).collect::<Vec<_>>(), &[]))
}

pub(crate) fn unpin(args: &Unpin) -> Result<Exit, Failure> {
    let cache = super::placed(&args.place)?;
    match cache.unpin(&args.name).map_err(|error| Failure::usage(error.to_string()))? {
        true => {
            say(&format!("removed the pin {}; its results stay until the next gc\n", args.name));
            Ok(Exit::Done)
        }
        false => Err(Failure::usage(format!("there is no pin `{}`", args.name)).hint("`palinode pins` lists them")),
    }
}
