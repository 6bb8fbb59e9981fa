//! What is said of each mistake beside its sentence: a few words for the marked place, and what to do.

use crate::mistake::Mistake;

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
            WhichOutput { .. } => "one of several",
            BadLink { .. } => "not an input",
            InputFiles { .. } | FilesAtPort { .. } => "these files",
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
            SetUnknown { .. } | SetPath { .. } | SetIndex { .. } | SetNotA { .. } => "here",
            NamedUnreadable { .. } => "can't be read",
            ExtendsCycle { .. } => "part of the circle",
            TooManyFiles { .. } => "too many",
            UnknownProfile { .. } => "no such profile",
            ProfileUnknown { .. } => "nothing to overlay",
            DefaultsForAll { .. } => "not for a pattern",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        use Mistake::*;
        let text = match self {
            Unreadable { .. } | TooMany | More { .. } => return None,
            TableToOne { .. } => "fix a coordinate, like `stage[axis=label]`, or drop the `gather`",
            BadLink { .. } => {
                "write `stage`, `stage.output`, `stage[axis=label]`, `{ from: stage, gather: [axis] }`, or `./path` for files"
            }
            TooLarge => "put large lists into a file of their own, and give its path",
            NotUtf8 => "save it as UTF-8",
            Empty => "start with `name:` and `stages:`",
            SeveralDocuments => "remove the `---` and what follows, or make it a file of its own",
            Tab => "use spaces",
            Syntax { message } if message.contains("unknown anchor") => {
                "an anchor stands before what refers to it: `x-base: &base { ... }`; a text that begins with `*` or `&` is quoted"
            }
            Syntax { message } if message.contains("invalid type: integer") => {
                "so large a number is written as a text: in quotes"
            }
            Syntax { .. } => "check the indentation, and quote texts that hold `: `, `#`, `{` or `[`",
            TooDeep => "check for brackets that are not closed",
            SelfAlias => "write the value out",
            DuplicateKey { .. } => "remove or rename one",
            UnknownKey { key, within: "a stage", .. } if COMMAND.contains(&key.as_str()) => {
                return Some(format!("what a kind takes stands under `with`: `with: {{ {key}: ... }}`"));
            }
            UnknownKey { key, known, .. } => return suggestion(key, known),
            MissingKey { key, .. } => return Some(format!("add `{key}: ...`")),
            WrongType { expected: "a list", .. } => "put it in brackets: `[...]`",
            WrongType { .. } | ParamType { .. } | EmptyPath { .. } => return None,
            NotData { .. } => "only null, booleans, numbers, texts, lists and mappings are data",
            BadName { .. } => "use letters, digits, `_` and `-`, starting with a letter; `params` is taken",
            BadMemory { .. } => "write `4GiB`, `512MiB`, or a number of MiB",
            UnknownKind { kind, known } => return suggestion(kind, known),
            UnknownParam { field, .. } if BESIDE.contains(&field.as_str()) => {
                return Some(format!("`{field}` stands beside `with`, not in it"));
            }
            UnknownParam { field, known, .. } => return suggestion(field, known),
            MissingParam { about, .. } => return about.clone(),
            Param { hint, .. } => return hint.clone(),
            NoSuchPath { looked, .. } => return Some(format!("looked for {looked}")),
            UnclosedTemplate => "add `}`, or write `$${` for a literal `${`",
            UnknownName { name, .. } if is_variable(name) => {
                return Some(format!("for a variable of the shell write `${name}`, or `$${{{name}}}`"));
            }
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
            InputFiles { hint, .. } => return hint.clone(),
            WhichOutput { known, .. } => return choice(known).map(|choice| format!("one of {choice}")),
            FilesAtPort { .. } => "link a stage that gives it; a `command` can make it of files",
            UnknownStage { file: Some(file), .. } => {
                return Some(format!("for the file of that name write `./{file}`"));
            }
            UnknownStage { name, .. } if name.contains('/') => "a path begins with `./`, `../` or `/`",
            UnknownStage { name, known, .. } => return suggestion(name, known),
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
            LabelLeftOut { .. } => "keep it there, or leave out what needs it",
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
            SetUnknown { path, known } => {
                return suggestion(path, known).or_else(|| Some("only what the file declares can be set".to_owned()));
            }
            SetPath { .. } => {
                "`params.NAME`, `axes.NAME`, `stages.NAME.with.NAME` and other keys of stages and `defaults` can be set"
            }
            SetIndex { .. } => "set the whole list instead: `NAME=[...]`",
            SetNotA { expected: "a list", .. } => "an index in brackets is for lists; a name after a dot for mappings",
            SetNotA { .. } => "a name after a dot is for mappings; an index in brackets for lists",
            NamedUnreadable { looked, .. } => {
                return Some(format!("looked for {looked}; paths are relative to the file that names them"));
            }
            ExtendsCycle { .. } => "drop one `extends`",
            TooManyFiles { .. } => "put what they share into fewer files",
            UnknownProfile { known, .. } if known.is_empty() => "declare it under `profiles:`",
            UnknownProfile { profile, known } => return suggestion(profile, known),
            ProfileUnknown { name, known, .. } => return suggestion(name, known),
            DefaultsForAll { .. } => "name the kind, or give `resources`, `retries` and `timeout` alone",
        };
        Some(text.to_owned())
    }
}

/// Params of `command` that people write beside `with`.
const COMMAND: [&str; 7] = ["run", "outputs", "env", "workdir", "tools", "network", "sandbox"];
/// Keys of a stage that people write into `with`.
const BESIDE: [&str; 7] = ["inputs", "over", "gather", "skip", "missing", "resources", "retries"];

/// Whether it looks like an environment variable.
fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// "did you mean", or what there is to choose from.
pub(crate) fn suggestion(name: &str, known: &[String]) -> Option<String> {
    let distance = |other: &String| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    let length = name.chars().count();
    // Long garbage is like nothing, and comparing it would take time.
    let close = known.iter().filter(|_| name.len() < 80).map(|other| (distance(other), other)).min();
    match close {
        // Of `8` nothing is left in `2`.
        Some((distance, other)) if distance <= (length.max(3) / 3).min(length.saturating_sub(1)) => {
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
