//! `palinode run`: bring a pipeline up to date.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::available_parallelism,
};

use palinode_engine::{
    event::RunSummary,
    execute::{RunOptions, run as execute},
    executor::InProcess,
};

use crate::{
    cli::{Format, Run, Talk},
    exit::Exit,
    output::{Failure, out, say},
    report::{self, Report},
};

pub(crate) fn run(args: &Run, talk: &Talk) -> Result<Exit, Failure> {
    let graph = super::pipeline(&args.pipeline)?;
    let selection = super::selection(&graph, &args.targets)?;
    let force = super::force(&graph, &args.force)?;
    let cache = super::cache(&args.pipeline)?;
    let cpus = available_parallelism().map_or(1, usize::from);
    let registry = super::registry();
    let executor = Arc::new(InProcess::new(move |kind| registry.get(kind).cloned()));
    let report = Report::new(talk);
    let cancelled = Arc::new(AtomicBool::new(false));
    let options = RunOptions {
        jobs: args.jobs.map_or(cpus, usize::from),
        force,
        out: Some(args.out.clone().unwrap_or_else(|| super::beside(&args.pipeline.file, "out"))),
        cancelled: cancelled.clone(),
        ..RunOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::usage(format!("can't start threads: {error}")))?;
    let summary = runtime.block_on(async {
        tokio::spawn(interrupts(cancelled.clone()));
        execute(&graph, &selection, &cache, options, executor, |event| report.event(event)).await
    });
    let summary = summary.map_err(|error| Failure::usage(error.to_string()))?;
    match args.format {
        Format::Json => out(&format!("{:#}\n", serde_json::json!(summary)))?,
        Format::Text => out(&report::summary(&summary))?,
    };
    Ok(exit(&summary))
}

fn exit(summary: &RunSummary) -> Exit {
    match summary {
        s if s.cancelled > 0 && s.failed == 0 => Exit::Interrupted,
        s if s.complete() => Exit::Done,
        _ => Exit::Failed,
    }
}

/// The first Ctrl-C stops what runs at its next step and keeps what is done; the second leaves at once.
async fn interrupts(cancelled: Arc<AtomicBool>) {
    while tokio::signal::ctrl_c().await.is_ok() {
        if cancelled.swap(true, Ordering::Relaxed) {
            #[expect(clippy::exit, reason = "what is in the cache is whole at any time: nothing to clean up")]
            std::process::exit(130);
        }
        say("stopping: what runs ends at its next step, what is done is kept; again to stop at once\n");
    }
}
