//! What happens in a run, as it happens: for progress on the terminal, and for the run's log.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{BuildHasher, Hasher},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use palinode_cache::StageKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Something that happened in a run. Instances are named by address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are the same few throughout")]
pub enum Event {
    /// The run began; `instances` are selected.
    RunStarted { run: String, pipeline: String, file: PathBuf, instances: usize },
    /// The rest takes so long if it takes as long as before; `unknown` instances of it never ran. Not in the run's log.
    RunExpects { seconds: f64, unknown: usize },
    /// A stage began to run, with the reason in words.
    StageStarted { address: String, kind: String, key: StageKey, reason: String },
    /// `done` of `total` (0: unknown) `unit`s are done. Not in the run's log.
    StageProgress { address: String, done: u64, total: u64, unit: String },
    /// A line of the stage's log.
    StageNote { address: String, line: String },
    /// A line of the stage's log that the researcher should see.
    StageWarned { address: String, line: String },
    /// Another process is making the same result; this run waits for it.
    StageWaiting { address: String, key: StageKey },
    /// Enough GPUs for the stage are this run's to use, but another process uses some of them just now.
    StageWaitingForGpus { address: String, gpus: usize },
    /// A stage failed and is tried again, for the `attempt`th time of at most `of`, after `pause` seconds.
    StageRetrying { address: String, message: String, attempt: u32, of: u32, pause: f64 },
    /// A stage ran, and its result is recorded.
    StageFinished { address: String, key: StageKey, seconds: f64, summary: BTreeMap<String, Value> },
    /// A stage's result was there, or another instance or process just made it.
    StageCached { address: String, key: StageKey },
    /// A stage failed; its log and partial outputs are in `kept`, the last lines of its log in `tail`.
    StageFailed {
        address: String,
        message: String,
        kept: Option<PathBuf>,
        #[serde(default)]
        tail: Vec<String>,
    },
    /// A stage can't run since `by` failed.
    StageBlocked { address: String, by: String },
    /// A stage was stopped, or not begun, since the run was to end.
    StageCancelled { address: String },
    /// A file was written to the output folder.
    Published { address: String, path: PathBuf },
    /// The run ended.
    RunFinished(RunSummary),
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run's id.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// Instances that ran and succeeded.
    pub executed: usize,
    /// Instances whose result was there.
    pub cached: usize,
    /// Instances that failed.
    pub failed: usize,
    /// Instances that could not run since another failed.
    pub blocked: usize,
    /// Instances that were stopped or not begun.
    pub cancelled: usize,
    /// How long the run took.
    pub seconds: f64,
    /// Each instance, in topological order.
    pub nodes: Vec<NodeOutcome>,
    /// Files of the output folder: all that belong to this run.
    pub files: Vec<PathBuf>,
    /// Those of `files` that were written; the others were there already.
    pub written: Vec<PathBuf>,
}

impl RunSummary {
    /// Whether every instance has its result.
    pub fn complete(&self) -> bool {
        self.failed + self.blocked + self.cancelled == 0
    }
}

/// What became of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeOutcome {
    /// The instance.
    pub address: String,
    /// Its key, if it was known.
    pub key: Option<StageKey>,
    /// What became of it.
    pub outcome: Outcome,
    /// Seconds that it ran; 0 if it didn't.
    pub seconds: f64,
}

/// What became of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran.
    Executed,
    /// Its result was there.
    Cached,
    /// It failed with this message.
    Failed(String),
    /// It could not run since the instance with this address failed.
    Blocked(String),
    /// It was stopped or not begun.
    Cancelled,
}

/// A line of a run's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub time: Timestamp,
    /// What.
    pub event: Event,
}

/// The same, borrowed.
#[derive(Serialize)]
struct LogLineRef<'a> {
    time: Timestamp,
    event: &'a Event,
}

/// The log of a run: one JSON object a line, in `runs/<id>.jsonl`.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    /// Holds lines back until it is flushed, or there are too many.
    lines: BufWriter<File>,
}

/// Lines are written together up to about this size.
const LINES: usize = 256 << 10;

impl RunLog {
    /// Starts the log of the run `id` of the cache at `root`.
    ///
    /// # Errors
    /// If it can't be created.
    pub fn create(root: &Path, id: &str) -> io::Result<Self> {
        let dir = root.join("runs");
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{id}.jsonl"));
        let file = File::options().append(true).create_new(true).open(&path)?;
        // Held as long as the run goes on; where there are no locks, it only isn't told that it does.
        let _ = file.lock();
        Ok(Self { path, lines: BufWriter::with_capacity(LINES, file) })
    }

    /// Appends `event`, with the time. That a result was there already is written together with what comes next: of
    /// such lines there may be thousands, and until [`RunLog::flush`] nobody need know.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn append(&mut self, event: &Event) -> io::Result<()> {
        if matches!(event, Event::StageProgress { .. } | Event::RunExpects { .. }) {
            return Ok(());
        }
        serde_json::to_writer(&mut self.lines, &LogLineRef { time: Timestamp::now(), event })?;
        self.lines.write_all(b"\n")?;
        if matches!(event, Event::StageCached { .. }) { Ok(()) } else { self.flush() }
    }

    /// Writes all that was appended, in one write as long as it is not much.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.lines.buffer().is_empty() {
            return Ok(());
        }
        palinode_cache::failpoint::step();
        self.lines.flush()
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A new run's id: sorts by time; two of the same moment differ.
pub fn run_id(now: Timestamp) -> String {
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{}-{:08x}", now.strftime("%Y%m%dT%H%M%S%.3fZ"), random & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time() {
        let at = |millis| run_id(Timestamp::from_millisecond(millis).unwrap());
        assert!(at(1_800_000_000_000).starts_with("20270115T080000.000Z-"));
        assert!(at(1_800_000_000_007) < at(1_800_000_000_010));
        assert!(at(1_800_000_000_999) < at(1_800_000_001_000));
        assert_ne!(at(0), at(0));
    }

    #[test]
    fn progress_is_not_logged() {
        let root = tempfile::tempdir().unwrap();
        let mut log = RunLog::create(root.path(), "id").unwrap();
        log.append(&Event::StageProgress { address: "a".into(), done: 1, total: 2, unit: "step".into() }).unwrap();
        let note = Event::StageNote { address: "a".into(), line: "x".into() };
        log.append(&note).unwrap();
        let text = fs::read_to_string(log.path()).unwrap();
        let line: LogLine = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line.event, note);
    }
}
