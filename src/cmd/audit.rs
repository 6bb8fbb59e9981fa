//! `palinode audit`: is this figure intact, and what is it a result of?

use palinode_engine::audit::{Verdict, audit as examine};

use crate::{
    cli::{Audit, Format},
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn audit(args: &Audit) -> Result<Exit, Failure> {
    let cache = match &args.cache {
        Some(dir) if dir.is_dir() => Some(super::open(dir)?),
        Some(dir) => return Err(Failure::usage(format!("there is no cache at {}", dir.display()))),
        None => None,
    };
    let audit = examine(&args.figure, cache.as_ref())
        .map_err(|error| Failure::usage(format!("{}: {error}", args.figure.display())))?;
    match args.format {
        Format::Json => out(&format!("{:#}\n", serde_json::json!(audit)))?,
        Format::Text => out(&audit.render())?,
    };
    Ok(if matches!(audit.verdict, Verdict::Intact) { Exit::Done } else { Exit::Failed })
}
