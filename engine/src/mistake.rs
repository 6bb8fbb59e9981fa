//! Each mistake that a pipeline's file can hold, and the only place that words them.

use crate::yaml::{MAX_BYTES, MAX_DEPTH, MAX_VALUES};

/// What is wrong, with its data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's sentence says what it and its fields are")]
pub enum Mistake {
    // The file.
    #[error("the file can't be read: {error}")]
    Unreadable { error: String },
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
    #[error("`${{...}}` is only resolved in `with`")]
    TemplateHere,

    // Links.
    #[error("`{kind}` has no input `{port}`")]
    UnknownPort { kind: String, port: String, known: Vec<String> },
    #[error("nothing is linked to the input `{port}` of `{kind}`")]
    UnlinkedPort { kind: String, port: String, accepts: String, givers: Vec<String> },
    #[error("unknown stage `{name}`")]
    UnknownStage { name: String, known: Vec<String> },
    #[error("`{stage}` has no output `{output}`")]
    UnknownOutput { stage: String, output: String, known: Vec<String> },
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
    #[error("the label `{label}` of the axis `{axis}` was left out by `--set`")]
    LabelLeftOut { axis: String, label: String },
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
}

impl Mistake {
    /// A few words for the marked place.
    pub fn label(&self) -> &'static str {
        use Mistake::*;
        match self {
            Unreadable { .. } | TooLarge | Empty => "this file",
            NotUtf8 => "these bytes",
            SeveralDocuments => "second document",
            Tab => "a tab",
            Syntax { .. } => "here",
            TooDeep | TooMany => "too much from here",
            More { .. } => "this file",
            SelfAlias => "inside its own anchor",
            DuplicateKey { .. } => "second time",
            UnknownKey { .. } | UnknownParam { .. } => "not known",
            MissingKey { .. } | MissingParam { .. } => "lacks it",
            WrongType { .. } | ParamType { .. } => "wrong type",
            NotData { .. } | BadName { .. } | BadMemory { .. } | BadLabel { .. } => "not allowed",
            UnknownKind { .. } => "no such kind",
            Param { .. } => "here",
            NoSuchPath { .. } => "no such file or folder",
            EmptyPath { .. } => "empty",
            UnclosedTemplate => "no closing brace",
            UnknownName { .. } => "no such name",
            UnknownField { .. } => "no such field",
            NotText { .. } => "not a single value",
            GatheredAxis { .. } => "gathered",
            AxisNotHere { .. } => "not an axis of this stage",
            TemplateHere => "stays as it is",
            UnknownPort { .. } => "no such input",
            UnlinkedPort { .. } => "lacks an input",
            UnknownStage { .. } => "no such stage",
            UnknownOutput { .. } => "no such output",
            BadLink { .. } => "not an input",
            PortType { .. } => "wrong type",
            TableToOne { .. } => "a table",
            Cycle { .. } => "part of the circle",
            UnknownAxis { .. } | NoAxisThere { .. } | SkipAxis { .. } => "no such axis",
            EmptyAxis { .. } => "empty",
            DuplicateLabel { .. } => "second time",
            LabelClash { .. } => "the same label",
            MixedAxis { .. } => "differs from the first",
            RecordName { .. } => "no `name`",
            RecordFields { .. } => "other fields than the first",
            UnknownLabel { .. } => "no such label",
            LabelLeftOut { .. } => "left out",
            AxisTwice { .. } => "second time",
            OverInherited { .. } => "already there",
            GatherNothing { .. } => "nothing to gather",
            GatheredTwice { .. } => "gathered twice",
            MissingWithoutGather => "without `gather`",
            SkipNothing { .. } => "matches nothing",
            NoPoints { .. } => "no instances",
            TooManyPoints { .. } | TooManyInstances { .. } | TooManyRows { .. } => "too many",
            AxisUnused { .. } => "not used",
            AxisWithoutEffect { .. } => "without effect",
            MissingPoints { .. } => "points are missing",
            SetUnknown { .. } | SetPath { .. } => "here",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        use Mistake::*;
        let text = match self {
            Unreadable { .. } | TooMany | More { .. } => return None,
            TableToOne { .. } => "fix a coordinate, like `stage[axis=label]`, or drop the `gather`",
            BadLink { .. } => "write `stage`, `stage.output`, `stage[axis=label]` or `{ from: stage, gather: [axis] }`",
            TooLarge => "put large lists into a file of their own, and give its path",
            NotUtf8 => "save it as UTF-8",
            Empty => "start with `name:` and `stages:`",
            SeveralDocuments => "remove the `---` and what follows, or make it a file of its own",
            Tab => "use spaces",
            Syntax { .. } => "check the indentation, and quote texts that hold `: `, `#`, `{` or `[`",
            TooDeep => "check for brackets that are not closed",
            SelfAlias => "write the value out",
            DuplicateKey { .. } => "remove or rename one",
            UnknownKey { key, known, .. } => return suggestion(key, known),
            MissingKey { key, .. } => return Some(format!("add `{key}: ...`")),
            WrongType { expected: "a list", .. } => "put it in brackets: `[...]`",
            WrongType { .. } | ParamType { .. } | EmptyPath { .. } => return None,
            NotData { .. } => "only null, booleans, numbers, texts, lists and mappings are data",
            BadName { .. } => "use letters, digits, `_` and `-`, starting with a letter; `params` is taken",
            BadMemory { .. } => "write `4GiB`, `512MiB`, or a number of MiB",
            UnknownKind { kind, known } => return suggestion(kind, known),
            UnknownParam { field, known, .. } => return suggestion(field, known),
            MissingParam { about, .. } => return about.clone(),
            Param { hint, .. } => return hint.clone(),
            NoSuchPath { looked, .. } => return Some(format!("looked for {looked}")),
            UnclosedTemplate => "add `}`, or write `$${` for a literal `${`",
            UnknownName { name, known } => return suggestion(name, known),
            UnknownField { field, known, .. } => return suggestion(field, known),
            NotText { .. } => "use it alone, as the whole value",
            GatheredAxis { .. } => "use what stays after the `gather`, or gather it only at an input",
            AxisNotHere { axis } => return Some(format!("introduce it: `over: [{axis}]`")),
            TemplateHere => "write the value here, or `$${` for a literal `${`",
            UnknownPort { port, known, .. } => return suggestion(port, known),
            UnlinkedPort { accepts, givers, .. } | PortType { accepts, givers, .. } => {
                return Some(match choice(givers) {
                    Some(choice) => format!("{accepts} comes from {choice}"),
                    None => format!("no stage of this file gives {accepts}"),
                });
            }
            UnknownStage { name, known } => return suggestion(name, known),
            UnknownOutput { output, known, .. } => return suggestion(output, known),
            Cycle { .. } => "cut one of these links",
            UnknownAxis { axis, known } => return suggestion(axis, known),
            EmptyAxis { .. } => "give it at least one label",
            DuplicateLabel { .. } => "labels are compared by value: `5e-5` is `0.00005`, and `1.0` is `1`",
            LabelClash { .. } => "keep one of them",
            BadLabel { .. } => "labels are numbers, texts or booleans, or records with a `name`",
            MixedAxis { .. } => "make all of them records with a `name`, or none",
            RecordName { .. } => "add `name: ...`, its label",
            RecordFields { .. } => "give each record the same fields",
            UnknownLabel { label, known, .. } => return suggestion(label, known),
            LabelLeftOut { .. } => "keep it in the `--set`, or leave out what needs it",
            AxisTwice { .. } => "drop one",
            OverInherited { .. } => "drop it from `over`",
            NoAxisThere { axis, known, .. } | GatherNothing { axis, known } => return suggestion(axis, known),
            GatheredTwice { .. } => "gather it in one place",
            MissingWithoutGather => "drop it",
            SkipAxis { gathered: true, .. } => "it is gathered: choose at the input instead, `stage[axis=[...]]`",
            SkipAxis { axis, known, .. } => return suggestion(axis, known),
            SkipNothing { .. } => "drop it, or fix its labels",
            NoPoints { .. } => "check `skip`, and what its inputs skip or fix",
            TooManyPoints { .. } | TooManyInstances { .. } | TooManyRows { .. } => {
                "shorten an axis, or `gather` earlier"
            }
            AxisUnused { axis } => return Some(format!("use `${{{axis}}}` in `with`, or drop it from `over`")),
            AxisWithoutEffect { axis } => {
                return Some(format!("drop `{axis}` from `over`: its points would be one result, told several times"));
            }
            MissingPoints { .. } => "`missing: drop` leaves them out, and what comes out tells so",
            SetUnknown { path, known } => return suggestion(path, known),
            SetPath { .. } => "`params.NAME`, `axes.NAME` and `stages.NAME.with.NAME` can be set",
        };
        Some(text.to_owned())
    }
}

/// "did you mean", or what there is to choose from.
pub(crate) fn suggestion(name: &str, known: &[String]) -> Option<String> {
    let distance = |other: &String| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    // Long garbage is like nothing, and comparing it would take time.
    let close = known.iter().filter(|_| name.len() < 80).map(|other| (distance(other), other)).min();
    match close {
        Some((distance, other)) if distance <= name.chars().count().max(3) / 3 => {
            Some(format!("did you mean `{other}`?"))
        }
        _ => choice(known).map(|choice| format!("known: {choice}")),
    }
}

/// The first few of `known`; `None` if there are none.
fn choice(known: &[String]) -> Option<String> {
    let shown: Vec<_> = known.iter().take(12).map(|other| format!("`{other}`")).collect();
    let more = if known.len() > 12 { ", ..." } else { "" };
    (!known.is_empty()).then(|| format!("{}{more}", shown.join(", ")))
}
