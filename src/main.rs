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

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::cli::{Cli, LogFormat, Talk};

fn main() -> ExitCode {
    keep_descriptors();
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
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).without_time();
            registry.with(layer.compact()).init();
        }
        LogFormat::Json => registry.with(fmt::layer().with_writer(std::io::stderr).json()).init(),
    }
}

/// What this process was given beside its standard streams (a lock of whoever started it, say) goes to none that it starts.
fn keep_descriptors() {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: only its flag is set, and where it is closed by now (it was the folder's) the call fails.
        #[expect(unsafe_code, reason = "the descriptors that a process begins with have no owner in it")]
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
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
