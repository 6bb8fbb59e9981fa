//! `palinode run`: bring a pipeline up to date.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use palinode_engine::{
    event::RunSummary,
    execute::{Git, RunError, RunOptions, run as execute},
    executor::{Executor, FindKind, InProcess},
    interrupt::Interrupt,
    worker::Workers,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{Format, Run, Talk},
    exit::Exit,
    git, machine, memory,
    output::{Failure, out, say},
    report::{self, Report},
};

/// How long a run that is to stop at once may take to say so in its log.
const LAST_WORDS: Duration = Duration::from_millis(1500);

pub(crate) fn run(args: &Run, talk: &Talk) -> Result<Exit, Failure> {
    let (graph, cache) = super::pipeline_and_cache(&args.pipeline, super::open)?;
    let graph = super::kept(graph);
    let selection = super::selection(&graph, &args.targets)?;
    let force = super::force(&graph, &args.force)?;
    let report = Report::new(talk);
    let interrupt = Interrupt::default();
    let here = super::beside(&args.pipeline.file, "");
    let defaults = machine::options(&args.resources);
    let options = RunOptions {
        jobs: args.jobs.map_or(defaults.jobs, usize::from),
        fail_fast: args.fail_fast,
        force,
        out: Some(args.out.clone().unwrap_or_else(|| super::beside(&args.pipeline.file, "out"))),
        git: Git::new(move || git::state(&here)),
        interrupt: interrupt.clone(),
        ..defaults
    };
    let executor = executor(args.in_process, options.jobs)?;
    if !args.in_process {
        memory::keep_little();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::usage(format!("can't start threads: {error}")))?;
    let summary = runtime.block_on(async {
        tokio::spawn(interrupts(interrupt.clone()));
        execute(&graph, &selection, &cache, options, executor, |event| report.event(event)).await
    });
    // A stage that timed out and didn't hear of it is not waited for.
    runtime.shutdown_background();
    let summary = summary.map_err(|error| match error {
        RunError::TooMuch(error) => super::too_much(error),
        error => Failure::usage(error.to_string()),
    })?;
    match args.format {
        Format::Json => out(&format!("{:#}\n", serde_json::json!(summary)))?,
        Format::Text => out(&report::summary(&summary))?,
    };
    Ok(exit(&summary, &interrupt))
}

/// Where stages run: heavy ones in at most `jobs` worker processes, which are this very program.
fn executor(in_process: bool, jobs: usize) -> Result<Arc<dyn Executor>, Failure> {
    let registry = super::registry();
    let find: Arc<FindKind> = Arc::new(move |kind: &str| registry.get(kind).cloned());
    if in_process {
        return Ok(Arc::new(InProcess::new(move |kind| find(kind))));
    }
    let program = std::env::current_exe().map_err(|error| {
        let failure = Failure::usage(format!("can't find this program again, to start workers: {error}"));
        failure.hint("`--in-process` does without them")
    })?;
    Ok(Arc::new(Workers::new(find, program, vec!["worker".to_owned()], BTreeMap::new(), jobs)))
}

fn exit(summary: &RunSummary, interrupt: &Interrupt) -> Exit {
    match summary {
        s if s.complete() => Exit::Done,
        s if s.cancelled > 0 && interrupt.is_draining() => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

/// The first Ctrl-C lets what runs end, or keep a checkpoint; the second, or a SIGTERM, stops it.
async fn interrupts(interrupt: Interrupt) {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return;
    };
    tokio::select! {
        _ = int.recv() => {
            interrupt.drain();
            say("stopping: what runs may end, or keeps a checkpoint to go on from; nothing new begins; Ctrl-C again stops at once\n");
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        }
        _ = term.recv() => {}
    }
    interrupt.stop();
    say("stopping at once\n");
    tokio::time::sleep(LAST_WORDS).await;
    #[expect(clippy::exit, reason = "what is in the cache is whole at any time: nothing to clean up")]
    std::process::exit(130);
}
