//! Rows of CSV, TSV, JSON Lines (plain or compressed) and Parquet files, one at a time.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use palinode_engine::stage::StageError;
use ruzstd::decoding::StreamingDecoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{faults::Faults, parquet};

/// How a file holds a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// Commas, and quotes around fields that hold one.
    Csv,
    /// Tabs; a quote is a character like others.
    Tsv,
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// A table in a file.
pub(super) struct Table<'f> {
    /// As it is called: the place itself may have another name.
    pub(super) name: &'f str,
    pub(super) path: &'f Path,
    /// By the name's ending, if not given.
    pub(super) format: Option<Format>,
    /// Whether the first line names the columns; else they are called 0, 1, 2...
    pub(super) header: bool,
}

/// The name that people gave the file, where the place has it: all single files are called alike.
pub(super) fn own_name<'f>(name: &'f str, path: &'f Path) -> &'f str {
    let own = path.file_name().and_then(|own| own.to_str());
    own.filter(|own| Path::new(own).extension() == Path::new(name).extension()).unwrap_or(name)
}

/// A column that is wanted: the first of these names that there is.
pub(super) struct Column<'c> {
    pub(super) names: Vec<&'c str>,
    /// A table may lack it.
    pub(super) optional: bool,
}

impl<'c> Column<'c> {
    pub(super) fn required(name: &'c str) -> Self {
        Column { names: vec![name], optional: false }
    }

    /// The place of the column among `have`.
    pub(super) fn find(&self, have: &[String], file: &str) -> Result<Option<usize>, StageError> {
        let found = self.names.iter().find_map(|name| have.iter().position(|have| have == name));
        if found.is_none() && !self.optional {
            return Err(StageError::failed(format!("{file} has no column {}; it has {}", self.called(), list(have))));
        }
        Ok(found)
    }

    fn called(&self) -> String {
        self.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
    }
}

fn list<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "none".to_owned(),
        1..=20 => names.join(", "),
        more => format!("{} and {} more", names[..20].join(", "), more - 20),
    }
}

/// The cells of a row, in the order of the columns wanted; `None` where there is none.
pub(super) type Cells<'r> = [Option<&'r str>];

/// What a row is handed to, with its line.
pub(super) type Each<'e> = dyn FnMut(u64, &Cells<'_>) -> Result<(), StageError> + 'e;

impl Table<'_> {
    /// Hands each row that can be read to `each`; the others go to `faults`.
    pub(super) fn each(
        &self,
        columns: &[Column<'_>],
        faults: &mut Faults,
        each: &mut Each<'_>,
    ) -> Result<(), StageError> {
        let (stem, reader) = self.open()?;
        let format = match (self.format, stem.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase())) {
            (Some(format), _) => format,
            (None, Some(ending)) if ending == "csv" => Format::Csv,
            (None, Some(ending)) if ending == "tsv" || ending == "tab" => Format::Tsv,
            (None, Some(ending)) if ending == "jsonl" || ending == "ndjson" => Format::Jsonl,
            (None, Some(ending)) if ending == "parquet" => Format::Parquet,
            (None, _) => {
                let message =
                    "what kind of table it is can't be told by its name; give `format`: csv, tsv, jsonl or parquet";
                return Err(StageError::failed(format!("{}: {message}", self.name)));
            }
        };
        match format {
            Format::Csv => self.separated(reader, b',', true, columns, faults, each),
            Format::Tsv => self.separated(reader, b'\t', false, columns, faults, each),
            Format::Jsonl => self.objects(reader, columns, faults, each),
            // It is compressed within, and read from its end.
            Format::Parquet => parquet::rows(self, columns, faults, each),
        }
    }

    /// The name without the ending of a compression, and what was compressed.
    fn open(&self) -> Result<(&str, Box<dyn Read>), StageError> {
        let file = BufReader::with_capacity(1 << 17, fs::File::open(self.path).map_err(StageError::io(self.path))?);
        if let Some(stem) = self.name.strip_suffix(".gz") {
            return Ok((stem, Box::new(flate2::bufread::MultiGzDecoder::new(file))));
        }
        if let Some(stem) = self.name.strip_suffix(".zst") {
            return Ok((stem, Box::new(Zstd { file: Some(file), frame: None })));
        }
        Ok((self.name, Box::new(file)))
    }

    fn separated(
        &self,
        reader: Box<dyn Read>,
        delimiter: u8,
        quoting: bool,
        columns: &[Column<'_>],
        faults: &mut Faults,
        each: &mut Each<'_>,
    ) -> Result<(), StageError> {
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .quoting(quoting)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(1 << 17)
            .from_reader(reader);
        let mut record = ByteRecord::new();
        let mut places: Option<Vec<Option<usize>>> = None;
        let mut width = 0;
        while reader.read_byte_record(&mut record).map_err(|error| self.unreadable(error))? {
            let line = record.position().map_or(0, csv::Position::line);
            let Some(places) = &places else {
                width = record.len();
                let text = |(at, field): (usize, &[u8])| match self.header {
                    true => String::from_utf8_lossy(field).trim_start_matches('\u{feff}').to_owned(),
                    false => at.to_string(),
                };
                let have: Vec<String> = record.iter().enumerate().map(text).collect();
                let found = columns.iter().map(|column| column.find(&have, self.name)).collect::<Result<_, _>>()?;
                places = Some(found);
                if !self.header {
                    self.record(&record, line, places.as_deref().unwrap_or_default(), width, faults, each)?;
                }
                continue;
            };
            self.record(&record, line, places, width, faults, each)?;
        }
        match places {
            Some(_) => Ok(()),
            None => Err(StageError::failed(format!("{} is empty", self.name))),
        }
    }

    fn record(
        &self,
        record: &ByteRecord,
        line: u64,
        places: &[Option<usize>],
        width: usize,
        faults: &mut Faults,
        each: &mut Each<'_>,
    ) -> Result<(), StageError> {
        if record.iter().any(|field| str::from_utf8(field).is_err()) {
            faults.add(self.name, line, "not UTF-8");
            return Ok(());
        }
        if record.len() != width {
            faults.add(self.name, line, &format!("not of {width} fields, as the first is"));
            return Ok(());
        }
        let cell = |place: &Option<usize>| str::from_utf8(record.get((*place)?)?).ok();
        each(line, &places.iter().map(cell).collect::<Vec<_>>())
    }

    fn unreadable(&self, error: csv::Error) -> StageError {
        let message = error.to_string();
        match error.into_kind() {
            ErrorKind::Io(source) => self.broken(&source),
            _ => StageError::failed(format!("{}: {message}", self.name)),
        }
    }

    /// What was compressed can be broken, too: a message should name the file as its user does.
    fn broken(&self, error: &io::Error) -> StageError {
        StageError::failed(format!("{} can't be read: {error}", self.name))
    }

    fn objects(
        &self,
        reader: Box<dyn Read>,
        columns: &[Column<'_>],
        faults: &mut Faults,
        each: &mut Each<'_>,
    ) -> Result<(), StageError> {
        let mut reader = BufReader::with_capacity(1 << 17, reader);
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            if reader.read_until(b'\n', &mut bytes).map_err(|error| self.broken(&error))? == 0 {
                break;
            }
            let Ok(text) = str::from_utf8(&bytes) else {
                faults.add(self.name, line, "not UTF-8");
                continue;
            };
            let text = text.trim_start_matches('\u{feff}').trim();
            if text.is_empty() {
                continue;
            }
            let Ok(object) = serde_json::from_str::<Map<String, Value>>(text) else {
                faults.add(self.name, line, "no JSON object");
                continue;
            };
            let mut cells = Vec::with_capacity(columns.len());
            for column in columns {
                let found = column.names.iter().find_map(|name| object.get(*name));
                if found.is_none() && !column.optional {
                    let have = list(object.keys());
                    let message = format!("{}:{line} has no field {}; it has {have}", self.name, column.called());
                    return Err(StageError::failed(message));
                }
                cells.push(match found {
                    None | Some(Value::Null) => None,
                    Some(Value::String(text)) => Some(text.clone()),
                    Some(other) => Some(other.to_string()),
                });
            }
            each(line, &cells.iter().map(Option::as_deref).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// The frames of a zstd file, one after the other.
struct Zstd {
    file: Option<BufReader<fs::File>>,
    frame: Option<Box<StreamingDecoder<BufReader<fs::File>, ruzstd::decoding::FrameDecoder>>>,
}

impl Read for Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                self.file = self.frame.take().map(|frame| frame.into_inner());
            }
            let Some(mut file) = self.file.take() else { return Ok(0) };
            if file.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("broken zstd data: {error}"));
            self.frame = Some(Box::new(StreamingDecoder::new(file).map_err(invalid)?));
        }
    }
}
