//! `with` against its kind: unknown and missing params, types, paths, and the canonical form, for each point.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use crate::{
    axes::Axis,
    data::shortened,
    files::FileSet,
    mistake::Mistake,
    problem::Report,
    source::Place,
    stage::{PATH_FORMAT, ParamProblem, StageKind},
    template::{Origin, Template},
};

/// What a kind's JSON Schema says of `with`; read once per kind.
pub(crate) struct Schema {
    fields: BTreeMap<String, Field>,
    required: Vec<String>,
    /// Takes fields of any name.
    open: bool,
}

struct Field {
    /// JSON types that it may have; `None` if the schema doesn't say.
    types: Option<Vec<String>>,
    /// In words.
    expected: String,
    about: Option<String>,
    path: Option<PathShape>,
}

#[derive(Clone, Copy, PartialEq)]
enum PathShape {
    One,
    List,
}

impl Schema {
    /// Whether there is a field of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    pub(crate) fn of(kind: &dyn StageKind) -> Self {
        let root = kind.schema();
        let properties = root.get("properties").and_then(Value::as_object);
        let field = |schema: &Value| Field {
            types: types(schema, &root, DEPTH),
            expected: expected(schema, &root, DEPTH),
            about: schema.get("description").and_then(Value::as_str).map(|text| text.replace('\n', " ")),
            path: path_shape(schema, &root),
        };
        let required = root.get("required").and_then(Value::as_array).into_iter().flatten();
        Self {
            fields: properties.into_iter().flatten().map(|(name, schema)| (name.clone(), field(schema))).collect(),
            required: required.filter_map(Value::as_str).map(str::to_owned).collect(),
            open: matches!(root.get("additionalProperties"), Some(Value::Bool(true) | Value::Object(_)))
                || root.get("oneOf").or(root.get("anyOf")).is_some(),
        }
    }

    /// Tells of params that are not known or missing; whether there were none.
    pub(crate) fn check_names(
        &self,
        kind: &str,
        with: &Map<String, Value>,
        place: &Place,
        report: &mut Report<'_>,
    ) -> bool {
        let problems = report.len();
        self.check_known(kind, with.keys().map(String::as_str), place, report);
        for field in self.required.iter().filter(|field| !with.contains_key(*field)) {
            let about = self.fields.get(field).and_then(|field| field.about.clone());
            report.at(&place.key(), Mistake::MissingParam { kind: kind.to_owned(), field: field.clone(), about });
        }
        report.len() == problems
    }
}

impl Schema {
    /// Tells of params that are not known.
    pub(crate) fn check_known<'g>(
        &self,
        kind: &str,
        given: impl Iterator<Item = &'g str> + Clone,
        place: &Place,
        report: &mut Report<'_>,
    ) {
        if self.open {
            return;
        }
        for field in given.clone().filter(|field| !self.fields.contains_key(*field)) {
            let free = |known: &&String| given.clone().all(|given| given != known.as_str());
            let known = self.fields.keys().filter(free).cloned().collect();
            let mistake = Mistake::UnknownParam { kind: kind.to_owned(), field: field.to_owned(), known };
            report.at(&place.to(field).key(), mistake);
        }
    }
}

fn resolved<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

fn branches(schema: &Value) -> Option<&Vec<Value>> {
    ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)).and_then(Value::as_array)
}

/// How far branches of branches are followed: a schema may hold itself.
const DEPTH: usize = 4;

fn types(schema: &Value, root: &Value, depth: usize) -> Option<Vec<String>> {
    let schema = resolved(schema, root);
    let name = |value: &Value| value.as_str().map(str::to_owned);
    match schema.get("type") {
        Some(Value::String(one)) => Some(vec![one.clone()]),
        Some(Value::Array(several)) => several.iter().map(name).collect(),
        _ => match (branches(schema), schema.get("const")) {
            (Some(branches), _) => {
                let of = |branch| depth.checked_sub(1).and_then(|depth| types(branch, root, depth));
                branches.iter().map(of).collect::<Option<Vec<_>>>().map(|types| types.concat())
            }
            (None, Some(value)) => Some(vec![type_name(value).to_owned()]),
            (None, None) => None,
        },
    }
}

fn expected(schema: &Value, root: &Value, depth: usize) -> String {
    let schema = resolved(schema, root);
    let quoted = |value: &Value| format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let words: Vec<String> = if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        values.iter().filter(|value| !value.is_null()).map(quoted).collect()
    } else if let Some(value) = schema.get("const") {
        vec![quoted(value)]
    } else if let Some(branches) = branches(schema) {
        let of = |branch| depth.checked_sub(1).map(|depth| expected(branch, root, depth)).unwrap_or_default();
        branches.iter().map(of).filter(|text| !text.is_empty()).collect()
    } else {
        let types = types(schema, root, DEPTH).unwrap_or_default();
        types.iter().filter(|name| *name != "null").map(|name| type_words(name).to_owned()).collect()
    };
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// What is expected of the value at `path`; empty where the schema doesn't say.
fn expected_at(root: &Value, path: &[String]) -> String {
    let mut schema = root;
    for part in path {
        schema = resolved(schema, root);
        let field = schema.get("properties").and_then(|fields| fields.get(part));
        match field.or(schema.get("additionalProperties")).or(schema.get("items")) {
            Some(next) => schema = next,
            None => return String::new(),
        }
    }
    expected(schema, root, DEPTH)
}

fn path_shape(schema: &Value, root: &Value) -> Option<PathShape> {
    let schema = resolved(schema, root);
    if schema.get("format").and_then(Value::as_str) == Some(PATH_FORMAT) {
        return Some(PathShape::One);
    }
    if let Some(items) = schema.get("items") {
        let item = resolved(items, root).get("format").and_then(Value::as_str);
        return (item == Some(PATH_FORMAT)).then_some(PathShape::List);
    }
    let is_null = |branch: &&Value| branch.get("type").and_then(Value::as_str) == Some("null");
    match branches(schema)?.iter().filter(|branch| !is_null(branch)).collect::<Vec<_>>().as_slice() {
        [one] if branches(one).is_none() => path_shape(one, root),
        _ => None,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_words(name: &str) -> &'static str {
    match name {
        "boolean" => "`true` or `false`",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        "object" => "a mapping",
        _ => "null",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
        Value::String(text) => format!("the text `{}`", shortened(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// Folders that paths are relative to, and what was found there.
pub(crate) struct Folders<'a> {
    /// By number of the file.
    pub(crate) files: Vec<&'a Path>,
    pub(crate) command: &'a Path,
    pub(crate) exists: HashMap<PathBuf, bool>,
}

impl Folders<'_> {
    /// The folder that paths in `template` are relative to.
    pub(crate) fn of(&self, template: &Template, at: &[usize]) -> &Path {
        match template.origin(Some(0), at) {
            Origin::Command => self.command,
            Origin::File(file) => self.files[file],
        }
    }
}

/// The `with` of one stage, ready to be filled in.
pub(crate) struct With<'a> {
    pub(crate) kind: &'a Arc<dyn StageKind>,
    pub(crate) schema: &'a Schema,
    pub(crate) axes: &'a [Axis],
    pub(crate) fields: Vec<(String, Template)>,
    pub(crate) place: Place,
    /// The input ports that are linked, or get files.
    pub(crate) linked: Vec<&'a str>,
    /// No name is unknown or missing, so that the kind can decode it.
    pub(crate) complete: bool,
    /// Places that a problem was told of: each is told of once, not once per point.
    pub(crate) told: HashSet<Place>,
}

/// `with` at one point.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filled {
    pub(crate) params: BTreeMap<String, Value>,
    pub(crate) paths: BTreeMap<String, PathBuf>,
    /// Files at input ports.
    pub(crate) files: BTreeMap<String, FileSet>,
}

/// What of `params` a key holds: all but `unkeyed`, of which `a.b` names a field of the field `a`.
pub(crate) fn keyed<'p>(
    params: &'p BTreeMap<String, Value>,
    unkeyed: &'p [&str],
) -> impl Iterator<Item = (&'p str, Cow<'p, Value>)> {
    let nested: Vec<(&str, &str)> = unkeyed.iter().filter_map(|name| name.split_once('.')).collect();
    params.iter().filter(|(name, _)| !unkeyed.contains(&name.as_str())).map(move |(name, value)| {
        let Some(fields) = value.as_object().filter(|_| nested.iter().any(|(field, _)| field == name)) else {
            return (name.as_str(), Cow::Borrowed(value));
        };
        let inner = |key: &String| nested.iter().any(|(field, inner)| field == name && inner == key);
        let kept = fields.iter().filter(|(key, _)| !inner(key));
        let kept = kept.map(|(key, value)| (key.clone(), value.clone()));
        (name.as_str(), Cow::Owned(Value::Object(kept.collect())))
    })
}

impl Filled {
    /// Whether both make one key: params that can't change bytes are in none.
    pub(crate) fn same_key(&self, other: &Self, unkeyed: &[&str]) -> bool {
        self.paths == other.paths
            && self.files == other.files
            && (self.params == other.params || keyed(&self.params, unkeyed).eq(keyed(&other.params, unkeyed)))
    }
}

impl With<'_> {
    /// Axes that the templates use.
    pub(crate) fn used_axes(&self) -> BTreeSet<usize> {
        let mut used = BTreeSet::new();
        self.fields.iter().for_each(|(_, template)| template.axes(&mut used));
        used
    }

    /// Fills it in at the point `at`; `None` where something is wrong with it.
    pub(crate) fn fill(&mut self, at: &[usize], folders: &mut Folders<'_>, report: &mut Report<'_>) -> Option<Filled> {
        let mut values: Map<String, Value> =
            self.fields.iter().map(|(name, template)| (name.clone(), template.fill(at))).collect();
        let mut sound = self.complete;
        for (name, field) in &self.schema.fields {
            let Some(value) = values.get(name) else { continue };
            let found = type_name(value);
            let fits = |name: &String| name == found || (name == "number" && found == "integer");
            if field.types.as_ref().is_some_and(|types| !types.iter().any(fits)) {
                let (expected, found) = (field.expected.clone(), describe(value));
                let mistake = Mistake::ParamType { field: name.clone(), expected, found, at: self.at(name, at) };
                self.tell(self.place.to(name), mistake, report);
                sound = false;
            }
        }
        let mut paths = BTreeMap::new();
        let schema = self.schema;
        for (name, shape) in schema.fields.iter().filter_map(|(name, field)| Some((name, field.path?))) {
            if let Some(value) = values.get_mut(name) {
                sound &= self.take_paths(name, shape, value, at, folders, &mut paths, report);
            }
        }
        if !sound {
            return None;
        }
        match self.kind.canonical_beside(&Value::Object(values), &self.linked) {
            Ok(mut params) => {
                let given = |name: &String| self.fields.iter().any(|(given, _)| given == name);
                let left_out: Vec<_> = schema
                    .fields
                    .iter()
                    .filter_map(|(name, f)| Some((name, f.path?)))
                    .filter(|(n, _)| !given(n))
                    .collect();
                for (name, shape) in left_out {
                    if let Some(value) = params.get_mut(name) {
                        sound &= self.take_paths(name, shape, value, at, folders, &mut paths, report);
                    }
                }
                sound.then_some(Filled { params, paths, files: BTreeMap::new() })
            }
            Err(problems) => {
                problems.into_iter().for_each(|problem| self.refuse(problem, at, report));
                None
            }
        }
    }

    /// Takes the paths out of a path param, which keeps its own name instead.
    #[expect(clippy::too_many_arguments, reason = "they are the state of one filling")]
    fn take_paths(
        &mut self,
        name: &str,
        shape: PathShape,
        value: &mut Value,
        at: &[usize],
        folders: &mut Folders<'_>,
        paths: &mut BTreeMap<String, PathBuf>,
        report: &mut Report<'_>,
    ) -> bool {
        let items: Vec<(String, Option<usize>, &mut Value)> = match (shape, value) {
            (PathShape::One, value) => vec![(name.to_owned(), None, value)],
            (PathShape::List, Value::Array(items)) => {
                items.iter_mut().enumerate().map(|(i, item)| (format!("{name}[{i}]"), Some(i), item)).collect()
            }
            (PathShape::List, _) => Vec::new(),
        };
        let template = self.fields.iter().find(|(field, _)| field == name).map(|(_, template)| template);
        let origins: Vec<_> =
            items.iter().map(|(_, i, _)| template.map_or(Origin::MAIN, |template| template.origin(*i, at))).collect();
        let mut sound = true;
        for ((placeholder, i, value), origin) in items.into_iter().zip(origins) {
            let Value::String(text) = value else { continue };
            if self.kind.remote().iter().any(|scheme| text.starts_with(scheme)) {
                continue;
            }
            let folder = match origin {
                Origin::Command => folders.command,
                Origin::File(file) => folders.files[file],
            };
            let path = folder.join(&*text);
            let path = std::path::absolute(&path).unwrap_or(path);
            let exists = *folders.exists.entry(path.clone()).or_insert_with_key(|path| path.exists());
            if !exists || text.is_empty() {
                let (at, looked) = (self.at(name, at), path.display().to_string());
                let mistake = match text.as_str() {
                    "" => Mistake::EmptyPath { field: placeholder.clone(), at },
                    _ => Mistake::NoSuchPath { path: text.clone(), looked, at },
                };
                let place = self.place.to(name);
                self.tell(i.map_or(place.clone(), |i| place.to(i)), mistake, report);
                sound = false;
            }
            *text = placeholder.clone();
            paths.insert(placeholder, path);
        }
        sound
    }

    fn refuse(&mut self, problem: ParamProblem, at: &[usize], report: &mut Report<'_>) {
        let ParamProblem { path, mut message, hint } = problem;
        let field = path.first().cloned().unwrap_or_default();
        if message.contains("did not match any variant of untagged enum") {
            let words = expected_at(&self.kind.schema(), &path);
            if !words.is_empty() {
                message = format!("expected {words}");
            }
        }
        let place = path.iter().fold(self.place.clone(), |place, part| place.to(part));
        let at = self.at(&field, at);
        let field = if path.is_empty() { "with".to_owned() } else { path.join(".") };
        self.tell(place, Mistake::Param { field, message, hint, at }, report);
    }

    fn tell(&mut self, place: Place, mistake: Mistake, report: &mut Report<'_>) {
        // Several problems of one place are told if they belong to one point; these come one after another.
        if self.told.insert(place.clone()) {
            report.at(&place, mistake);
        }
    }

    /// ` (at rank=full)`: the coordinates that the value of `field` comes from.
    fn at(&self, field: &str, at: &[usize]) -> String {
        let mut used = BTreeSet::new();
        match self.fields.iter().find(|(name, _)| name == field) {
            Some((_, template)) => template.axes(&mut used),
            None => used = self.used_axes(),
        }
        let coords = used.iter().map(|axis| {
            let axis_ = &self.axes[*axis];
            format!("{}={}", axis_.name, axis_.labels[at[*axis]].text)
        });
        let coords: Vec<_> = coords.collect();
        if coords.is_empty() { String::new() } else { format!(" (at {})", coords.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_holds_a_field_without_those_of_its_fields_that_change_nothing() {
        let params = json!({ "batch": 1, "server": { "url": "a", "model": "m" }, "url": "b", "none": null });
        let params: BTreeMap<String, Value> = serde_json::from_value(params).unwrap();
        let text = |unkeyed: &[&str]| {
            let kept = keyed(&params, unkeyed).map(|(name, value)| format!("{name}={value}"));
            kept.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&["batch", "server.url", "none.url"]), r#"none=null server={"model":"m"} url="b""#);
        assert_eq!(text(&["server", "batch", "none"]), r#"url="b""#);
    }
}
