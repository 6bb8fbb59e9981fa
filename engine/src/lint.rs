//! What is allowed and yet probably not meant: stages, params, axes and defaults that nothing uses. And `check`: all of
//! a pipeline's problems and lints, with nothing planned or run.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
    path::Path,
};

use serde_json::Value as Json;
use serde_yaml::Value as Yaml;

use crate::{
    expand::Expansion,
    graph::Graph,
    overlay::{Files, Located},
    overrides::Overrides,
    problem::{Problems, SourceFile},
    registry::Registry,
    source::Place,
    spec::Spec,
    stage::{OutputPort, PortType},
    template,
};

/// Something that is allowed and yet probably not meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's sentence says what it and its fields are")]
pub enum Lint {
    #[error("nothing uses what the stage `{stage}` gives: {gives}")]
    UnusedStage { stage: String, gives: String },
    #[error("nothing uses the param `{param}`")]
    UnusedParam { param: String },
    #[error("no stage is over the axis `{axis}`")]
    UnusedAxis { axis: String },
    #[error("no stage has the defaults of `{key}`")]
    UnusedDefaults { key: String },
}

impl Lint {
    /// The names of all lints.
    pub const NAMES: [&'static str; 4] = ["unused-stage", "unused-param", "unused-axis", "unused-defaults"];

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::UnusedStage { .. } => Self::NAMES[0],
            Self::UnusedParam { .. } => Self::NAMES[1],
            Self::UnusedAxis { .. } => Self::NAMES[2],
            Self::UnusedDefaults { .. } => Self::NAMES[3],
        }
    }

    /// A few words for the marked place.
    pub fn label(&self) -> &'static str {
        "not used"
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::UnusedStage { stage, .. } => {
                format!(
                    "link it to an input, or drop it; `palinode run PIPELINE {stage}` runs a stage for its own sake"
                )
            }
            Self::UnusedParam { param } => format!("use `${{{param}}}` in a `with`, or drop it"),
            Self::UnusedAxis { axis } => format!("introduce it at a stage: `over: [{axis}]`, or drop it"),
            Self::UnusedDefaults { key } if key.contains('*') => "fix the pattern, or drop it".to_owned(),
            Self::UnusedDefaults { .. } => "drop it, or name a kind that a stage `uses`".to_owned(),
        }
    }
}

/// A lint and its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Finding {
    /// What it is.
    pub lint: Lint,
    /// The file, by its place in [`Checked::files`].
    pub file: usize,
    /// Bytes of that file.
    pub span: Option<Range<usize>>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column, from 1, in characters.
    pub column: Option<usize>,
}

/// What is to be said of a pipeline.
pub struct Checked {
    /// The graph, if there is no problem.
    pub graph: Option<Graph>,
    /// The problems; there may be none.
    pub problems: Problems,
    /// The lints, in the order of the files.
    pub findings: Vec<Finding>,
    /// The files that findings are in.
    pub files: Vec<SourceFile>,
    /// The profiles that the pipeline has.
    pub profiles: Vec<String>,
}

/// Looks at the whole of a pipeline: all problems, and all lints as far as it can be read.
pub fn check(file: &Path, registry: &Registry, overrides: &Overrides) -> Checked {
    crate::expand::check(file, registry, overrides)
}

/// The lints of a pipeline.
pub(crate) fn lints(whole: &Yaml, spec: &Spec, expansion: &Expansion<'_>, files: &Files) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tell = |place: Place, lint| {
        // What only an option says has no place, and whoever typed it sees it.
        if let Located::File(file, place) = files.locate(&place) {
            let source = &files.files[file].source;
            let span = source.span(&place);
            let (line, column) = span.as_ref().map_or((None, None), |span| source.position(span.start));
            found.push(Finding { lint, file, span, line, column });
        }
    };
    unused_stages(spec, expansion, &mut tell);
    unused_params(whole, spec, &mut tell);
    let used: HashSet<_> = spec.stages.values().flat_map(|stage| &stage.over).map(|(axis, _)| axis).collect();
    for axis in spec.axes.iter().filter(|axis| !used.contains(&axis.name)) {
        tell(Place::root().to("axes").to(&axis.name).key(), Lint::UnusedAxis { axis: axis.name.clone() });
    }
    let used: HashSet<_> = files.defaults.values().flatten().collect();
    let defaults = whole.get("defaults").and_then(Yaml::as_mapping);
    for key in defaults.into_iter().flat_map(|defaults| defaults.keys()).filter_map(crate::data::key_text) {
        if !used.contains(&key) {
            tell(Place::root().to("defaults").to(&key).key(), Lint::UnusedDefaults { key });
        }
    }
    if !found.is_empty() {
        // What a profile, or a file that extends another, took the use away of was meant for it.
        let used = Declared::of(files);
        found.retain(|finding| !used.uses(&finding.lint));
    }
    found.sort_by_key(|finding| (finding.file, finding.span.as_ref().map_or(0, |span| span.start)));
    found
}

/// What stages use as the files declare them, before profiles and files lie over each other.
#[derive(Default)]
struct Declared {
    kinds: HashSet<String>,
    params: HashSet<String>,
    axes: HashSet<String>,
}

impl Declared {
    fn of(files: &Files) -> Self {
        let whole = files.files.iter().filter_map(|file| serde_yaml::from_str(file.source.text()).ok());
        let whole: Vec<Yaml> = whole.collect();
        let profiles = whole.iter().filter_map(|file| file.get("profiles")?.as_mapping()).flat_map(|map| map.values());
        let layers: Vec<&Yaml> = whole.iter().chain(profiles).collect();
        let mut declared = Self::default();
        let hear = |names: &mut HashSet<String>, value: &Yaml| {
            texts(value, &mut |text| names.extend(template::names(text).into_iter().map(str::to_owned)));
        };
        let stages = layers.iter().filter_map(|layer| layer.get("stages")?.as_mapping());
        for stage in stages.flat_map(|stages| stages.values()) {
            declared.kinds.extend(stage.get("uses").and_then(Yaml::as_str).map(str::to_owned));
            let over = stage.get("over").and_then(Yaml::as_sequence).into_iter().flatten();
            declared.axes.extend(over.filter_map(crate::data::key_text));
            hear(&mut declared.params, stage);
        }
        let defaults = layers.iter().filter_map(|layer| layer.get("defaults")?.as_mapping()).flatten();
        for (kind, content) in defaults {
            if crate::data::key_text(kind).is_some_and(|kind| declared.kinds.contains(&kind)) {
                hear(&mut declared.params, content);
            }
        }
        declared
    }

    fn uses(&self, lint: &Lint) -> bool {
        match lint {
            Lint::UnusedStage { .. } => false,
            Lint::UnusedParam { param } => self.params.iter().any(|name| {
                name.strip_prefix(param.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }),
            Lint::UnusedAxis { axis } => self.axes.contains(axis),
            Lint::UnusedDefaults { key } => self.kinds.contains(key),
        }
    }
}

/// How much a result is an end in itself.
fn finality(output: &OutputPort) -> u8 {
    match output.gives {
        PortType::Figure | PortType::Table | PortType::Metrics | PortType::File | PortType::Dir | PortType::Any => 3,
        PortType::Model | PortType::Adapter | PortType::Trajectory | PortType::Distribution => 2,
        PortType::Tokenizer
        | PortType::Prompts
        | PortType::Completions
        | PortType::Verdicts
        | PortType::Pairs
        | PortType::Statements
        | PortType::Lexicon
        | PortType::Labels
        | PortType::Dataset
        | PortType::Predictions => 1,
    }
}

/// A stage from which nothing follows is what its pipeline is for, unless others end it in something more final: beside
/// a figure, prompts that nobody reads are a mistake.
fn unused_stages(spec: &Spec, expansion: &Expansion<'_>, tell: &mut impl FnMut(Place, Lint)) {
    let used: HashSet<_> =
        spec.stages.values().flat_map(|stage| &stage.inputs).map(|input| input.link.stage.as_str()).collect();
    let sound = spec.stages.values().all(|stage| stage.inputs_sound);
    if !sound || used.iter().any(|name| !spec.stages.contains_key(*name)) {
        // A link that leads nowhere may have been meant for any of them.
        return;
    }
    let ends = spec.stages.iter().enumerate().filter(|(_, (name, _))| !used.contains(name.as_str()));
    let ends: Vec<_> = ends
        .filter_map(|(number, (name, stage))| {
            let outputs = expansion.outputs(number);
            Some((name, stage, outputs, outputs.iter().map(finality).max()?))
        })
        .collect();
    let most = ends.iter().map(|(.., finality)| *finality).max().unwrap_or(0);
    for (name, stage, outputs, _) in ends.iter().filter(|(.., finality)| *finality < most) {
        let gives: BTreeSet<_> = outputs.iter().map(|output| crate::expand::type_words(output.gives)).collect();
        let gives = gives.into_iter().collect::<Vec<_>>().join(", ");
        tell(stage.place.key(), Lint::UnusedStage { stage: (*name).clone(), gives });
    }
}

fn unused_params(whole: &Yaml, spec: &Spec, tell: &mut impl FnMut(Place, Lint)) {
    let mut names = HashSet::new();
    if let Some(stages) = whole.get("stages") {
        texts(stages, &mut |text| {
            let params = template::names(text).into_iter().filter(|name| name.split('.').next() == Some("params"));
            names.extend(params.map(str::to_owned));
        });
    }
    // `params.a.b` uses a part of `params.a`.
    let mut partly = HashSet::new();
    for name in &names {
        partly.extend(name.match_indices('.').map(|(dot, _)| name[..dot].to_owned()));
    }
    // Names, depth first; a name with a dot in it can't be told from two names, and is left alone.
    let mut open = vec![("params".to_owned(), Place::root().to("params"), &spec.params)];
    partly.insert("params".to_owned());
    while let Some((name, place, value)) = open.pop() {
        if names.contains(&name) {
            continue;
        }
        match value {
            Json::Object(fields) if partly.contains(&name) => {
                let fields = fields.iter().filter(|(field, _)| !field.contains('.'));
                open.extend(fields.map(|(field, value)| (format!("{name}.{field}"), place.to(field), value)));
            }
            _ if partly.contains(&name) => {}
            _ => tell(place.key(), Lint::UnusedParam { param: name }),
        }
    }
}

fn texts(value: &Yaml, hear: &mut impl FnMut(&str)) {
    match value {
        Yaml::String(text) if text.contains("${") => hear(text),
        Yaml::Sequence(items) => items.iter().for_each(|item| texts(item, hear)),
        Yaml::Mapping(map) => map.values().for_each(|value| texts(value, hear)),
        _ => {}
    }
}
