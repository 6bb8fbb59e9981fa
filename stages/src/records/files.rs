//! Reading and writing the files, and what else kinds share about them.

use std::{collections::BTreeMap, fs, path::Path};

use palinode_engine::{
    context::{Context, each_jsonl, read_jsonl},
    job::InputFiles,
    stage::{PathParam, StageError},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Prompt, Split};

/// The rows of the JSON Lines file `name` of `files`.
pub(crate) fn rows<T: DeserializeOwned>(files: &InputFiles, name: &str) -> Result<Vec<T>, StageError> {
    read_jsonl(place(files, name)?)
}

/// Hands the rows of the JSON Lines file `name` of `files` to `each`, one after the other.
pub(crate) fn each_row<T: DeserializeOwned>(
    files: &InputFiles,
    name: &str,
    each: impl FnMut(T) -> Result<(), StageError>,
) -> Result<(), StageError> {
    each_jsonl(place(files, name)?, each)
}

/// The JSON file `name` of `files`.
pub(crate) fn json<T: DeserializeOwned>(files: &InputFiles, name: &str) -> Result<T, StageError> {
    let path = place(files, name)?;
    let text = fs::read_to_string(path).map_err(StageError::io(path))?;
    serde_json::from_str(&text).map_err(|error| StageError::failed(format!("{name}: {error}")))
}

fn place<'f>(files: &'f InputFiles, name: &str) -> Result<&'f Path, StageError> {
    let have = || files.files.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    files.get(name).ok_or_else(|| StageError::failed(format!("the input has no `{name}`; it holds: {}", have())))
}

/// Writes `value` as the only file of the output `port`: JSON, indented for people.
pub(crate) fn write_json(
    ctx: &Context<'_>,
    port: &'static str,
    name: &str,
    value: &impl Serialize,
) -> Result<(), StageError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| StageError::failed(error.to_string()))?;
    text.push(b'\n');
    ctx.output(port)?.write(name, text)
}

/// Says how many prompts there are, and how many of the source's rows said the same as another.
pub(crate) fn summarize_prompts(ctx: &Context<'_>, prompts: &[Prompt], rows: usize) {
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    prompts.iter().for_each(|prompt| *groups.entry(&prompt.group).or_default() += 1);
    ctx.summary("prompts", prompts.len());
    ctx.summary("repeated_rows", rows - prompts.len());
    ctx.summary("groups", serde_json::json!(groups));
    let validation = prompts.iter().filter(|prompt| prompt.split == Some(Split::Validation)).count();
    ctx.summary("validation_prompts", validation);
}

/// Columns by name.
pub(crate) type Row = BTreeMap<String, Value>;

/// The rows of a CSV file with a header, or of a JSON Lines file (which begins with `{`), each with the number of its
/// line.
pub(crate) fn table_of(path: &Path) -> Result<Vec<(u64, Row)>, StageError> {
    let text = fs::read_to_string(path).map_err(StageError::io(path))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let wrong = |line: u64, error: String| StageError::failed(format!("{}:{line}: {error}", path.display()));
    if text.trim_start().starts_with('{') {
        let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        let parse = |(line, number): (&str, u64)| {
            Ok((number, serde_json::from_str(line).map_err(|error| wrong(number, broken(&error)))?))
        };
        return lines.map(parse).collect();
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| wrong(1, error.to_string()))?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| StageError::failed(format!("{}: {error}", path.display())))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |(name, value): (&str, &str)| (name.trim().to_owned(), Value::from(value));
        rows.push((line, header.iter().zip(&record).map(field).collect()));
    }
    Ok(rows)
}

/// The one file behind the path param `param`.
pub(crate) fn only_file<'c>(ctx: &'c Context<'_>, param: &PathParam) -> Result<&'c Path, StageError> {
    let single = ctx.files(param)?.single();
    let (_, path) = single.ok_or_else(|| StageError::failed(format!("`{}` is a folder; a file is wanted", param.0)))?;
    Ok(path)
}

/// What `table` holds for the identity of `prompt`.
pub(crate) fn of_identity<'t, T>(
    table: &'t BTreeMap<String, T>,
    prompt: &Prompt,
    what: &str,
) -> Result<&'t T, StageError> {
    let identity = prompt.identity.as_ref().ok_or_else(|| {
        StageError::failed(format!("the prompt `{}` names no identity, and {what} goes by identity", prompt.name()))
    })?;
    table.get(identity).ok_or_else(|| {
        let known: Vec<&str> = table.keys().take(8).map(String::as_str).collect();
        StageError::failed(format!("{what} has nothing for the identity `{identity}`; it knows {}", known.join(", ")))
    })
}

/// A label of an axis as people read it: texts without quotes.
pub(crate) fn of_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is wrong with a line of JSON.
fn broken(error: &serde_json::Error) -> String {
    if error.is_eof() {
        format!("the line ends within its value, as if half-written (column {})", error.column())
    } else {
        error.to_string()
    }
}

/// `statement` as it follows a prompt: with one space before it, unless it begins with punctuation.
pub(crate) fn continuation(statement: &str) -> String {
    let text = statement.trim_start();
    if text.starts_with(|c: char| c.is_ascii_punctuation() && !"\"'([{".contains(c)) {
        text.to_owned()
    } else {
        format!(" {text}")
    }
}
