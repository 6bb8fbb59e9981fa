//! `palinode`: the command line. [`cli`] holds the types, [`cmd`] one file per command; whatever is said to people goes
//! through [`output`] and [`report`].

mod cli;
mod cmd;
mod diagnostics;
mod exit;
mod git;
mod machine;
mod memory;
mod output;
mod report;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::cli::{Cli, LogFormat, Talk};

fn main() -> ExitCode {
    let cli = Cli::parse();
    trace(&cli.talk);
    arm_crash();
    match cmd::dispatch(&cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.show();
            failure.exit.into()
        }
    }
}

/// What the engine says of itself, on stderr: warnings, and more with `-vv`; `PALINODE_LOG` overrides.
fn trace(talk: &Talk) {
    let level = match talk.verbose {
        0 | 1 => "warn",
        2 => "warn,palinode=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("PALINODE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let registry = tracing_subscriber::registry().with(filter);
    match talk.log_format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).without_time().compact()).init(),
        LogFormat::Json => registry.with(fmt::layer().with_writer(std::io::stderr).json()).init(),
    }
}

/// For the crash tests: `PALINODE_CRASH_AFTER=n` kills this process, as `kill -9` would, before the nth step that changes
/// files.
fn arm_crash() {
    let nth = std::env::var("PALINODE_CRASH_AFTER").ok().and_then(|nth| nth.parse().ok());
    if let Some(nth) = nth {
        palinode_cache::failpoint::arm(nth, || {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        });
    }
}
