//! Pipelines through `load`, with small kinds that do nothing.

mod broken;
mod layers;
mod lints;
mod messages;
mod random;
mod rules;
mod targets;

use std::{fs, path::Path, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    context::Context,
    graph::{Binding, Graph, Source},
    problem::Problems,
    registry::Registry,
    spec::{Overrides, load},
    stage::{InputPort, Kind, Of, OutputPort, ParamProblem, PathParam, PortType, StageError, StageKind},
};

macro_rules! kind {
    ($kind:ident = $name:literal, $params:ty, [$($input:expr),*], [$($output:expr),*]) => {
        struct $kind;
        impl Kind for $kind {
            type Params = $params;
            const NAME: &'static str = $name;
            const ABOUT: &'static str = "A test kind.";
            const REVISION: u32 = 1;
            fn inputs() -> Vec<InputPort> {
                vec![$($input),*]
            }
            fn outputs() -> Vec<OutputPort> {
                vec![$($output),*]
            }
            fn check(params: &Self::Params) -> Vec<ParamProblem> {
                Check::check(params)
            }
            fn run(_: Self::Params, _: &Context<'_>) -> Result<(), StageError> {
                Ok(())
            }
        }
    };
}

trait Check {
    fn check(&self) -> Vec<ParamProblem> {
        Vec::new()
    }
}

/// Takes anything.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Free {
    #[serde(default)]
    value: Value,
    #[serde(default)]
    other: Value,
}
impl Check for Free {}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Rank {
    Low(u32),
    Full(Full),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Full {
    Full,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Strict {
    /// How many there are.
    steps: u32,
    #[serde(default = "one")]
    rate: f64,
    #[serde(default)]
    rank: Option<Rank>,
    #[serde(default)]
    file: Option<PathParam>,
    #[serde(default)]
    files: Vec<PathParam>,
    #[serde(default)]
    note: String,
}
fn one() -> f64 {
    1.0
}
impl Check for Strict {
    fn check(&self) -> Vec<ParamProblem> {
        let zero = ParamProblem::new("steps", "must be at least 1").hint("leave the stage out instead");
        if self.steps == 0 { vec![zero] } else { Vec::new() }
    }
}

const MODEL: OutputPort = OutputPort::new("model", PortType::Model, "A model.");
const DATA: OutputPort = OutputPort::new("data", PortType::Dataset, "Data.");

const fn model(name: &'static str) -> InputPort {
    InputPort::one(name, PortType::Model, "A model.")
}
const fn models(name: &'static str) -> InputPort {
    InputPort::table(name, PortType::Model, "Models.")
}

kind!(Make = "make", Free, [], [MODEL, DATA]);
kind!(Step = "step", Free, [model("model")], [MODEL]);
kind!(Join = "join", Free, [model("a"), model("b").optional()], [MODEL]);
kind!(Collect = "collect", Free, [models("models"), models("more").optional(), model("base").optional()], [MODEL]);
kind!(Count = "count", Free, [model("model")], [OutputPort::new("table", PortType::Table, "Counts.")]);
kind!(Tune = "tune", Strict, [], [MODEL]);

/// How many at once is in no key.
struct Batched;
impl Kind for Batched {
    type Params = Free;
    const NAME: &'static str = "batched";
    const ABOUT: &'static str = "A test kind.";
    const REVISION: u32 = 1;
    const UNKEYED: &'static [&'static str] = &["other"];
    fn inputs() -> Vec<InputPort> {
        vec![]
    }
    fn outputs() -> Vec<OutputPort> {
        vec![MODEL]
    }
    fn run(_: Self::Params, _: &Context<'_>) -> Result<(), StageError> {
        Ok(())
    }
}

fn registry() -> Registry {
    let kinds: [Arc<dyn StageKind>; 7] = [
        Arc::new(Of::<Make>::NEW),
        Arc::new(Of::<Step>::NEW),
        Arc::new(Of::<Join>::NEW),
        Arc::new(Of::<Collect>::NEW),
        Arc::new(Of::<Tune>::NEW),
        Arc::new(Of::<Count>::NEW),
        Arc::new(Of::<Batched>::NEW),
    ];
    Registry::new(kinds)
}

/// Loads `text` from a folder that holds `here.txt` and `words/`; `--set` paths are relative to `words/`.
fn load_in(folder: &Path, text: impl AsRef<[u8]>, sets: &[&str]) -> Result<Graph, Problems> {
    let file = folder.join("p.yaml");
    let words = folder.join("words");
    fs::create_dir_all(&words).unwrap();
    fs::write(folder.join("here.txt"), "here").unwrap();
    fs::write(words.join("there.txt"), "there").unwrap();
    fs::write(&file, text).unwrap();
    let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
    load(&file, &registry(), &Overrides::parse(&sets, words).unwrap())
}

fn try_load(text: impl AsRef<[u8]>, sets: &[&str]) -> Result<Graph, Problems> {
    load_in(tempfile::tempdir().unwrap().path(), text, sets)
}

fn loaded(text: &str, sets: &[&str]) -> Graph {
    try_load(text, sets).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Each problem as `line:column «what is marked» message` and its hint.
fn problems(text: impl AsRef<[u8]>, sets: &[&str]) -> String {
    match try_load(text, sets) {
        Err(problems) => told(&problems),
        Ok(_) => panic!("no problem is told"),
    }
}

fn told(problems: &Problems) -> String {
    assert!(!problems.problems.is_empty());
    let mut lines = Vec::new();
    for problem in &problems.problems {
        assert!(!problem.label().is_empty());
        let place = problem.span.clone().map_or(String::new(), |span| {
            let file = problems.file_of(problem).unwrap();
            let marked = file.text.get(span).expect("a span lies in the source");
            let name = file.path.file_name().unwrap().to_string_lossy();
            let name = if problem.file == 0 { String::new() } else { format!("{name}:") };
            format!("{name}{}:{} «{marked}» ", problem.line.unwrap(), problem.column.unwrap())
        });
        lines.push(format!("{place}{}", problem.message()));
        lines.extend(problem.hint().map(|hint| format!("  hint: {hint}")));
    }
    lines.join("\n")
}

/// Every instance with what is linked to it.
fn drawn(graph: &Graph) -> String {
    let one = |source: &Source| graph.instance(source.node).address.to_string();
    let mut lines = Vec::new();
    for node in &graph.order {
        let instance = graph.instance(*node);
        let mut line = instance.address.to_string();
        for (port, binding) in &instance.inputs {
            let bound = match binding {
                Binding::One(source) => one(source),
                Binding::Table { rows, .. } => {
                    let rows = rows.iter().map(|row| {
                        let coords: Vec<_> = row.coords.iter().map(|(axis, label)| format!("{axis}={label}")).collect();
                        format!("{}: {}", coords.join(","), row.source.as_ref().map_or("-".to_owned(), one))
                    });
                    format!("{{{}}}", rows.collect::<Vec<_>>().join("; "))
                }
            };
            line.push_str(&format!(" <- {port} {bound}"));
        }
        lines.push(line);
    }
    lines.join("\n")
}
