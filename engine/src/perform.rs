//! What one job does around the stage itself: lock its key, look again for a result, run, check that its inputs are
//! still what they were, take its outputs, publish its record.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use palinode_cache::{Cache, CacheError, Digest, Execution, External, FileTree, KeyLock, Published, Record, Scratch};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    event::Event,
    executor::{Executor, JobError},
    job::{InputFile, InputFiles, Job, JobInput, JobReport},
    plan::{Identity, lost},
    stage::{Determinism, StageKind},
    stage_log::StageLog,
    why::Reason,
};

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

    fn record(
        &self,
        report: JobReport,
        scratch: &Scratch,
        job: &Job,
        log: &StageLog,
        took: Took,
    ) -> Result<Performed, NoResult> {
        self.inputs_unchanged(job)?;
        let outputs = self.outputs(&report, scratch, job)?;
        let record = Record {
            format: Record::FORMAT,
            key: self.identity.key,
            parts: self.identity.parts.clone(),
            sources: self.identity.sources.clone(),
            outputs,
            summary: report.summary,
            log: self.cache.put_bytes(log.text().as_bytes())?,
            execution: self.execution(&took),
        };
        let record = self.publish(record, log)?;
        // What an earlier failure left would only mislead now.
        if let Err(error) = fs::remove_dir_all(failed_dir(self.cache.root(), &self.address))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "can't remove what an earlier failure left");
        }
        Ok(Performed { record: Arc::new(record), seconds: Some(took.seconds) })
    }

    /// What the stage read must be what the key says: a file edited meanwhile may have been read half old, half new.
    fn inputs_unchanged(&self, job: &Job) -> Result<(), NoResult> {
        for (param, external) in &self.outside {
            let changed = external.recheck(&self.cache, &|file| self.kind.reads(param, file))?;
            if let Some(path) = changed.first() {
                let path = path.display();
                return Err(NoResult::failed(format!(
                    "`{path}` (in `with.{param}`) changed since this run began; nothing was recorded, run again"
                )));
            }
        }
        for (port, file) in job.inputs.iter().flat_map(|(port, input)| files(input).map(move |file| (port, file))) {
            if self.cache.locate(&file.entry)?.is_none() {
                return Err(NoResult::failed(format!(
                    "input `{port}` was lost or damaged while the stage ran; nothing was recorded, run again"
                )));
            }
        }
        Ok(())
    }

    fn outputs(
        &self,
        report: &JobReport,
        scratch: &Scratch,
        job: &Job,
    ) -> Result<BTreeMap<String, FileTree>, NoResult> {
        let out = scratch.path().join("out");
        let declared = self.kind.outputs();
        let undeclared = |port: &str| declared.iter().all(|output| output.name != port);
        for port in names(&out).map_err(NoResult::failed)?.iter().chain(report.included.keys()) {
            if undeclared(port) {
                let kind = self.kind.name();
                return Err(NoResult::failed(format!("it wrote to `{port}`, which is no output of the kind `{kind}`")));
            }
        }
        let mut outputs = BTreeMap::new();
        for port in declared {
            let dir = out.join(port.name);
            let mut tree = if dir.is_dir() { self.cache.put_dir(&dir)? } else { FileTree::default() };
            for (name, file) in report.included.get(port.name).into_iter().flatten() {
                self.include(file, job)?;
                if tree.0.insert(name.clone(), file.entry).is_some() {
                    return Err(NoResult::failed(format!(
                        "output `{}` has two files named `{name}`: one written, one included",
                        port.name
                    )));
                }
            }
            if tree.0.is_empty() {
                return Err(NoResult::failed(format!("it wrote nothing to its output `{}`", port.name)));
            }
            outputs.insert(port.name.to_owned(), tree);
        }
        Ok(outputs)
    }

    /// An included file is one of the job's inputs. One from outside is found at its place from now on.
    fn include(&self, file: &InputFile, job: &Job) -> Result<(), NoResult> {
        let same = |other: &InputFile| other.entry == file.entry;
        let outside = job.files.values().flat_map(|files| files.files.values()).find(|other| same(other));
        if let Some(place) = outside {
            return Ok(self.cache.refer(&place.path, &file.entry)?);
        }
        if job.inputs.values().flat_map(files).any(same) {
            return Ok(());
        }
        Err(NoResult::failed(format!("it included `{}`, which is none of its inputs", file.path.display())))
    }

    fn execution(&self, took: &Took) -> Execution {
        let uname = rustix::system::uname();
        let determinism = match self.kind.determinism() {
            Determinism::Bitwise => "bitwise",
            Determinism::PerDevice => "per_device",
            Determinism::Observed => "observed",
        };
        let device = self.identity.parts.numerics.get("device").and_then(|device| device.as_str()).unwrap_or("cpu");
        let place = |(param, path): (&String, &PathBuf)| (param.clone(), path.display().to_string());
        Execution {
            host: uname.nodename().to_string_lossy().into_owned(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            palinode: env!("CARGO_PKG_VERSION").to_owned(),
            git: None,
            determinism: determinism.to_owned(),
            device: device.to_owned(),
            started: took.started,
            seconds: took.seconds,
            // The peak of a process that runs several stages says little about one of them.
            peak_memory_mib: None,
            places: self.paths.iter().map(place).collect(),
            address: self.address.clone(),
        }
    }

    /// Publishes `record`. An earlier record with the same bytes stays; one with other bytes gives way, which is told.
    fn publish(&self, record: Record, log: &StageLog) -> Result<Record, NoResult> {
        // Another process may publish between our forgetting the old record and publishing the new one.
        for _ in 0..3 {
            let Published::Existed(old) = self.cache.publish(&record)? else { return Ok(record) };
            let whole = lost(&old, &self.cache)?.is_empty();
            if old.outputs == record.outputs {
                if whole {
                    return Ok(*old);
                }
            } else {
                let kind = self.kind.name();
                let ports: Vec<_> =
                    record.outputs.iter().filter(|(port, tree)| old.outputs.get(*port) != Some(tree)).collect();
                let ports = ports.iter().map(|(port, _)| format!("`{port}`")).collect::<Vec<_>>().join(", ");
                let observed = self.kind.determinism() == Determinism::Observed;
                if observed && whole {
                    log.tell(format!(
                        "{ports} came out differently; `{kind}` promises no more, and what came first stands"
                    ));
                    return Ok(*old);
                }
                let promise = if observed { "" } else { ": NOT REPRODUCIBLE, though the kind promises the same bytes" };
                log.tell(format!("{ports} of `{kind}` came out differently than before with the same inputs{promise}"));
            }
            self.cache.forget(&record.key)?;
        }
        Err(NoResult::failed("its earlier record can't be replaced"))
    }

    /// Keeps what a failed stage left, in place of what it left the last time.
    fn keep(&self, scratch: &Scratch, log: &StageLog, message: &str) -> io::Result<PathBuf> {
        let dir = failed_dir(self.cache.root(), &self.address);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&dir)?,
        }
        fs::write(dir.join("log"), format!("{}{}: failed: {message}\n", log.text(), self.address))?;
        let out = scratch.path().join("out");
        if out.is_dir() {
            fs::rename(out, dir.join("out"))?;
        }
        Ok(dir)
    }
}

/// Where the log (`log`) and the partial outputs (`out/`) of the last failure at `address` are.
pub fn failed_dir(root: &Path, address: &str) -> PathBuf {
    root.join("failed").join(Digest::<palinode_cache::Blob>::of(address.as_bytes()).short())
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

/// The names in the folder `dir`; none if it isn't there.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}
