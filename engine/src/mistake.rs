//! Each mistake that a pipeline's file can hold, and the only place that words them.

mod words;

pub(crate) use words::suggestion;

use crate::yaml::{MAX_BYTES, MAX_DEPTH, MAX_VALUES};

/// What is wrong, with its data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's sentence says what it and its fields are")]
pub enum Mistake {
    // The file.
    #[error("the file can't be read: {error}")]
    Unreadable { error: String },
    #[error("`{name}` can't be read: {error}")]
    NamedUnreadable { name: String, error: String, looked: String },
    #[error("files extend each other in a circle: {}", files.join(" -> "))]
    ExtendsCycle { files: Vec<String> },
    #[error("more than {limit} files make up this pipeline")]
    TooManyFiles { limit: usize },
    #[error("the file is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    #[error("the file is not UTF-8 text")]
    NotUtf8,
    #[error("the file is empty")]
    Empty,
    #[error("the file holds more than one YAML document")]
    SeveralDocuments,
    #[error("a tab is used for indentation, which YAML forbids")]
    Tab,
    #[error("not valid YAML: {message}")]
    Syntax { message: String },
    #[error("values are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    #[error("the file holds more than {MAX_VALUES} values, counting what aliases repeat")]
    TooMany,
    #[error("these are the first {told} problems; there may be more")]
    More { told: usize },
    #[error("an anchor contains itself")]
    SelfAlias,
    #[error("the key `{key}` stands twice; first on line {first_line}")]
    DuplicateKey { key: String, first_line: usize },

    // Its values.
    #[error("unknown key `{key}` in {within}")]
    UnknownKey { key: String, within: &'static str, known: Vec<String> },
    #[error("`{key}` is missing in {within}")]
    MissingKey { key: &'static str, within: &'static str },
    #[error("{what} must be {expected}, not {found}")]
    WrongType { what: String, expected: &'static str, found: String },
    #[error("{found} can't be used here")]
    NotData { found: String },
    #[error("`{name}` can't be the name of {what}")]
    BadName { what: &'static str, name: String },
    #[error("`{memory}` is not an amount of memory")]
    BadMemory { memory: String },

    // Kinds and their params.
    #[error("unknown kind `{kind}`")]
    UnknownKind { kind: String, known: Vec<String> },
    #[error("`{kind}` has no param `{field}`")]
    UnknownParam { kind: String, field: String, known: Vec<String> },
    #[error("`{kind}` needs the param `{field}`")]
    MissingParam { kind: String, field: String, about: Option<String> },
    #[error("`{field}` must be {expected}, not {found}{at}")]
    ParamType { field: String, expected: String, found: String, at: String },
    #[error("`{field}`: {message}{at}")]
    Param { field: String, message: String, hint: Option<String>, at: String },
    #[error("`{path}` does not exist{at}")]
    NoSuchPath { path: String, looked: String, at: String },
    #[error("the path `{field}` is empty{at}")]
    EmptyPath { field: String, at: String },

    // Templates.
    #[error("`${{` is not closed")]
    UnclosedTemplate,
    #[error("`${{{name}}}` names nothing")]
    UnknownName { name: String, known: Vec<String> },
    #[error("`${{{name}}}`: records of `{axis}` have no field `{field}`")]
    UnknownField { name: String, axis: String, field: String, known: Vec<String> },
    #[error("`${{{name}}}` is {found}, which can't stand inside a text")]
    NotText { name: String, found: &'static str },
    #[error("`${{{axis}}}` can't be used: this stage gathers `{axis}`")]
    GatheredAxis { axis: String },
    #[error("`${{{axis}}}` can't be used: this stage has no axis `{axis}`")]
    AxisNotHere { axis: String },
    #[error("`${{...}}` is only resolved in `with` and in paths of `inputs`")]
    TemplateHere,

    // Links.
    #[error("`{kind}` has no input `{port}`")]
    UnknownPort { kind: String, port: String, known: Vec<String> },
    #[error("nothing is linked to the input `{port}` of `{kind}`")]
    UnlinkedPort { kind: String, port: String, accepts: String, givers: Vec<String> },
    #[error("unknown stage `{name}`")]
    UnknownStage { name: String, known: Vec<String>, file: Option<String> },
    #[error("`{stage}` has several outputs: say which")]
    WhichOutput { stage: String, known: Vec<String> },
    #[error("`{stage}` has no output `{output}`")]
    UnknownOutput { stage: String, output: String, known: Vec<String> },
    #[error("the input `{port}`: {message}")]
    InputFiles { port: String, message: String, hint: Option<String> },
    #[error("the input `{port}` takes {accepts}, not files")]
    FilesAtPort { port: String, accepts: String },
    #[error("`{text}` is not an input: {reason}")]
    BadLink { text: String, reason: String },
    #[error("the input `{port}` takes {accepts}, but `{link}` gives {gives}")]
    PortType { port: String, accepts: String, link: String, gives: String, givers: Vec<String> },
    #[error("the input `{port}` takes one result, but `{link}` comes as a table along `{axes}`")]
    TableToOne { port: String, link: String, axes: String },
    #[error("stages depend on each other in a circle: {}", stages.join(" -> "))]
    Cycle { stages: Vec<String> },

    // Axes.
    #[error("unknown axis `{axis}`")]
    UnknownAxis { axis: String, known: Vec<String> },
    #[error("the axis `{axis}` is empty")]
    EmptyAxis { axis: String },
    #[error("the label `{label}` stands twice in the axis `{axis}`")]
    DuplicateLabel { axis: String, label: String },
    #[error("the axis `{axis}` has both the number and the text `{label}`")]
    LabelClash { axis: String, label: String },
    #[error("{found} can't be a label")]
    BadLabel { found: String },
    #[error("the axis `{axis}` mixes records and plain labels")]
    MixedAxis { axis: String },
    #[error("this record of the axis `{axis}` has no `name`")]
    RecordName { axis: String },
    #[error("records of the axis `{axis}` differ in their fields: {difference}")]
    RecordFields { axis: String, difference: String },
    #[error("the axis `{axis}` has no label `{label}`")]
    UnknownLabel { axis: String, label: String, known: Vec<String> },
    #[error("the label `{label}` of the axis `{axis}` was left out by {by}")]
    LabelLeftOut { axis: String, label: String, by: String },
    #[error("`{axis}` stands twice in `{list}`")]
    AxisTwice { axis: String, list: &'static str },
    #[error("`over: {axis}`, but the input `{port}` already brings `{axis}`")]
    OverInherited { axis: String, port: String },
    #[error("`{link}` has no axis `{axis}`")]
    NoAxisThere { link: String, axis: String, known: Vec<String> },
    #[error("`gather: {axis}`, but no input brings `{axis}`")]
    GatherNothing { axis: String, known: Vec<String> },
    #[error("`{axis}` is gathered by the input `{port}` and by the stage")]
    GatheredTwice { axis: String, port: String },
    #[error("`missing` says something about a `gather`, and there is none here")]
    MissingWithoutGather,
    #[error("`skip` names the axis `{axis}`, which `{stage}` doesn't have")]
    SkipAxis { stage: String, axis: String, gathered: bool, known: Vec<String> },
    #[error("this `skip` matches no point of `{stage}`")]
    SkipNothing { stage: String },
    #[error("no point of `{stage}` is left")]
    NoPoints { stage: String },
    #[error("`{stage}` has {points} points, more than {limit}")]
    TooManyPoints { stage: String, points: u128, limit: usize },
    #[error("the axis `{axis}` is introduced here, but nothing in `with` uses it")]
    AxisUnused { axis: String },
    #[error("the axis `{axis}` changes nothing: `with` comes out the same for each of its labels")]
    AxisWithoutEffect { axis: String },
    #[error("`{stage}` would bring the pipeline to {instances} instances, more than {limit}")]
    TooManyInstances { stage: String, instances: usize, limit: usize },
    #[error("the tables of `{stage}` would have {rows} rows, more than {limit}")]
    TooManyRows { stage: String, rows: u128, limit: usize },
    #[error("the table at the input `{port}` of `{stage}` lacks {points}")]
    MissingPoints { port: String, stage: String, points: String },

    // Overrides.
    #[error("nothing is called `{path}`")]
    SetUnknown { path: String, known: Vec<String> },
    #[error("`{path}` can't be set")]
    SetPath { path: String },
    #[error("`{path}` has {}, not [{index}]", indices(*length))]
    SetIndex { path: String, index: usize, length: usize },
    #[error("`{path}` is {found}, not {expected}")]
    SetNotA { path: String, expected: &'static str, found: String },

    // Profiles and defaults.
    #[error("there is no profile `{profile}`")]
    UnknownProfile { profile: String, known: Vec<String> },
    #[error("the profile names the {what} `{name}`, which the pipeline doesn't have")]
    ProfileUnknown { what: &'static str, name: String, known: Vec<String> },
    #[error("`with` can't have defaults for all of `{pattern}`: kinds differ in their params")]
    DefaultsForAll { pattern: String },
}

fn indices(length: usize) -> String {
    match length {
        0 => "no items".to_owned(),
        1 => "one item, [0]".to_owned(),
        length => format!("{length} items, [0] to [{}]", length - 1),
    }
}
