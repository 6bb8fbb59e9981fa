//! What one job does around the stage itself: lock its key, look again for a result, run, check that its inputs are
//! still what they were, take its outputs, publish its record.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use palinode_cache::{Cache, CacheError, Checked, External, Hold, KeyLock, Scratch, StoredResult};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    attempts::Attempts,
    event::Event,
    execute::Git,
    executor::{Executor, JobError},
    files::FileSet,
    gpus::Gpus,
    graph::Resources,
    interrupt::Interrupt,
    job::{InputFile, InputFiles, Job, JobInput, JobReport},
    plan::Identity,
    stage::StageKind,
    stage_log::StageLog,
    why::{Reason, coords},
};

mod attempt;
mod kept;
mod outputs;
mod record;

pub use self::kept::failed_dir;

/// Everything that one job needs.
pub(crate) struct Task {
    pub(crate) cache: Cache,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) interrupt: Interrupt,
    pub(crate) kind: Arc<dyn StageKind>,
    pub(crate) address: String,
    pub(crate) identity: Identity,
    pub(crate) params: BTreeMap<String, Value>,
    pub(crate) reason: Reason,
    pub(crate) inputs: BTreeMap<String, JobInput>,
    pub(crate) outside: BTreeMap<String, Arc<External>>,
    pub(crate) paths: BTreeMap<String, PathBuf>,
    /// The folder of the pipeline's file.
    pub(crate) folder: PathBuf,
    /// Files from outside at input ports; they are among the inputs, too.
    pub(crate) files: BTreeMap<String, (FileSet, Arc<External>)>,
    pub(crate) resources: Resources,
    pub(crate) attempts: Attempts,
    pub(crate) gpus: Gpus,
    pub(crate) git: Git,
    /// The right to make this result; given back when its record is there.
    pub(crate) lock: Arc<KeyLock>,
}

/// A job's result.
pub(crate) struct Performed {
    pub(crate) result: Arc<StoredResult>,
    /// `None` if another process had made the result meanwhile.
    pub(crate) ran: Option<Ran>,
    /// Keeps it from being collected until the run's log tells of it.
    pub(crate) hold: Arc<Hold>,
}

/// What is told of a job that ran.
pub(crate) struct Ran {
    pub(crate) seconds: f64,
    pub(crate) summary: BTreeMap<String, Value>,
}

/// Why there is no result.
pub(crate) enum NoResult {
    Cancelled,
    Failed(Failure),
}

/// What went wrong, and what is left of it.
#[derive(Default)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// Where its log and partial outputs are.
    pub(crate) kept: Option<PathBuf>,
    /// The last lines of its log.
    pub(crate) tail: Vec<String>,
    /// It was the stage itself that failed: another attempt may do better.
    pub(crate) retry: bool,
}

impl NoResult {
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(Failure { message: message.to_string(), ..Failure::default() })
    }
}

impl From<CacheError> for NoResult {
    fn from(error: CacheError) -> Self {
        Self::failed(error)
    }
}

impl Task {
    pub(crate) async fn perform(self) -> Result<Performed, NoResult> {
        let hold = self.cache.hold()?;
        if self.reason != Reason::Forced
            && let Some(Checked { result, lost }) = self.cache.check(&self.identity.key)?
            && lost.is_empty()
        {
            return Ok(Performed { result, ran: None, hold });
        }
        drop(hold);
        let _ = self.events.send(Event::StageStarted {
            address: self.address.clone(),
            kind: self.kind.name().to_owned(),
            key: self.identity.key,
            reason: self.reason.to_string(),
        });
        for line in self.inputs.iter().filter_map(|(port, input)| lacking(port, input)) {
            let _ = self.events.send(Event::StageWarned { address: self.address.clone(), line });
        }
        if self.reason == Reason::Forced {
            // Made again means from the beginning.
            self.cache.remove_checkpoints(&self.identity.key)?;
        }
        self.attempts().await
    }

    /// What the engine writes of the job's folder: its outputs' folders, and its inputs' where it sees nothing else.
    fn folders(&self) -> Vec<String> {
        let outputs = self.kind.outputs_of(&|name| self.params.get(name));
        let outputs = outputs.iter().map(|output| format!("out/{}", output.name));
        let inputs = self.inputs.keys().filter(|_| self.kind.open_inputs()).map(|port| format!("in/{port}"));
        inputs.chain(outputs).collect()
    }

    fn job(&self, scratch: &Scratch, gpus: &[usize]) -> Job {
        Job {
            kind: self.kind.name().to_owned(),
            address: self.address.clone(),
            params: Value::Object(self.params.clone().into_iter().collect()),
            files: self
                .outside
                .iter()
                .map(|(param, external)| (param.clone(), InputFiles::outside(external)))
                .collect(),
            inputs: self.inputs.clone(),
            scratch: scratch.path().to_owned(),
            folder: self.folder.clone(),
            checkpoints: Some(self.cache.checkpoints(&self.identity.key)),
            answers: Some(self.cache.answers()),
            cpus: self.resources.cpus,
            gpus: gpus.to_vec(),
        }
    }

    fn collect(
        &self,
        ran: Result<JobReport, JobError>,
        scratch: &Scratch,
        job: &Job,
        log: &StageLog,
        took: Took,
    ) -> Result<Performed, NoResult> {
        let (result, printed) = match ran {
            Ok(report) => (self.record(report, scratch, job, log, took), Vec::new()),
            Err(JobError::Cancelled) => return Err(NoResult::Cancelled),
            Err(error) => {
                // Another attempt finds the same kinds in the same executor.
                let mut failure = Failure { message: error.to_string(), ..Failure::default() };
                let full = is_full(scratch.path());
                if full {
                    failure.message.push_str("; its disk is full: free some space, or put the cache on another disk");
                }
                failure.retry = !full && !matches!(error, JobError::UnknownKind(_));
                let printed = if let JobError::Crashed { output, .. } = error { output } else { Vec::new() };
                (Err(NoResult::Failed(failure)), printed)
            }
        };
        result.map_err(|error| match error {
            NoResult::Failed(failure) => NoResult::Failed(self.keep(failure, scratch, log, &printed)),
            NoResult::Cancelled => NoResult::Cancelled,
        })
    }
}

/// What of a table is not there, if anything: rows that `missing: drop` leaves out.
fn lacking(port: &str, input: &JobInput) -> Option<String> {
    const SHOWN: usize = 3;
    let JobInput::Table(rows) = input else { return None };
    let lacking: Vec<_> = rows.iter().filter(|row| row.input.is_none()).map(|row| coords(&row.coords)).collect();
    let more = lacking.len().checked_sub(SHOWN).filter(|more| *more > 0);
    let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
    let shown = &lacking[..lacking.len().min(SHOWN)];
    (!lacking.is_empty()).then(|| {
        let (count, all) = (lacking.len(), rows.len());
        format!("input `{port}` comes without {count} of its {all} rows (`missing: drop`): {}{more}", shown.join("; "))
    })
}

/// Whether nothing more can be written in the folder `dir`, as only writing tells: there are quotas, room that is kept for
/// root, and numbers of files.
fn is_full(dir: &Path) -> bool {
    let probe = || tempfile::tempfile_in(dir)?.write_all(&[0; 64 << 10]);
    let full = |error: io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    probe().is_err_and(full)
}

#[derive(Clone, Copy)]
struct Took {
    started: Timestamp,
    seconds: f64,
}

fn files(input: &JobInput) -> Box<dyn Iterator<Item = &InputFile> + '_> {
    match input {
        JobInput::One(files) => Box::new(files.files.values()),
        JobInput::Table(rows) => {
            Box::new(rows.iter().filter_map(|row| row.input.as_ref()).flat_map(|files| files.files.values()))
        }
    }
}
