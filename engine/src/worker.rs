//! Worker processes: heavy stages run in a process of their own, which stays and keeps what it has loaded. A crash of
//! one is a failure of its stage and harms nothing else.
//!
//! [`serve`] is the worker's side, [`Workers`] the run's. They speak JSON, an object a line, over a socket that is the
//! worker's stdin: whatever a library prints to stdout or stderr can't get between.

mod output;
mod pool;
mod process;
mod serve;
mod words;

use serde::{Deserialize, Serialize};

pub use self::{
    pool::Workers,
    serve::{die_with_parent, serve},
};
use crate::{
    executor::JobError,
    job::{Job, JobReport},
};

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// Run this job; it is the `id`th.
    Run { id: u64, job: Box<Job> },
    /// The run is to end: that job may end, or keep a checkpoint and break off.
    End { id: u64 },
    /// Stop that job at its next report of progress.
    Stop { id: u64 },
}

/// What a worker tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Progress { done: u64, total: u64, unit: String },
    Note(String),
    Warn(String),
    Done(JobReport),
    Failed(JobError),
}
