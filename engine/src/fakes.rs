//! For tests: stage kinds that do next to nothing, graphs made by hand, and a cache in a temporary folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use palinode_cache::Cache;
use petgraph::graph::{DiGraph, NodeIndex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    attempts::Attempts,
    context::Context,
    event::{Event, RunSummary},
    execute::{RunError, RunOptions, run},
    executor::InProcess,
    graph::{Address, Binding, Graph, Instance, Missing, Resources, Source, TableRow},
    plan::{Plan, PlanOptions, plan},
    stage::{InputPort, Kind, Of, OutputPort, PathParam, PortType, StageError, StageKind},
};

/// What the fake does with its text: `echo` writes it, the others are named by what they do.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fake {
    #[serde(default)]
    text: String,
    /// Appended to at each execution.
    #[serde(default)]
    counter: String,
    #[serde(default)]
    mode: Mode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Writes the text and all that comes in.
    #[default]
    Echo,
    /// The same, after a while.
    Slow,
    /// Writes how long what comes in is: different inputs may give the same.
    Length,
    /// Writes partial output and fails.
    Fail,
    Panic,
    /// Writes nothing.
    Empty,
    /// Writes something else at each execution.
    Random,
    /// Fails until it was executed as often as its text says.
    Flaky,
    /// Writes the ids of its GPUs, once there is as much in the counter's file as its text says.
    Gpus,
    /// Goes on until it is cancelled.
    Endless,
    /// Counts to 1000 and notes where it begins; keeps a checkpoint when the run is to end.
    Count,
    /// Notes, warns, and gives facts.
    Talk,
}

pub(crate) struct Text;

impl Kind for Text {
    type Params = Fake;
    const NAME: &'static str = "text";
    const ABOUT: &'static str = "Text.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("one", PortType::File, "").optional(),
            InputPort::table("all", PortType::File, "").optional(),
        ]
    }
    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("text", PortType::File, "text.txt")]
    }
    fn run(params: Fake, ctx: &Context<'_>) -> Result<(), StageError> {
        if !params.counter.is_empty() {
            let file = fs::File::options().create(true).append(true).open(&params.counter);
            file.and_then(|mut file| file.write_all(b"x")).map_err(StageError::io(&params.counter))?;
        }
        let mut text = params.text.clone();
        for port in ["one", "all"] {
            for row in ctx.table(port) {
                match &row.input {
                    Some(files) => text.push_str(&read(files.get("text.txt"))?),
                    None => text.push_str("(dropped)"),
                }
            }
        }
        let out = ctx.output("text")?;
        match params.mode {
            Mode::Echo => {}
            Mode::Slow => std::thread::sleep(Duration::from_millis(200)),
            Mode::Length => text = text.chars().count().to_string(),
            Mode::Fail => {
                ctx.note("about to fail");
                out.write("text.txt", "partial")?;
                return Err(StageError::failed(format!("no luck with {}", params.text)));
            }
            Mode::Panic => panic!("out of cheese"),
            Mode::Empty => return Ok(()),
            Mode::Random => text = format!("{:?}", std::time::SystemTime::now()),
            Mode::Flaky => {
                let executed = fs::metadata(&params.counter).map_err(StageError::io(&params.counter))?.len();
                if executed < params.text.parse().unwrap_or(0) {
                    return Err(StageError::failed(format!("no luck at attempt {executed}")));
                }
            }
            Mode::Gpus => {
                let all = params.text.trim().parse().unwrap_or(0);
                while fs::metadata(&params.counter).map_err(StageError::io(&params.counter))?.len() < all {
                    ctx.progress(0, 0, "wait")?;
                    std::thread::sleep(Duration::from_millis(5));
                }
                text = format!("{:?}", ctx.job().gpus);
            }
            Mode::Endless => loop {
                ctx.progress(1, 0, "turn")?;
                std::thread::sleep(Duration::from_millis(5));
            },
            Mode::Count => count(ctx)?,
            Mode::Talk => {
                for done in 1..=3 {
                    ctx.progress(done, 3, "step")?;
                }
                ctx.note("a note");
                ctx.warn("a warning");
                ctx.summary("count", 3);
            }
        }
        out.write("text.txt", text)
    }
}

fn count(ctx: &Context<'_>) -> Result<(), StageError> {
    let failed = |error: palinode_cache::CacheError| StageError::failed(error.to_string());
    let checkpoints = ctx.checkpoints().ok_or_else(|| StageError::failed("nowhere to keep anything"))?;
    let kept = checkpoints.latest().map_err(failed)?;
    let start = match kept {
        Some(kept) => read(Some(&kept.join("count")))?.parse().map_err(|_| StageError::failed("no number"))?,
        None => 0,
    };
    ctx.note(format!("from {start}"));
    for done in start..1000 {
        ctx.progress(done, 1000, "step")?;
        if ctx.is_ending() {
            let write = |dir: &Path| fs::write(dir.join("count"), done.to_string()).map_err(StageError::io(dir));
            checkpoints.save(write)?;
            return Err(StageError::Cancelled);
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    Ok(())
}

fn read(path: Option<&Path>) -> Result<String, StageError> {
    let path = path.ok_or_else(|| StageError::failed("no text.txt"))?;
    fs::read_to_string(path).map_err(StageError::io(path))
}

/// Reads a file or folder from outside.
pub(crate) struct Outside;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutsideParams {
    source: PathParam,
    /// Makes the files part of the output as they are, under this prefix.
    #[serde(default)]
    include: Option<String>,
    /// Edits them while it runs, as a user might.
    #[serde(default)]
    edit: bool,
}

impl Kind for Outside {
    type Params = OutsideParams;
    const NAME: &'static str = "outside";
    const ABOUT: &'static str = "A file.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![]
    }
    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("text", PortType::File, "text.txt")]
    }
    fn run(params: OutsideParams, ctx: &Context<'_>) -> Result<(), StageError> {
        let files = ctx.files(&params.source)?;
        let path = files.single().map(|(_, path)| path).ok_or_else(|| StageError::failed("one file"))?;
        let out = ctx.output("text")?;
        let text = read(Some(path))?;
        if params.edit {
            fs::write(path, "edited").map_err(StageError::io(path))?;
        }
        if let Some(prefix) = params.include {
            out.include(&prefix, files);
        }
        out.write("text.txt", text)
    }
}

/// Draws what comes in.
pub(crate) struct Draw;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct NoParams {}

impl Kind for Draw {
    type Params = NoParams;
    const NAME: &'static str = "draw";
    const ABOUT: &'static str = "A figure.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::table("all", PortType::File, "")]
    }
    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("figure", PortType::Figure, "figure.svg, figure.csv")]
    }
    fn run(_: NoParams, ctx: &Context<'_>) -> Result<(), StageError> {
        let rows = ctx.table("all");
        let text = |row: &crate::job::JobRow| read(row.input.as_ref().and_then(|files| files.get("text.txt")));
        let texts = rows.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let out = ctx.output("figure")?;
        out.write("figure.csv", texts.join("\n"))?;
        out.write(
            "figure.svg",
            format!("<svg xmlns=\"http://www.w3.org/2000/svg\"><text>{}</text></svg>", texts.join(" ")),
        )
    }
}

fn kinds() -> [Arc<dyn StageKind>; 3] {
    [Arc::new(Of::<Text>::NEW), Arc::new(Of::<Outside>::NEW), Arc::new(Of::<Draw>::NEW)]
}

pub(crate) fn find(name: &str) -> Option<Arc<dyn StageKind>> {
    kinds().into_iter().find(|kind| kind.name() == name)
}

/// A graph made by hand.
pub(crate) struct Pipe(pub(crate) Graph);

impl Pipe {
    pub(crate) fn new() -> Self {
        Self(Graph { pipeline: "test".into(), file: "test.yaml".into(), dag: DiGraph::new(), order: Vec::new() })
    }

    /// An instance of the fake `kind` at `stage`, or `stage[axis=label]`.
    pub(crate) fn add(&mut self, address: &str, kind: &str, with: Value) -> NodeIndex {
        let kind = find(kind).unwrap();
        let (stage, coords) = address.trim_end_matches(']').split_once('[').unwrap_or((address, ""));
        let coords: Vec<(String, String)> =
            coords.split(',').filter_map(|c| c.split_once('=')).map(|(a, l)| (a.to_owned(), l.to_owned())).collect();
        let node = self.0.dag.add_node(Instance {
            address: Address { stage: stage.into(), coords: coords.clone() },
            coords: coords.into_iter().map(|(axis, label)| (axis, json!(label))).collect(),
            params: kind.canonical(&with).unwrap(),
            kind,
            paths: BTreeMap::new(),
            inputs: Default::default(),
            files: BTreeMap::new(),
            resources: Resources::default(),
            attempts: Attempts::default(),
        });
        self.0.order.push(node);
        node
    }

    pub(crate) fn text(&mut self, address: &str, text: &str) -> NodeIndex {
        self.add(address, "text", json!({ "text": text }))
    }

    /// An instance that reads the file at `path`.
    pub(crate) fn outside(&mut self, address: &str, path: &Path, with: Value) -> NodeIndex {
        let mut params = json!({ "source": "source" });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        let node = self.add(address, "outside", params);
        self.0.dag[node].paths.insert("source".into(), path.to_owned());
        node
    }

    pub(crate) fn link(&mut self, from: NodeIndex, to: NodeIndex) {
        self.0.dag.add_edge(from, to, "one".into());
        self.0.dag[to].inputs.insert("one".into(), Binding::One(Source { node: from, port: "text".into() }));
    }

    /// A text that comes after another.
    pub(crate) fn after(&mut self, address: &str, from: NodeIndex, with: Value) -> NodeIndex {
        let node = self.add(address, "text", with);
        self.link(from, node);
        node
    }

    /// Gathers `rows` along the axis `x`, labelled 0, 1, ...
    pub(crate) fn gather(&mut self, rows: &[NodeIndex], to: NodeIndex, missing: Missing) {
        for &row in rows {
            self.0.dag.add_edge(row, to, "all".into());
        }
        let row = |(i, &node): (usize, &NodeIndex)| TableRow {
            coords: vec![("x".into(), json!(i))],
            source: Some(Source { node, port: "text".into() }),
        };
        let rows = rows.iter().enumerate().map(row).collect();
        self.0.dag[to].inputs.insert("all".into(), Binding::Table { rows, missing });
    }

    pub(crate) fn all(&self) -> BTreeSet<NodeIndex> {
        self.0.order.iter().copied().collect()
    }
}

/// A folder with a cache in it.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) cache: Cache,
}

/// As many random cases as `PROPTEST_CASES` says; else this small dose.
pub(crate) fn cases(small: u32) -> proptest::test_runner::Config {
    let given = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    proptest::test_runner::Config::with_cases(given.unwrap_or(small))
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    /// In memory where that can be had: for many small runs, whose syncs would take most of the time.
    pub(crate) fn quick() -> Self {
        Self::in_folder(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn in_folder(dir: tempfile::TempDir) -> Self {
        let cache = Cache::open(&dir.path().join(".palinode")).unwrap();
        Self { dir, cache }
    }

    /// As another process would find it once this one has ended.
    pub(crate) fn reopened(self) -> Self {
        let Self { dir, cache } = self;
        drop(cache);
        Self::in_folder(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn options(&self) -> RunOptions {
        RunOptions { jobs: 4, cpus: Some(4), out: Some(self.path("out")), ..RunOptions::default() }
    }

    pub(crate) fn try_run(&self, pipe: &Pipe, options: RunOptions) -> Result<(RunSummary, Vec<Event>), RunError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let events = Mutex::new(Vec::new());
        let hear = |event: &Event| events.lock().unwrap().push(event.clone());
        let executor = Arc::new(InProcess::new(find));
        let summary = runtime.block_on(run(&pipe.0, &pipe.all(), &self.cache, options, executor, hear))?;
        Ok((summary, events.into_inner().unwrap()))
    }

    /// A run on `cache`.
    pub(crate) fn run_on(&self, pipe: &Pipe, cache: &Cache, options: RunOptions) -> RunSummary {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let executor = Arc::new(InProcess::new(find));
        runtime.block_on(run(&pipe.0, &pipe.all(), cache, options, executor, |_| {})).unwrap()
    }

    pub(crate) fn run(&self, pipe: &Pipe) -> RunSummary {
        self.try_run(pipe, self.options()).unwrap().0
    }

    pub(crate) fn plan(&self, pipe: &Pipe) -> Plan {
        plan(&pipe.0, &pipe.all(), &self.cache, &PlanOptions::default()).unwrap()
    }
}
