//! What a command leaves: as declared, and taken from its folder when it has ended.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, from_value, json};

use crate::{
    spec::is_name,
    stage::{ParamProblem, PortType, StageError},
};

/// How many names a message lists.
const LISTED: usize = 20;

/// Types that an output may have.
pub(super) const TYPES: [&str; 17] = [
    "model",
    "tokenizer",
    "adapter",
    "prompts",
    "completions",
    "verdicts",
    "pairs",
    "statements",
    "lexicon",
    "dataset",
    "metrics",
    "trajectory",
    "distribution",
    "figure",
    "table",
    "file",
    "dir",
];

/// One output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Declared {
    /// Below the working folder, without `..`.
    pub(super) path: String,
    /// What others may do with it.
    #[serde(rename = "type")]
    pub(super) gives: PortType,
    /// It was written with a `/` at its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) folder: bool,
}

/// As they stand in a key.
pub(super) fn canonical(outputs: BTreeMap<String, Declared>) -> Value {
    let fields = |output: Declared| {
        let folder = output.folder.then(|| ("folder".to_owned(), Value::Bool(true)));
        let fields = [("path".to_owned(), Value::String(output.path)), ("type".to_owned(), json!(output.gives))];
        Value::Object(fields.into_iter().chain(folder).collect())
    };
    outputs.into_iter().map(|(name, output)| (name, fields(output))).collect()
}

/// Reads `outputs`, as it stands in the file or canonical.
pub(super) fn read(value: &Value) -> Result<BTreeMap<String, Declared>, Vec<ParamProblem>> {
    let mut found: Vec<(String, Declared)> = Vec::new();
    let mut problems = Vec::new();
    let problem = |at: &str, message: String, hint: &str| ParamProblem {
        path: ["outputs", at].into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        message,
        hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
    };
    let mut add = |at: &str, name: &str, value: &Value| match one(value) {
        _ if !is_name(name) => {
            let hint = "letters, digits, `_` and `-`, starting with a letter: `{ name: path }` gives it another";
            problems.push(problem(at, format!("`{name}` can't be the name of an output"), hint));
        }
        Ok(output) => match found.iter().find(|(_, other)| overlap(&other.path, &output.path)) {
            Some((other, _)) if *other == name => {
                let hint = "give them names: `{ one: a/x.csv, other: b/x.csv }`";
                problems.push(problem(at, format!("two outputs would be called `{name}`"), hint));
            }
            Some((other, _)) => {
                problems.push(problem(
                    at,
                    format!("`{}` is also in the output `{other}`", output.path),
                    "declare it once",
                ));
            }
            None if found.iter().any(|(other, _)| *other == name) => {
                let hint = "give them names: `{ one: a/x.csv, other: b/x.csv }`";
                problems.push(problem(at, format!("two outputs would be called `{name}`"), hint));
            }
            None => found.push((name.to_owned(), output)),
        },
        Err(message) => {
            problems.push(problem(at, message, "a path below the working folder, or `{ path: ..., type: ... }`"))
        }
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| add(name, name, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| {
            let stem = value.as_str().and_then(|path| Path::new(path).file_stem()?.to_str()).unwrap_or_default();
            add(&i.to_string(), &stem.replace(['.', ' '], "_"), value);
        }),
        _ => {
            return Err(vec![problem("", "it must be a mapping of names to paths, or a list of paths".to_owned(), "")]);
        }
    }
    if found.is_empty() && problems.is_empty() {
        problems.push(problem(
            "",
            "there is none".to_owned(),
            "a stage is there for what it leaves: declare at least one",
        ));
    }
    if problems.is_empty() { Ok(found.into_iter().collect()) } else { Err(problems) }
}

fn one(value: &Value) -> Result<Declared, String> {
    let (path, gives, marked) = match value {
        Value::String(path) => (path, None, false),
        Value::Object(fields) => {
            if let Some(key) = fields.keys().find(|key| !["path", "type", "folder"].contains(&key.as_str())) {
                return Err(format!("unknown key `{key}` in an output"));
            }
            let path = fields.get("path").and_then(Value::as_str).ok_or("it has no `path`")?;
            let marked = fields.get("folder") == Some(&json!(true));
            return place(path, fields.get("type"), marked);
        }
        _ => return Err("it must be a path".to_owned()),
    };
    place(path, gives, marked)
}

fn place(path: &str, gives: Option<&Value>, marked: bool) -> Result<Declared, String> {
    let (path, slash) = normal(path, false)?;
    let folder = slash || marked;
    let gives = match gives {
        None if folder => PortType::Dir,
        None => PortType::File,
        Some(name) => from_value(name.clone()).ok().filter(|gives| *gives != PortType::Any).ok_or_else(|| {
            let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
            format!("`{name}` is not a type; known: {}", TYPES.join(", "))
        })?,
    };
    Ok(Declared { path, gives, folder })
}

/// A path below a folder, without what changes nothing in it, and whether it ends in `/`.
pub(super) fn normal(path: &str, empty: bool) -> Result<(String, bool), String> {
    if path.starts_with('/') {
        return Err(format!("`{path}` is absolute: it must lie below the working folder"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("`{path}` may leave the working folder: no `..` in it"));
    }
    if path.contains('\0') {
        return Err("a path can't hold a NUL character".to_owned());
    }
    if !empty && path.contains('*') {
        return Err(format!("`{path}` is a pattern: name a folder, ending in `/`, and all in it is taken"));
    }
    let own = |part: &&str| !part.is_empty() && *part != ".";
    // Nearly all are plain.
    let joined = match path.split('/').all(|part| own(&part)) {
        true => path.to_owned(),
        false => path.split('/').filter(own).collect::<Vec<_>>().join("/"),
    };
    match joined {
        path if path.is_empty() && empty => Ok((".".to_owned(), true)),
        path if path.is_empty() => Err("name a file or folder in it, not the working folder itself".to_owned()),
        joined => Ok((joined, path.ends_with('/'))),
    }
}

fn overlap(a: &str, b: &str) -> bool {
    let inside = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    a == b || inside(a, b) || inside(b, a)
}

/// Takes what the command left in `work` to `out`, a folder for each output.
pub(super) fn collect(
    outputs: &BTreeMap<String, Declared>,
    scratch: &Path,
    work: &Path,
    out: &Path,
) -> Result<(), StageError> {
    let root = fs::canonicalize(scratch).map_err(StageError::io(scratch))?;
    for (name, output) in outputs {
        let from = work.join(&output.path);
        let meta = match fs::symlink_metadata(&from) {
            Ok(meta) => meta,
            Err(_) => return Err(missing(name, output, work)),
        };
        // Each part of the way may be a symlink.
        let parent = from.parent().unwrap_or(work);
        if !fs::canonicalize(parent).map_err(StageError::io(parent))?.starts_with(&root) {
            return Err(leaves(name, &output.path, parent));
        }
        let port = out.join(name);
        fs::create_dir_all(&port).map_err(StageError::io(&port))?;
        if meta.is_dir() {
            resolve_links(&from, &root, name, work)?;
            fs::remove_dir(&port).and_then(|()| fs::rename(&from, &port)).map_err(StageError::io(&from))?;
            continue;
        }
        if output.folder {
            return Err(StageError::failed(format!(
                "its output `{name}` is declared as the folder `{}/`, but it is a file",
                output.path
            )));
        }
        let to = port.join(from.file_name().unwrap_or_default());
        if meta.is_symlink() {
            copy_link(&from, &to, &root, name, work)?;
        } else {
            fs::rename(&from, &to).map_err(StageError::io(&from))?;
        }
    }
    Ok(())
}

/// Puts the file in place of each symlink below `dir`.
fn resolve_links(dir: &Path, root: &Path, name: &str, work: &Path) -> Result<(), StageError> {
    for entry in fs::read_dir(dir).map_err(StageError::io(dir))? {
        let entry = entry.map_err(StageError::io(dir))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(StageError::io(dir))?);
        if kind.is_dir() {
            resolve_links(&path, root, name, work)?;
        } else if kind.is_symlink() {
            let aside = dir.join(".palinode-link");
            copy_link(&path, &aside, root, name, work)?;
            fs::rename(&aside, &path).map_err(StageError::io(&path))?;
        }
    }
    Ok(())
}

fn copy_link(link: &Path, to: &Path, root: &Path, name: &str, work: &Path) -> Result<(), StageError> {
    let shown = link.strip_prefix(work).unwrap_or(link).display().to_string();
    let leads = fs::read_link(link).map_err(StageError::io(link))?;
    let Ok(real) = fs::canonicalize(link) else {
        let message = format!("its output `{name}`: `{shown}` is a symlink to {}, which is not there", leads.display());
        return Err(StageError::failed(message));
    };
    if !real.starts_with(root) {
        return Err(leaves(name, &shown, &real));
    }
    if !real.is_file() {
        let message = format!("its output `{name}`: `{shown}` is a symlink to a folder: copy what is in it");
        return Err(StageError::failed(message));
    }
    fs::copy(&real, to).map(drop).map_err(StageError::io(link))
}

fn leaves(name: &str, shown: &str, to: &Path) -> StageError {
    StageError::failed(format!(
        "its output `{name}`: `{shown}` is a symlink that leaves the stage's folder, to {}: copy what it leads to",
        to.display()
    ))
}

fn missing(name: &str, output: &Declared, work: &Path) -> StageError {
    let mut there = Vec::new();
    list(work, "", &mut there);
    there.sort();
    let shown: Vec<_> = there.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    let there = match there.len() {
        0 => "its working folder is empty".to_owned(),
        n if n > LISTED => format!("there are {} and more", shown.join(", ")),
        _ => format!("there are {}", shown.join(", ")),
    };
    StageError::failed(format!("it ended well but left no `{}` (its output `{name}`); {there}", output.path))
}

/// Names of files below `dir`, and of empty folders; some more than are shown.
fn list(dir: &Path, prefix: &str, found: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if found.len() > LISTED {
            return;
        }
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let before = found.len();
            list(&entry.path(), &format!("{name}/"), found);
            if found.len() == before {
                found.push(format!("{name}/"));
            }
        } else {
            found.push(name);
        }
    }
}

/// Where the command's own folder is.
pub(super) fn work(scratch: &Path, workdir: &str) -> PathBuf {
    let work = scratch.join("work");
    if workdir == "." { work } else { work.join(workdir) }
}
