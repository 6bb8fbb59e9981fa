//! What one job does around the stage itself: lock its key, look again for a result, run, check that its inputs are
//! still what they were, take its outputs, publish its record.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use palinode_cache::{Cache, CacheError, External, KeyLock, Record, Scratch};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    event::Event,
    executor::{Executor, JobError},
    job::{InputFile, InputFiles, Job, JobInput, JobReport},
    plan::{Identity, lost},
    stage::StageKind,
    stage_log::StageLog,
    why::Reason,
};

mod kept;
mod outputs;
mod record;

pub use self::kept::failed_dir;

/// How often another process's lock is tried again.
const RETRY: Duration = Duration::from_millis(25);

/// Everything that one job needs.
pub(crate) struct Task {
    pub(crate) cache: Cache,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) kind: Arc<dyn StageKind>,
    pub(crate) address: String,
    pub(crate) identity: Identity,
    pub(crate) params: BTreeMap<String, Value>,
    pub(crate) reason: Reason,
    pub(crate) inputs: BTreeMap<String, JobInput>,
    pub(crate) outside: BTreeMap<String, Arc<External>>,
    pub(crate) paths: BTreeMap<String, PathBuf>,
    pub(crate) cpus: usize,
}

/// A job's result.
pub(crate) struct Performed {
    pub(crate) record: Arc<Record>,
    /// How long it ran; `None` if another process had made the result meanwhile.
    pub(crate) seconds: Option<f64>,
}

/// Why there is no result.
pub(crate) enum NoResult {
    Cancelled,
    Failed { message: String, kept: Option<PathBuf> },
}

impl NoResult {
    fn failed(message: impl fmt::Display) -> Self {
        Self::Failed { message: message.to_string(), kept: None }
    }
}

impl From<CacheError> for NoResult {
    fn from(error: CacheError) -> Self {
        Self::failed(error)
    }
}

impl Task {
    pub(crate) async fn perform(self) -> Result<Performed, NoResult> {
        let _lock = self.lock().await?;
        if self.reason != Reason::Forced
            && let Some(record) = self.cache.record(&self.identity.key)?
            && lost(&record, &self.cache)?.is_empty()
        {
            return Ok(Performed { record: Arc::new(record), seconds: None });
        }
        let scratch = self.cache.scratch()?;
        let job = self.job(&scratch);
        let log = Arc::new(StageLog::new(self.address.clone(), self.events.clone()));
        let _ = self.events.send(Event::StageStarted {
            address: self.address.clone(),
            kind: job.kind.clone(),
            key: self.identity.key,
            reason: self.reason.to_string(),
        });
        let (started, clock) = (Timestamp::now(), Instant::now());
        let ran = self.executor.execute(job.clone(), log.clone(), self.cancelled.clone()).await;
        let took = Took { started, seconds: clock.elapsed().as_secs_f64() };
        let collect = tokio::task::spawn_blocking(move || self.collect(ran, &scratch, &job, &log, took));
        collect.await.unwrap_or_else(|error| Err(NoResult::failed(format!("collecting its outputs failed: {error}"))))
    }

    /// Waits for the right to make this result. Another process that has it may be making it.
    async fn lock(&self) -> Result<KeyLock, NoResult> {
        let mut told = false;
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(NoResult::Cancelled);
            }
            if let Some(lock) = self.cache.try_lock(&self.identity.key)? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut told, true) {
                let (address, key) = (self.address.clone(), self.identity.key);
                let _ = self.events.send(Event::StageWaiting { address, key });
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn job(&self, scratch: &Scratch) -> Job {
        let files = |external: &External| InputFiles {
            digest: external.tree.digest(),
            files: external
                .tree
                .0
                .iter()
                .filter_map(|(name, entry)| {
                    let path = external.places.get(name)?.clone();
                    Some((name.clone(), InputFile { path, entry: *entry }))
                })
                .collect(),
        };
        Job {
            kind: self.kind.name().to_owned(),
            address: self.address.clone(),
            params: Value::Object(self.params.clone().into_iter().collect()),
            files: self.outside.iter().map(|(param, external)| (param.clone(), files(external))).collect(),
            inputs: self.inputs.clone(),
            scratch: scratch.path().to_owned(),
            cpus: self.cpus,
            gpus: Vec::new(),
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
        let result = match ran {
            Ok(report) => self.record(report, scratch, job, log, took),
            Err(JobError::Cancelled) => return Err(NoResult::Cancelled),
            Err(error) => Err(NoResult::failed(error)),
        };
        result.map_err(|error| match error {
            NoResult::Failed { message, .. } => {
                let kept = self.keep(scratch, log, &message);
                let kept = kept.map_err(|error| tracing::warn!(%error, "can't keep what a failed stage left")).ok();
                NoResult::Failed { message, kept }
            }
            NoResult::Cancelled => NoResult::Cancelled,
        })
    }
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
