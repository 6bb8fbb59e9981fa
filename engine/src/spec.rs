//! The declaration: a file's YAML read by hand into types, so that all of its problems come out at once.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    path::Path,
};

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};
use serde_yaml::Value as Yaml;

use crate::{
    attempts::Attempts,
    axes::{self, Axis},
    data::{describe, json, key_str, no_templates},
    graph::{Missing, Resources},
    mistake::Mistake,
    overlay::Replaced,
    overrides,
    problem::Report,
    source::Place,
};

mod inputs;

use self::inputs::Input;
pub(crate) use self::inputs::{FilesSpec, InputSpec};
pub use crate::{
    expand::{load, load_for},
    overrides::Overrides,
};

/// A pipeline as declared.
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) params: Json,
    pub(crate) axes: Vec<Axis>,
    pub(crate) stages: IndexMap<String, StageSpec>,
}

/// A stage as declared.
pub(crate) struct StageSpec {
    pub(crate) place: Place,
    pub(crate) uses: Option<String>,
    /// `None` where it can't be read.
    pub(crate) with: Option<Map<String, Json>>,
    pub(crate) inputs: Vec<InputSpec>,
    /// Files at further ports.
    pub(crate) files: Vec<FilesSpec>,
    /// All inputs could be read.
    pub(crate) inputs_sound: bool,
    pub(crate) over: Vec<(String, Place)>,
    pub(crate) gather: Vec<(String, Place)>,
    pub(crate) skip: Vec<Skip>,
    pub(crate) missing: Option<Missing>,
    pub(crate) resources: Resources,
    pub(crate) attempts: Attempts,
    /// Its shape is as declared: nothing about inputs and axes had to be left out.
    pub(crate) sound: bool,
}

/// A partial match: axis, canonical labels.
pub(crate) struct Skip {
    pub(crate) place: Place,
    pub(crate) matches: Vec<(String, Vec<String>, Place)>,
}

const TOP: [&str; 7] = ["name", "params", "axes", "stages", "extends", "profiles", "defaults"];
const STAGE: [&str; 10] =
    ["uses", "with", "inputs", "over", "gather", "skip", "missing", "resources", "retries", "timeout"];

impl Spec {
    /// Reads the whole file; problems go to `report`. Of what is read, stages are taken out unless `keep`: they are as
    /// large as what is made of them.
    pub(crate) fn read(
        file: &Path,
        root: &mut Yaml,
        keep: bool,
        replaced: &HashMap<String, Replaced>,
        report: &mut Report<'_>,
    ) -> Self {
        let has_stages = root.get("stages").is_some();
        let taken = match root.get_mut("stages") {
            Some(stages @ Yaml::Mapping(_)) if !keep => Some(std::mem::take(stages)),
            _ => None,
        };
        let root = &*root;
        let top = Place::root();
        let mut spec = Self { name: String::new(), params: Json::Null, axes: Vec::new(), stages: IndexMap::new() };
        for (key, value, place) in mapping("the file", root, &top, report) {
            match &*key {
                "name" | "params" | "axes" if value.is_null() => {}
                // Which it is, is asked for before: `name_of`.
                "name" => drop(text("`name`", value, &place, report)),
                "params" => spec.params = read_params(value, &place, report),
                "axes" => spec.axes = read_axes(value, &place, replaced, report),
                "stages" if taken.is_some() => {}
                "stages" => {
                    for (name, stage, place) in mapping("`stages`", value, &place, report) {
                        spec.stage(name, stage, place, report);
                    }
                }
                // Their content is in the rest already; what begins with `x-` is the user's: anchors, notes.
                "extends" | "profiles" | "defaults" => {}
                own if own.starts_with("x-") => {}
                _ => report.at(&place.key(), unknown(key, "the file", &TOP)),
            }
        }
        if let Some(Yaml::Mapping(stages)) = taken {
            let place = top.to("stages");
            spec.stages.reserve_exact(stages.len());
            for (key, stage) in stages {
                if let Some((name, place)) = entry(&key, &place, report) {
                    spec.stage(name, &stage, place, report);
                }
            }
        }
        if root.is_mapping() && !has_stages {
            report.at(&top, Mistake::MissingKey { key: "stages", within: "the file" });
        }
        spec.name = name_of(root, file);
        spec
    }

    fn stage(&mut self, name: Cow<'_, str>, stage: &Yaml, place: Place, report: &mut Report<'_>) {
        if report.is_full() {
            return;
        }
        if !is_name(&name) {
            report.at(&place.key(), Mistake::BadName { what: "a stage", name: name.to_string() });
        }
        self.stages.insert(name.into_owned(), StageSpec::read(stage, place, report));
    }
}

/// What a pipeline is called: its `name`, else its file's.
pub(crate) fn name_of(root: &Yaml, file: &Path) -> String {
    let name = root.get("name").and_then(Yaml::as_str).filter(|name| !name.is_empty());
    name.map_or_else(|| file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), str::to_owned)
}

impl StageSpec {
    fn read(value: &Yaml, place: Place, report: &mut Report<'_>) -> Self {
        let mut stage = Self {
            uses: None,
            with: Some(Map::new()),
            inputs: Vec::new(),
            files: Vec::new(),
            inputs_sound: true,
            over: Vec::new(),
            gather: Vec::new(),
            skip: Vec::new(),
            missing: None,
            resources: Resources::default(),
            attempts: Attempts::default(),
            sound: true,
            place,
        };
        let place = stage.place.clone();
        for (key, value, place) in mapping("a stage", value, &place, report) {
            let (problems, doubts) = (report.len(), report.doubts());
            match &*key {
                key if value.is_null() && key != "uses" && STAGE.contains(&key) => {}
                "uses" => stage.uses = text("`uses`", value, &place, report),
                "with" => stage.with = read_with(value, &place, report),
                "inputs" => {
                    // Thousands of stages have one or two.
                    stage.inputs.reserve_exact(value.as_mapping().map_or(0, serde_yaml::Mapping::len));
                    for (port, value, place) in mapping("`inputs`", value, &place, report) {
                        match Input::read(port.into_owned(), value, place, report) {
                            Some(Input::Link(link)) => stage.inputs.push(link),
                            Some(Input::Files(files)) => stage.files.push(files),
                            None => {}
                        }
                    }
                    stage.inputs_sound = report.len() == problems;
                }
                "over" => stage.over = names("`over`", "over", value, &place, report),
                "gather" => stage.gather = names("`gather`", "gather", value, &place, report),
                "skip" => stage.skip = read_skip(value, &place, report),
                "missing" => match value.as_str() {
                    Some("error") => stage.missing = Some(Missing::Error),
                    Some("drop") => stage.missing = Some(Missing::Drop),
                    _ => report.at(&place, wrong("`missing`", "`error` or `drop`", value)),
                },
                "resources" => stage.resources = read_resources(value, &place, report),
                "retries" => stage.attempts.read_retries(value, &place, report),
                "timeout" => stage.attempts.read_timeout(value, &place, report),
                _ => report.at(&place.key(), unknown(&*key, "a stage", &STAGE)),
            }
            // An axis that stands twice leaves no doubt.
            let shapes = matches!(&*key, "inputs" | "over" | "gather" | "skip");
            stage.sound &= !shapes || report.doubts() == doubts;
        }
        if !value.is_mapping() {
            (stage.with, stage.sound, stage.inputs_sound) = (None, false, false);
        } else if value.get("uses").is_none() {
            report.at(&place.key(), Mistake::MissingKey { key: "uses", within: "a stage" });
        }
        stage
    }
}

fn read_params(value: &Yaml, place: &Place, report: &mut Report<'_>) -> Json {
    mapping("`params`", value, place, report);
    let params = json(value, place, report).unwrap_or_default();
    no_templates(&params, place, report);
    params
}

fn read_axes(value: &Yaml, place: &Place, replaced: &HashMap<String, Replaced>, report: &mut Report<'_>) -> Vec<Axis> {
    let mut read = Vec::new();
    for (name, value, place) in mapping("`axes`", value, place, report) {
        if !is_name(&name) || name == "params" {
            report.at(&place.key(), Mistake::BadName { what: "an axis", name: name.to_string() });
        }
        let mut axis = Axis::read(&name, value, &place, report);
        if let Some(replaced) = replaced.get(&*name) {
            axis.declared = overrides::labels(&replaced.before);
            axis.replaced_by = replaced.by.clone();
        }
        for (i, label) in axis.labels.iter().enumerate() {
            let (place, value) = match &label.record {
                Some(record) => (place.to(i), Json::Object(record.clone())),
                None => (place.to(i), label.value.clone()),
            };
            no_templates(&value, &place, report);
        }
        read.push(axis);
    }
    read
}

fn read_with(value: &Yaml, place: &Place, report: &mut Report<'_>) -> Option<Map<String, Json>> {
    match value {
        Yaml::Mapping(_) => match json(value, place, report)? {
            Json::Object(fields) => Some(fields),
            _ => None,
        },
        other => {
            report.at(place, wrong("`with`", "a mapping", other));
            None
        }
    }
}

fn read_skip(value: &Yaml, place: &Place, report: &mut Report<'_>) -> Vec<Skip> {
    let mut skips = Vec::new();
    for (i, item) in list("`skip`", value, place, report).iter().enumerate() {
        let place = place.to(i);
        let mut matches = Vec::new();
        for (axis, labels, place) in mapping("an item of `skip`", item, &place, report) {
            let labels = match labels {
                Yaml::Sequence(items) => items.as_slice(),
                one => std::slice::from_ref(one),
            };
            let label = |value: &Yaml| match json(value, &place, report).as_ref().and_then(axes::canonical) {
                Some((text, _)) => Some(text),
                None => {
                    report.at(&place, Mistake::BadLabel { found: describe(value) });
                    None
                }
            };
            let labels = labels.iter().filter_map(label).collect();
            matches.push((axis.into_owned(), labels, place));
        }
        skips.push(Skip { place, matches });
    }
    skips
}

fn read_resources(value: &Yaml, place: &Place, report: &mut Report<'_>) -> Resources {
    let mut resources = Resources::default();
    for (key, value, place) in mapping("`resources`", value, place, report) {
        let whole = value.as_u64();
        match (&*key, whole) {
            ("cpus" | "gpus" | "memory", None) if value.is_null() => {}
            ("cpus", Some(cpus @ 1..)) => resources.cpus = usize::try_from(cpus).unwrap_or(usize::MAX),
            ("gpus", Some(gpus)) => resources.gpus = usize::try_from(gpus).unwrap_or(usize::MAX),
            ("memory", Some(mib)) => resources.memory_mib = mib,
            ("memory", None) => match value.as_str().map(|text| (text, mebibytes(text))) {
                Some((_, Some(mib))) => resources.memory_mib = mib,
                Some((memory, None)) => report.at(&place, Mistake::BadMemory { memory: memory.to_owned() }),
                None => report.at(&place, wrong("`memory`", "a text like `4GiB` or a number of MiB", value)),
            },
            ("cpus", _) => report.at(&place, wrong("`cpus`", "a whole number from 1", value)),
            ("gpus", _) => report.at(&place, wrong("`gpus`", "a whole number", value)),
            _ => report.at(&place.key(), unknown(key, "`resources`", &["cpus", "memory", "gpus"])),
        }
    }
    resources
}

/// `4GiB` in MiB, rounded up.
pub fn mebibytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let amount: f64 =
        text[..unit_at].trim().parse().ok().filter(|amount: &f64| amount.is_finite() && *amount >= 0.0)?;
    let bytes = match &text[unit_at..] {
        "MiB" => (1u64 << 20) as f64,
        "GiB" => (1u64 << 30) as f64,
        "TiB" => (1u64 << 40) as f64,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return None,
    };
    Some((amount * bytes / f64::from(1 << 20)).ceil() as u64)
}

/// Letters, digits, `_` and `-`, starting with a letter or `_`.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

pub(crate) fn unknown(key: impl Into<String>, within: &'static str, known: &[&str]) -> Mistake {
    Mistake::UnknownKey { key: key.into(), within, known: known.iter().map(|key| (*key).to_owned()).collect() }
}

pub(crate) fn wrong(what: &str, expected: &'static str, found: &Yaml) -> Mistake {
    Mistake::WrongType { what: what.to_owned(), expected, found: describe(found) }
}

/// Keys, values and their places; empty, with a problem, if it is no mapping.
pub(crate) fn mapping<'y>(
    what: &str,
    value: &'y Yaml,
    place: &Place,
    report: &mut Report<'_>,
) -> Vec<(Cow<'y, str>, &'y Yaml, Place)> {
    let Yaml::Mapping(map) = value else {
        report.at(place, wrong(what, "a mapping", value));
        return Vec::new();
    };
    map.iter().filter_map(|(key, value)| entry(key, place, report).map(|(key, place)| (key, value, place))).collect()
}

/// A key, and the place of its value in the mapping at `place`.
fn entry<'y>(key: &'y Yaml, place: &Place, report: &mut Report<'_>) -> Option<(Cow<'y, str>, Place)> {
    let text = key_str(key);
    if text.is_none() {
        report.at(place, Mistake::NotData { found: format!("{} as a key", describe(key)) });
    }
    text.map(|text| {
        let place = place.to(&*text);
        (text, place)
    })
}

fn list<'y>(what: &str, value: &'y Yaml, place: &Place, report: &mut Report<'_>) -> &'y [Yaml] {
    match value {
        Yaml::Sequence(items) => items,
        other => {
            report.at(place, wrong(what, "a list", other));
            &[]
        }
    }
}

fn text(what: &str, value: &Yaml, place: &Place, report: &mut Report<'_>) -> Option<String> {
    let found = value.as_str().map(str::to_owned);
    if found.is_none() {
        report.at(place, wrong(what, "a text", value));
    }
    found
}

/// A list of axes, each once.
fn names(
    what: &str,
    list_name: &'static str,
    value: &Yaml,
    place: &Place,
    report: &mut Report<'_>,
) -> Vec<(String, Place)> {
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    for (i, item) in list(what, value, place, report).iter().enumerate() {
        let place = place.to(i);
        let Some(axis) = text(&format!("an item of {what}"), item, &place, report) else { continue };
        if !seen.insert(axis.clone()) {
            report.at(&place, Mistake::AxisTwice { axis, list: list_name });
        } else {
            names.push((axis, place));
        }
    }
    names
}
