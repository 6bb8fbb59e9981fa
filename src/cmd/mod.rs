//! One file per command. Here: what they share.

mod audit;
mod check;
mod completions;
mod diff;
mod export;
mod gc;
mod graph;
mod import;
mod init;
mod kinds;
mod logs;
mod pins;
mod plan;
mod run;
mod runs;
mod schema;
mod show;
mod status;
mod verify;
mod why;
mod words;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    sync::Arc,
};

use palinode_cache::{Cache, StageKey};
use palinode_engine::{
    command::{Command as CommandKind, Host},
    graph::Graph,
    plan::{Decision, Plan, PlanOptions, plan as make_plan},
    problem::Problems,
    registry::Registry,
    resources::TooMuch,
    select::{SelectError, Selection},
    spec::{Overrides, load, load_for},
    stage::StageKind,
};

use crate::{
    cli::{Cli, Command, Pipeline, Place},
    diagnostics,
    exit::Exit,
    memory,
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
        Command::Runs(args) => runs::runs(args),
        Command::Show(args) => show::show(args),
        Command::Diff(args) => diff::diff(args),
        Command::Gc(args) => gc::gc(args),
        Command::Pin(args) => pins::pin(args),
        Command::Pins(args) => pins::pins(args),
        Command::Unpin(args) => pins::unpin(args),
        Command::Verify(args) => verify::verify(args, &cli.talk),
        Command::Export(args) => export::export(args),
        Command::Import(args) => import::import(args),
        Command::Check(args) => check::check(args),
        Command::Schema => schema::schema(),
        Command::Init(args) => init::init(args),
        Command::Completions(args) => completions::completions(args),
        Command::Worker => worker::worker(),
    }
}

fn registry() -> Registry {
    Registry::new(kinds_of(Host::default()))
}

/// The kinds for a pipeline, in whose cache what they learn of this machine is kept.
fn registry_of(args: &Pipeline) -> Registry {
    let index = root(args).join("index").join("tools.json");
    Registry::new(kinds_of(Host { tools_index: Some(index), ..Host::default() }))
}

/// Every kind, in the order in which `palinode kinds` shows them. What they may know of this machine is told to them:
/// the library reads no environment.
fn kinds_of(host: Host) -> Vec<Arc<dyn StageKind>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::home_dir();
    let mut kinds = palinode_stages::kinds();
    kinds.push(Arc::new(CommandKind::new(Host { path, home, ..host })));
    kinds
}

/// What the command line says beside the file.
fn overrides(args: &Pipeline) -> Result<Overrides, Failure> {
    let cwd = std::env::current_dir().map_err(|error| Failure::usage(format!("current folder: {error}")))?;
    let mut overrides = Overrides::parse(&args.set, cwd).map_err(|error| {
        let hint = "overrides look like `--set params.model=./weights` or `--set axes.seed=[0]`";
        Failure::usage(error.to_string()).hint(hint)
    })?;
    overrides.profiles.clone_from(&args.profile);
    overrides.params.clone_from(&args.params);
    overrides.everywhere = args.device.iter().map(|device| ("device".to_owned(), device.as_str().into())).collect();
    Ok(overrides)
}

/// Reads the pipeline and applies the overrides; all its problems, drawn, are the failure.
fn pipeline(args: &Pipeline) -> Result<Graph, Failure> {
    let overrides = overrides(args)?;
    sound(load(&args.file, &registry_of(args), &overrides))
}

fn sound(graph: Result<Graph, Problems>) -> Result<Graph, Failure> {
    memory::give_back();
    graph.map_err(|problems| Failure::usage(diagnostics::render(&problems)))
}

/// The pipeline, and its cache, which looks ahead for the plan to come. Where there is none it is had by `new`, once the
/// pipeline is known to be sound.
fn pipeline_and_cache(args: &Pipeline, new: fn(&Path) -> Result<Cache, Failure>) -> Result<(Graph, Cache), Failure> {
    let root = root(args);
    let there = root.join("format").exists().then(|| open(&root));
    let Some(Ok(cache)) = there else {
        let graph = pipeline(args)?;
        return Ok((graph, there.unwrap_or_else(|| new(&root))?));
    };
    let graph = sound(load_for(&cache, &args.file, &registry_of(args), &overrides(args)?))?;
    Ok((graph, cache))
}

/// A value that lives until the process ends. Taking a large graph apart piece by piece just before that takes time, and
/// the system takes all of it back at once anyway.
fn kept<T>(value: T) -> ManuallyDrop<T> {
    ManuallyDrop::new(value)
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

/// The pipeline's cache for looking things up: nothing is made where there is none.
fn existing(args: &Pipeline) -> Result<Cache, Failure> {
    look(&root(args))
}

fn root(args: &Pipeline) -> PathBuf {
    args.cache.clone().unwrap_or_else(|| beside(&args.file, ".palinode"))
}

fn open(root: &Path) -> Result<Cache, Failure> {
    Cache::open(root).map_err(|error| Failure::usage(format!("cache: {error}")))
}

fn look(root: &Path) -> Result<Cache, Failure> {
    Cache::open_existing(root).map_err(|error| Failure::usage(format!("cache: {error}")))
}

/// The folder of the cache that a command without a pipeline means.
fn place(pipeline: Option<&Path>, cache: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(file) = pipeline.filter(|file| !file.is_file()) {
        return Err(Failure::usage(format!("there is no pipeline at {}", file.display())));
    }
    Ok(cache.cloned().unwrap_or_else(|| beside(pipeline.unwrap_or(Path::new("")), ".palinode")))
}

/// The cache that `place` means, which must be there.
fn placed(place: &Place) -> Result<Cache, Failure> {
    there(self::place(place.pipeline.as_deref(), place.cache.as_ref())?)
}

fn there(root: PathBuf) -> Result<Cache, Failure> {
    if !root.join("format").exists() {
        let hint = "name a pipeline that has run, or the cache's folder: `--cache DIR`";
        return Err(Failure::usage(format!("there is no cache at {}", root.display())).hint(hint));
    }
    open(&root)
}

/// The results that `stages` have now, by address; each must be there.
fn results(graph: &Graph, stages: &[String], cache: &Cache) -> Result<BTreeMap<String, StageKey>, Failure> {
    let selection = selection(graph, stages)?;
    let plan = planned(graph, &selection, cache, BTreeSet::new())?;
    let mut wanted = BTreeSet::new();
    for stage in stages {
        wanted.extend(instances(graph, stage)?);
    }
    let mut results = BTreeMap::new();
    for node in plan.nodes.iter().filter(|node| wanted.contains(&node.node)) {
        match &node.decision {
            Decision::Hit(record) => drop(results.insert(node.address.clone(), record.key)),
            Decision::Run { reason, .. } | Decision::May { reason, .. } => {
                return Err(Failure::usage(format!("{} has no result now: {reason}", node.address))
                    .hint(format!("bring it up to date first: `palinode run {} ...`", graph.file.display())));
            }
            Decision::Same { runs_as, .. } => {
                return Err(Failure::usage(format!("{} has no result now: {runs_as} makes it", node.address)));
            }
        }
    }
    Ok(results)
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
