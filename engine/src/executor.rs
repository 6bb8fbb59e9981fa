//! Executors: where a job runs. All take the same serializable [`Job`]; this file holds the one that runs jobs in this
//! process.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    attempts::words,
    context::{Context, Reporter},
    job::{Job, JobReport},
    stage::{StageError, StageKind},
    stop::Stop,
};

/// Why a job gave no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum JobError {
    /// The stage said why.
    #[error("{0}")]
    Failed(String),
    /// The stage panicked: a bug in its kind, told as such.
    #[error("panicked (a bug in the kind `{kind}`): {message}")]
    Panicked {
        /// The kind.
        kind: String,
        /// What the panic said.
        message: String,
    },
    /// Its process ended in the middle of it.
    #[error("{how}")]
    Crashed {
        /// How, in words.
        how: String,
        /// What the process printed last.
        output: Vec<String>,
    },
    /// It took longer than its stage's `timeout`.
    #[error("timed out after {} (`timeout`)", words(*limit))]
    TimedOut {
        /// How long it may take.
        limit: Duration,
    },
    /// The executor knows no such kind.
    #[error("this executor knows no kind `{0}`")]
    UnknownKind(String),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl From<StageError> for JobError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Cancelled => Self::Cancelled,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// What a job comes to.
pub type JobFuture = Pin<Box<dyn Future<Output = Result<JobReport, JobError>> + Send>>;

/// Runs jobs. A failure, a panic or a crash of one is its result, and harms no other.
pub trait Executor: Send + Sync {
    /// Runs `job`. `reporter` hears how it goes; `stop` asks it to end, or to stop at its next
    /// report of progress.
    fn execute(&self, job: Job, reporter: Arc<dyn Reporter>, stop: Arc<Stop>) -> JobFuture;
}

/// Finds a kind by its name.
pub type FindKind = dyn Fn(&str) -> Option<Arc<dyn StageKind>> + Send + Sync;

/// Runs jobs on threads of this process.
pub struct InProcess {
    find: Box<FindKind>,
}

impl InProcess {
    /// An executor of the kinds that `find` knows.
    pub fn new(find: impl Fn(&str) -> Option<Arc<dyn StageKind>> + Send + Sync + 'static) -> Self {
        Self { find: Box::new(find) }
    }
}

impl Executor for InProcess {
    fn execute(&self, job: Job, reporter: Arc<dyn Reporter>, stop: Arc<Stop>) -> JobFuture {
        let kind = (self.find)(&job.kind);
        Box::pin(async move {
            let Some(kind) = kind else { return Err(JobError::UnknownKind(job.kind)) };
            let name = job.kind.clone();
            let ran = tokio::task::spawn_blocking(move || run_job(&*kind, &job, &*reporter, &stop)).await;
            ran.unwrap_or_else(|error| Err(JobError::Panicked { kind: name, message: error.to_string() }))
        })
    }
}

/// Runs `job` on this thread; a panic becomes an error. What every executor comes down to in the end.
///
/// # Errors
/// If the stage fails, panics or is cancelled.
pub fn run_job(kind: &dyn StageKind, job: &Job, reporter: &dyn Reporter, stop: &Stop) -> Result<JobReport, JobError> {
    let context = Context::new(job, reporter, stop);
    // Nothing of the context is used after a panic.
    match catch_unwind(AssertUnwindSafe(|| kind.run(&context))) {
        Ok(Ok(())) => Ok(context.into_report()),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => Err(JobError::Panicked { kind: job.kind.clone(), message: message(&*panic) }),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
