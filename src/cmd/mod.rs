//! One file per command. Here: what they share.

mod audit;
mod graph;
mod kinds;
mod logs;
mod plan;
mod run;
mod status;
mod why;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use palinode_cache::Cache;
use palinode_engine::{
    graph::Graph,
    plan::{Plan, PlanOptions, plan as make_plan},
    registry::Registry,
    resources::TooMuch,
    select::{SelectError, Selection},
    spec::{Overrides, load},
};

use crate::{
    cli::{Cli, Command, Pipeline},
    diagnostics,
    exit::Exit,
    output::Failure,
};

pub(crate) fn dispatch(cli: &Cli) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Run(args) => run::run(args, &cli.talk),
        Command::Plan(args) => plan::plan(args),
        Command::Status(args) => status::status(args),
        Command::Why(args) => why::why(args),
        Command::Graph(args) => graph::graph(args),
        Command::Audit(args) => audit::audit(args),
        Command::Kinds(args) => kinds::kinds(args),
        Command::Logs(args) => logs::logs(args),
    }
}

fn registry() -> Registry {
    Registry::new(palinode_stages::kinds())
}

/// Reads the pipeline and applies the overrides; all its problems, drawn, are the failure.
fn pipeline(args: &Pipeline) -> Result<Graph, Failure> {
    let cwd = std::env::current_dir().map_err(|error| Failure::usage(format!("current folder: {error}")))?;
    let mut overrides = Overrides::parse(&args.set, cwd).map_err(|error| {
        let hint = "overrides look like `--set params.model=./weights` or `--set axes.seed=[0]`";
        Failure::usage(error.to_string()).hint(hint)
    })?;
    overrides.profiles.clone_from(&args.profile);
    overrides.params.clone_from(&args.params);
    load(&args.file, &registry(), &overrides).map_err(|problems| Failure::usage(diagnostics::render(&problems)))
}

/// The instances that `targets` name, with all that they need; the whole pipeline if there are none.
fn selection(graph: &Graph, targets: &[String]) -> Result<Selection, Failure> {
    graph.select(targets).map_err(|error| unknown(&error))
}

/// The instances that a name like `tuned` or `tuned[rank=8]` means, without what they need.
fn instances(graph: &Graph, name: &str) -> Result<Selection, Failure> {
    graph.named(name).map_err(|error| unknown(&error))
}

fn unknown(error: &SelectError) -> Failure {
    let failure = Failure::usage(error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The pipeline's cache.
fn cache(args: &Pipeline) -> Result<Cache, Failure> {
    open(&args.cache.clone().unwrap_or_else(|| beside(&args.file, ".palinode")))
}

fn open(root: &Path) -> Result<Cache, Failure> {
    Cache::open(root).map_err(|error| Failure::usage(format!("cache: {error}")))
}

/// `name` in the folder of `file`.
fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(name)
}

/// What a run would do.
fn planned(graph: &Graph, selection: &Selection, cache: &Cache, force: BTreeSet<String>) -> Result<Plan, Failure> {
    make_plan(graph, selection, cache, &PlanOptions { force }).map_err(|error| Failure::usage(error.to_string()))
}

/// Stages that ask for more than there is.
fn too_much(error: TooMuch) -> Failure {
    let hint = error.hint.clone();
    Failure::usage(error.to_string()).hint(hint)
}

/// Stages that `--force` names must exist.
fn force(graph: &Graph, stages: &[String]) -> Result<BTreeSet<String>, Failure> {
    for stage in stages {
        if !graph.order.iter().any(|node| graph.instance(*node).address.stage == *stage) {
            return Err(Failure::usage(format!("--force: there is no stage `{stage}`")));
        }
    }
    Ok(stages.iter().cloned().collect())
}
