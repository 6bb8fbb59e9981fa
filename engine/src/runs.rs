//! Past runs, from their logs.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use palinode_cache::StageKey;
use serde::Serialize;

use crate::event::{Event, LogLine, RunSummary};

/// A past run.
#[derive(Debug, Clone, Serialize)]
pub struct RunInfo {
    /// Its id.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's file.
    pub file: PathBuf,
    /// When it began.
    pub started: Timestamp,
    /// What it came to; `None` if it still runs or was killed.
    pub summary: Option<RunSummary>,
}

/// The runs of the cache at `root`, oldest first. A log whose first line can't be read is passed over.
///
/// # Errors
/// If the folder can't be read.
pub fn list(root: &Path) -> io::Result<Vec<RunInfo>> {
    Ok(ids(root)?.iter().filter_map(|id| info(root, id)).collect())
}

/// All events of a run, in order. A line cut off by a kill is left out.
///
/// # Errors
/// If there is no such run.
pub fn events(root: &Path, run: &str) -> io::Result<Vec<LogLine>> {
    let file = BufReader::new(fs::File::open(root.join("runs").join(format!("{run}.jsonl")))?);
    let mut events = Vec::new();
    for line in file.split(b'\n') {
        events.extend(serde_json::from_slice(&line?).ok());
    }
    Ok(events)
}

/// A result that an instance had in some run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PastResult {
    /// The run.
    pub run: String,
    /// When the instance ended there.
    pub time: Timestamp,
    /// Its key there.
    pub key: StageKey,
    /// Whether it ran there (or its result was in the cache).
    pub executed: bool,
}

/// The results that `address` had in past runs of `pipeline`, newest first, read as far as asked.
///
/// # Errors
/// If the folder can't be read.
pub fn history(root: &Path, pipeline: &str, address: &str) -> io::Result<impl Iterator<Item = PastResult>> {
    let (root, pipeline, address) = (root.to_owned(), pipeline.to_owned(), address.to_owned());
    let results = ids(&root)?.into_iter().rev().filter_map(move |run| {
        let lines = events(&root, &run).ok()?;
        let ours = matches!(&lines.first()?.event, Event::RunStarted { pipeline: of, .. } if *of == pipeline);
        let result = |line: &LogLine| match &line.event {
            Event::StageFinished { address: at, key, .. } if *at == address => Some((line.time, *key, true)),
            Event::StageCached { address: at, key } if *at == address => Some((line.time, *key, false)),
            _ => None,
        };
        let (time, key, executed) = lines.iter().rev().filter(|_| ours).find_map(result)?;
        Some(PastResult { run, time, key, executed })
    });
    Ok(results)
}

/// Ids of all runs, oldest first.
fn ids(root: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root.join("runs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        ids.extend(entry?.file_name().to_str().and_then(|name| name.strip_suffix(".jsonl")).map(str::to_owned));
    }
    ids.sort();
    Ok(ids)
}

fn info(root: &Path, id: &str) -> Option<RunInfo> {
    let mut lines = events(root, id).ok()?;
    let summary = match lines.pop_if(|line| matches!(line.event, Event::RunFinished(_))) {
        Some(LogLine { event: Event::RunFinished(summary), .. }) => Some(summary),
        _ => None,
    };
    let first = lines.into_iter().next()?;
    match first.event {
        Event::RunStarted { run, pipeline, file, .. } => {
            Some(RunInfo { run, pipeline, file, started: first.time, summary })
        }
        _ => None,
    }
}

/// The run whose stage made the result `key`.
///
/// # Errors
/// If the folder can't be read.
pub fn maker(root: &Path, key: &StageKey) -> io::Result<Option<String>> {
    let made = |line: &LogLine| matches!(&line.event, Event::StageFinished { key: made, .. } if made == key);
    Ok(ids(root)?.into_iter().rev().find(|run| events(root, run).is_ok_and(|lines| lines.iter().any(made))))
}
