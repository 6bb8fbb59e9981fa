//! What a running stage sees: its inputs, its output folders, and a way to say how far it is.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
};

pub use palinode_cache::{Answer, Answers, Checkpoints};
use serde_json::Value;

use crate::{
    job::{InputFile, InputFiles, Job, JobInput, JobReport, JobRow},
    stage::{PathParam, StageError},
    stop::Stop,
};

/// Hears how a job goes on.
pub trait Reporter: Send + Sync {
    /// `done` of `total` (0: unknown) `unit`s ("step", "prompt") are done.
    fn progress(&self, done: u64, total: u64, unit: &str);
    /// A line for the stage's log.
    fn note(&self, line: &str);
    /// A line for the log that the researcher should see without asking.
    fn warn(&self, line: &str);
}

/// A stage's view of its job.
pub struct Context<'a> {
    job: &'a Job,
    reporter: &'a dyn Reporter,
    stop: &'a Stop,
    report: Mutex<JobReport>,
}

impl<'a> Context<'a> {
    /// For executors, and for tests of kinds.
    pub fn new(job: &'a Job, reporter: &'a dyn Reporter, stop: &'a Stop) -> Self {
        Self { job, reporter, stop, report: Mutex::default() }
    }

    /// The job itself.
    pub fn job(&self) -> &Job {
        self.job
    }

    /// The result at the port `port`.
    ///
    /// # Errors
    /// If nothing, or a table, is linked to it: then the kind declared the port otherwise than it reads it.
    pub fn input(&self, port: &str) -> Result<&InputFiles, StageError> {
        self.optional(port)?.ok_or_else(|| StageError::failed(format!("nothing is linked to the input `{port}`")))
    }

    /// The result at the port `port`, or `None` if nothing is linked to it.
    ///
    /// # Errors
    /// If a table is linked to it.
    pub fn optional(&self, port: &str) -> Result<Option<&InputFiles>, StageError> {
        match self.job.inputs.get(port) {
            None => Ok(None),
            Some(JobInput::One(files)) => Ok(Some(files)),
            Some(JobInput::Table(_)) => {
                Err(StageError::failed(format!("input `{port}` takes one result, not a table")))
            }
        }
    }

    /// The rows at the port `port`; a single result is a table of one row without coordinates; empty if not linked.
    pub fn table(&self, port: &str) -> Vec<JobRow> {
        match self.job.inputs.get(port) {
            None => Vec::new(),
            Some(JobInput::One(files)) => vec![JobRow { coords: Vec::new(), input: Some(files.clone()) }],
            Some(JobInput::Table(rows)) => rows.clone(),
        }
    }

    /// The files behind a path param.
    ///
    /// # Errors
    /// If the param is not one of this job's.
    pub fn files(&self, param: &PathParam) -> Result<&InputFiles, StageError> {
        self.job.files.get(&param.0).ok_or_else(|| StageError::failed(format!("no files behind `{}`", param.0)))
    }

    /// The folder of the output port `port`, made on first use.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn output(&self, port: &'static str) -> Result<Output<'_, 'a>, StageError> {
        let dir = self.job.scratch.join("out").join(port);
        fs::create_dir_all(&dir).map_err(StageError::io(&dir))?;
        Ok(Output { ctx: self, port, dir })
    }

    /// Says how far the job is; cheap enough to call for every step. Fails once the run is cancelled, so that a
    /// loop which reports its progress also stops when it should.
    ///
    /// # Errors
    /// [`StageError::Cancelled`].
    pub fn progress(&self, done: usize, total: usize, unit: &'static str) -> Result<(), StageError> {
        self.reporter.progress(done as u64, total as u64, unit);
        if self.is_cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }

    /// Whether the job is to stop now; for kinds that wait on something instead of reporting progress.
    pub fn is_cancelled(&self) -> bool {
        self.stop.is_now()
    }

    /// Whether the run is to end: a stage that takes long and can go on later saves a checkpoint and gives
    /// [`StageError::Cancelled`]. One that can't goes on to its end, unless it [`is_cancelled`](Self::is_cancelled).
    pub fn is_ending(&self) -> bool {
        self.stop.is_soon()
    }

    /// What the job kept of itself when it was broken off, and where it keeps it; none where nothing is kept. What is
    /// there was kept by a job with the same key: same kind, params and inputs.
    pub fn checkpoints(&self) -> Option<Checkpoints> {
        self.job.checkpoints.as_ref().map(Checkpoints::at)
    }

    /// What the service `service` (a model's name) answered to earlier jobs, of this kind and others; none where nothing
    /// is kept. It outlives the job, whatever becomes of it: what was paid for once is not asked for again.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn answers(&self, service: &str) -> Result<Option<Answers>, StageError> {
        Ok(self.job.answers.as_deref().map(|dir| Answers::open(dir, service)).transpose()?)
    }

    /// Adds a line to the stage's log.
    pub fn note(&self, line: impl AsRef<str>) {
        self.reporter.note(line.as_ref());
    }

    /// Adds a line to the log and shows it.
    pub fn warn(&self, line: impl AsRef<str>) {
        self.reporter.warn(line.as_ref());
    }

    /// Records a small fact beside the result: it is shown by `status` and compared by `diff`. Same inputs must give
    /// the same facts: no times.
    pub fn summary(&self, name: &str, value: impl Into<Value>) {
        self.report.lock().expect("no panic while held").summary.insert(name.to_owned(), value.into());
    }

    /// Records the most memory that the job's own processes held, in MiB; of several, the most counts. For kinds that
    /// start programs: what a worker process held is known without them.
    pub fn peak_memory(&self, mib: u64) {
        let mut report = self.report.lock().expect("no panic while held");
        report.peak_memory_mib = report.peak_memory_mib.max(Some(mib));
    }

    /// What the stage reported; for executors.
    pub fn into_report(self) -> JobReport {
        self.report.into_inner().expect("no panic while held")
    }
}

/// The folder of one output port.
pub struct Output<'c, 'a> {
    ctx: &'c Context<'a>,
    port: &'static str,
    dir: PathBuf,
}

impl Output<'_, '_> {
    /// The folder; whatever lies in it when the stage ends is the output.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the file `name`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<(), StageError> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(StageError::io(path))
    }

    /// Writes `rows` as JSON Lines.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write_jsonl<T: serde::Serialize>(
        &self,
        name: &str,
        rows: impl IntoIterator<Item = T>,
    ) -> Result<(), StageError> {
        let mut writer = self.jsonl(name)?;
        rows.into_iter().try_for_each(|row| writer.push(&row))?;
        writer.finish()
    }

    /// A JSON Lines file `name` to write row by row, whatever its length.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn jsonl(&self, name: &str) -> Result<JsonlWriter, StageError> {
        let path = self.dir.join(name);
        let file = fs::File::create(&path).map_err(StageError::io(&path))?;
        Ok(JsonlWriter { path, file: BufWriter::with_capacity(1 << 17, file) })
    }

    /// Makes the file at `path` part of this output under `name`, without copying it: it stays where it is, outside of
    /// the job's folder, as files do that are fetched into a cache of their own.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn refer(&self, name: &str, path: &Path) -> Result<InputFile, StageError> {
        let path = fs::canonicalize(path).map_err(StageError::io(path))?;
        let file = InputFile { entry: palinode_cache::hash_file(&path)?, path };
        let mut report = self.ctx.report.lock().expect("no panic while held");
        report.fetched.entry(self.port.to_owned()).or_default().insert(name.to_owned(), file.clone());
        Ok(file)
    }

    /// Makes the files of `input` part of this output under `prefix` (empty, or ending in `/`), without copying them.
    pub fn include(&self, prefix: &str, input: &InputFiles) {
        let mut report = self.ctx.report.lock().expect("no panic while held");
        let port: &mut BTreeMap<_, _> = report.included.entry(self.port.to_owned()).or_default();
        port.extend(input.files.iter().map(|(name, file)| (format!("{prefix}{name}"), file.clone())));
    }
}

/// A JSON Lines file in the making: it is whole once [`JsonlWriter::finish`] has come back.
pub struct JsonlWriter {
    path: PathBuf,
    file: BufWriter<fs::File>,
}

impl JsonlWriter {
    /// Adds a row.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn push(&mut self, row: &impl serde::Serialize) -> Result<(), StageError> {
        serde_json::to_writer(&mut self.file, row).map_err(|error| match error.io_error_kind() {
            Some(_) => StageError::io(&self.path)(error.into()),
            None => StageError::failed(error.to_string()),
        })?;
        self.file.write_all(b"\n").map_err(StageError::io(&self.path))
    }

    /// Writes what is still held back.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn finish(mut self) -> Result<(), StageError> {
        self.file.flush().map_err(StageError::io(&self.path))
    }
}

/// Reads a JSON Lines file row by row, whatever its length; `each` gets one after the other.
///
/// # Errors
/// With path and line number; those of `each`.
pub fn each_jsonl<T: serde::de::DeserializeOwned>(
    path: &Path,
    mut each: impl FnMut(T) -> Result<(), StageError>,
) -> Result<(), StageError> {
    let file = fs::File::open(path).map_err(StageError::io(path))?;
    let mut file = BufReader::with_capacity(1 << 17, file);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if file.read_line(&mut line).map_err(StageError::io(path))? == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(&line)
            .map_err(|error| StageError::failed(format!("{}:{number}: {error}", path.display())))?;
        each(row)?;
    }
    Ok(())
}

/// Reads a JSON Lines file.
///
/// # Errors
/// With path and line number.
pub fn read_jsonl<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>, StageError> {
    let text = fs::read_to_string(path).map_err(StageError::io(path))?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| StageError::failed(format!("{}:{}: {error}", path.display(), i + 1)))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}
