//! Tables of others: CSV, TSV or JSON Lines, plain or compressed (zstd, gzip), with a line number for every row, so that
//! what is wrong in one can be told.
//!
//! A file in the cache is known by its content, not by its name, so the form is found from the content where the last
//! part of the name doesn't say it (`.zst`).

mod compressed;
mod labels;
mod rejects;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, path::Path};

use palinode_engine::{
    context::Context,
    stage::{PathParam, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use compressed::text;
pub(crate) use labels::{LabelText, Meaning};
pub(crate) use rejects::{BadRows, Rejects};

use crate::records::only_file;

/// How the rows of a file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// Commas, and quotes around what holds one (RFC 4180); a header.
    Csv,
    /// Tabs, and no quotes; a header.
    Tsv,
    /// A JSON object on each line. Objects in it give columns with a dot: `facts.category`.
    Jsonl,
}

/// The rows of a file.
pub(crate) struct Table {
    /// Names, in the order of the file.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// One row.
pub(crate) struct Row {
    /// Where it begins, from 1.
    pub(crate) line: u64,
    /// A cell for each column, or why the row can't be read. An empty cell of a CSV file is an empty text; what a JSON
    /// object lacks, or `null`, is none. There may be fewer cells than columns: then the others are none.
    pub(crate) cells: Result<Vec<Option<String>>, String>,
}

impl Table {
    /// Reads the file behind `param`.
    pub(crate) fn read(ctx: &Context<'_>, param: &PathParam, format: Option<Format>) -> Result<Self, StageError> {
        let path = only_file(ctx, param)?;
        let text = text(path, &param.0)?;
        let format = format.or_else(|| by_name(path)).unwrap_or_else(|| by_content(&text));
        match format {
            Format::Csv => delimited(&text, b',', true),
            Format::Tsv => delimited(&text, b'\t', false),
            Format::Jsonl => Ok(json_lines(&text)),
        }
        .map_err(|error: String| StageError::failed(format!("`{}`: {error}", param.0)))
    }

    /// The place of the column `name`.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// The place of a column that must be there; `field` is the param that names it.
    pub(crate) fn expect(&self, name: &str, field: &str) -> Result<usize, StageError> {
        self.column(name).ok_or_else(|| {
            let columns: Vec<_> = self.columns.iter().map(|column| format!("`{column}`")).collect();
            let columns = if columns.is_empty() { "none".to_owned() } else { columns.join(", ") };
            StageError::failed(format!("`{field}` names the column `{name}`, which the file lacks; it has: {columns}"))
        })
    }
}

fn by_name(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" => Some(Format::Csv),
        "tsv" => Some(Format::Tsv),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        _ => None,
    }
}

/// A first line that opens an object is JSON Lines; one with tabs is a header of TSV.
fn by_content(text: &str) -> Format {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    match first {
        line if line.trim_start().starts_with('{') => Format::Jsonl,
        line if line.contains('\t') => Format::Tsv,
        _ => Format::Csv,
    }
}

fn delimited(text: &str, delimiter: u8, quoting: bool) -> Result<Table, String> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(quoting)
        .flexible(true)
        .has_headers(false)
        .from_reader(text.as_bytes());
    let mut records = reader.records();
    let header = match records.next() {
        None => return Ok(Table { columns: Vec::new(), rows: Vec::new() }),
        Some(header) => header.map_err(|error| error.to_string())?,
    };
    let columns: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    let twice = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name));
    if let Some((_, name)) = twice {
        return Err(format!("the header names the column `{name}` twice"));
    }
    let row = |record: Result<csv::StringRecord, csv::Error>| {
        let record = record.map_err(|error| error.to_string())?;
        let line = record.position().map_or(0, |place| {
            // The reader stands before the blank lines that it skips.
            let blank = text.as_bytes()[place.byte() as usize..].iter().take_while(|byte| b"\r\n".contains(byte));
            place.line() + blank.filter(|&&byte| byte == b'\n').count() as u64
        });
        let cells = match record.len() {
            count if count == columns.len() => Ok(record.iter().map(|cell| Some(cell.to_owned())).collect()),
            count => Err(format!("it has {count} cells, and the header has {}", columns.len())),
        };
        Ok(Row { line, cells })
    };
    let rows = records.map(row).collect::<Result<_, String>>()?;
    Ok(Table { columns, rows })
}

fn json_lines(text: &str) -> Table {
    let mut columns: Vec<String> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut rows = Vec::new();
    let lines = text.lines().count();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let cells = match serde_json::from_str::<Map<String, Value>>(line) {
            Ok(object) => {
                let mut cells = Vec::new();
                flatten(object, "", &mut |name, cell| {
                    let place = *places.entry(name).or_insert_with_key(|name| {
                        columns.push(name.clone());
                        columns.len() - 1
                    });
                    if cells.len() <= place {
                        cells.resize(place + 1, None);
                    }
                    cells[place] = cell;
                });
                Ok(cells)
            }
            // A writer that was killed leaves half a row behind.
            Err(error) if error.is_eof() && at + 1 == lines && !text.ends_with('\n') => {
                Err(format!("the file ends within this row, as if half-written ({})", place(&error)))
            }
            Err(error) => Err(format!("no JSON object: {}", place(&error))),
        };
        rows.push(Row { line: at as u64 + 1, cells });
    }
    Table { columns, rows }
}

/// An error of one line: its own number says nothing.
fn place(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

fn flatten(object: Map<String, Value>, before: &str, cell: &mut impl FnMut(String, Option<String>)) {
    for (name, value) in object {
        let name = format!("{before}{name}");
        match value {
            Value::Object(inner) => flatten(inner, &format!("{name}."), cell),
            Value::Null => cell(name, None),
            Value::String(text) => cell(name, Some(text)),
            other => cell(name, Some(other.to_string())),
        }
    }
}
