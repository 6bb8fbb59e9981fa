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
    /// Whether it is going on.
    pub live: bool,
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
    let file = BufReader::new(fs::File::open(path(root, run))?);
    let mut events = Vec::new();
    for line in file.split(b'\n') {
        events.extend(serde_json::from_slice(&line?).ok());
    }
    Ok(events)
}

/// Those events of a run whose kind is one of `names`, as the log calls them; the rest of a long log is not decoded.
pub(crate) fn events_named(root: &Path, run: &str, names: &[&str]) -> io::Result<Vec<LogLine>> {
    let bytes = fs::read(path(root, run))?;
    let marks: Vec<String> = names.iter().map(|name| format!("\"event\":{{\"{name}\"")).collect();
    let wanted = |line: &&[u8]| {
        // The event comes right after the time.
        let head = String::from_utf8_lossy(&line[..line.len().min(120)]);
        marks.iter().any(|mark| head.contains(mark))
    };
    let lines = bytes.split(|byte| *byte == b'\n').filter(wanted);
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// The first line of a run's log (from 1) that can't be read, if there is one. The last line may be cut off, by a kill.
pub(crate) fn damage(root: &Path, run: &str) -> io::Result<Option<usize>> {
    let bytes = match fs::read(path(root, run)) {
        // Another process has just collected it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let read = |line: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
    let damaged = lines.position(|line| line.ends_with(b"\n") && !read(line));
    let begun = matches!(first(root, run), Some(LogLine { event: Event::RunStarted { .. }, .. }));
    let headless = bytes.contains(&b'\n') && !begun;
    Ok(if headless { Some(1) } else { damaged.map(|line| line + 1) })
}

/// How a run's log begins: when, and as what.
pub(crate) fn first(root: &Path, run: &str) -> Option<LogLine> {
    first_line(root, run).and_then(|line| serde_json::from_slice(&line).ok())
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

/// Where the log of a run is.
pub(crate) fn path(root: &Path, run: &str) -> PathBuf {
    root.join("runs").join(format!("{run}.jsonl"))
}

/// Whether a run is going on: it holds a lock on its log, which dies with its process.
pub(crate) fn is_live(root: &Path, run: &str) -> bool {
    let Ok(file) = fs::File::open(path(root, run)) else { return false };
    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

/// Ids of the runs that are going on, oldest first.
///
/// # Errors
/// If the folder can't be read.
pub fn live(root: &Path) -> io::Result<Vec<String>> {
    Ok(ids(root)?.into_iter().filter(|id| is_live(root, id)).collect())
}

/// The id of the last run of `pipeline`.
///
/// # Errors
/// If the folder can't be read.
pub(crate) fn last_of(root: &Path, pipeline: &str) -> io::Result<Option<String>> {
    let ours = |id: &String| matches!(first(root, id), Some(LogLine { event: Event::RunStarted { pipeline: of, .. }, .. }) if of == pipeline);
    Ok(ids(root)?.into_iter().rev().find(ours))
}

fn first_line(root: &Path, run: &str) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(fs::File::open(path(root, run)).ok()?).read_until(b'\n', &mut line).ok()?;
    Some(line)
}

/// A name that means no run, or several.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownRun {
    /// No run has it.
    #[error(
        "there is no run `{0}`: give an id of `palinode runs` or how it begins, `last`, or `last~1`, the one before"
    )]
    None(String),
    /// Several ids begin like this.
    #[error("`{name}` is how {count} runs begin: give more of the id")]
    Ambiguous {
        /// What was given.
        name: String,
        /// How many runs it could mean.
        count: usize,
    },
}

/// The run that `name` means among `runs` (oldest first): an id or how it begins, `last`, `last~N`.
///
/// # Errors
/// If it means none, or several.
pub fn find<'r>(runs: &'r [RunInfo], name: &str) -> Result<&'r RunInfo, UnknownRun> {
    let unknown = || UnknownRun::None(name.chars().take(80).collect());
    if let Some(back) = name.strip_prefix("last") {
        let back: usize = match back.strip_prefix('~') {
            Some(back) => back.parse().map_err(|_| unknown())?,
            None if back.is_empty() => 0,
            None => return Err(unknown()),
        };
        return runs.iter().rev().nth(back).ok_or_else(unknown);
    }
    let found: Vec<_> = runs.iter().filter(|run| !name.is_empty() && run.run.starts_with(name)).collect();
    match found[..] {
        [run] => Ok(run),
        [] => Err(unknown()),
        _ => runs
            .iter()
            .find(|run| run.run == name)
            .ok_or(UnknownRun::Ambiguous { name: name.to_owned(), count: found.len() }),
    }
}

/// Ids of all runs, oldest first.
pub(crate) fn ids(root: &Path) -> io::Result<Vec<String>> {
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

/// From the first and the last line alone: a log may be long, and there may be many.
fn info(root: &Path, id: &str) -> Option<RunInfo> {
    let bytes = fs::read(path(root, id)).ok()?;
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let first: LogLine = serde_json::from_slice(lines.next()?).ok()?;
    let summary = match lines.next_back().and_then(|line| serde_json::from_slice(line).ok()) {
        Some(LogLine { event: Event::RunFinished(summary), .. }) => Some(summary),
        _ => None,
    };
    match first.event {
        Event::RunStarted { run, pipeline, file, .. } => {
            let live = summary.is_none() && is_live(root, id);
            Some(RunInfo { run, pipeline, file, started: first.time, live, summary })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RunLog;

    fn log(root: &Path, id: &str, pipeline: &str) -> RunLog {
        let mut log = RunLog::create(root, id).unwrap();
        let started =
            Event::RunStarted { run: id.into(), pipeline: pipeline.into(), file: "p.yaml".into(), instances: 1 };
        log.append(&started).unwrap();
        log
    }

    #[test]
    fn runs_are_listed_with_how_they_ended() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(list(root).unwrap().is_empty());
        let mut done = log(root, "20260101T000000.000Z-aa", "p");
        done.append(&Event::StageCancelled { address: "a".into() }).unwrap();
        done.append(&Event::RunFinished(RunSummary { executed: 3, ..RunSummary::default() })).unwrap();
        drop(done);
        drop(log(root, "20260102T000000.000Z-ab", "p"));
        let going_on = log(root, "20260103T000000.000Z-bb", "q");
        fs::write(path(root, "20260104T000000.000Z-cc"), "garbage\n").unwrap();

        let runs = list(root).unwrap();
        let told: Vec<_> = runs.iter().map(|run| (run.live, run.summary.as_ref().map(|s| s.executed))).collect();
        assert_eq!(told, [(false, Some(3)), (false, None), (true, None)]);
        assert_eq!(live(root).unwrap(), ["20260103T000000.000Z-bb"]);
        assert_eq!(last_of(root, "p").unwrap().as_deref(), Some("20260102T000000.000Z-ab"));
        assert_eq!(last_of(root, "none").unwrap(), None);
        let named = |names: &[&str]| events_named(root, "20260101T000000.000Z-aa", names).unwrap().len();
        assert_eq!(
            [named(&["stage_cancelled"]), named(&["run_started", "run_finished"]), named(&["stage"])],
            [1, 2, 0]
        );
        drop(going_on);
        assert!(live(root).unwrap().is_empty());

        let named = |name: &str| find(&runs, name).map(|run| run.run[..8].to_owned());
        assert_eq!(named("last").unwrap(), "20260103");
        assert_eq!(named("last~2").unwrap(), "20260101");
        assert_eq!(named("20260102").unwrap(), "20260102");
        assert_eq!(named("202601"), Err(UnknownRun::Ambiguous { name: "202601".into(), count: 3 }));
        for name in ["last~3", "last~", "last~-1", "lasting", "nine", ""] {
            assert_eq!(named(name), Err(UnknownRun::None(name.to_owned())), "{name}");
        }
    }
}
