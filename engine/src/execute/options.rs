//! How a run is made, and why it could not be.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use palinode_cache::CacheError;

use crate::{plan::PlanError, publish::PublishError};

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Stages that run at once.
    pub jobs: usize,
    /// CPUs that they may keep busy; `None`: those that there are.
    pub cpus: Option<usize>,
    /// GPUs.
    pub gpus: usize,
    /// Memory in MiB that they may declare together; `None`: no limit.
    pub memory_mib: Option<u64>,
    /// Names of stages that run even if their result is there.
    pub force: BTreeSet<String>,
    /// Where figures and tables are published; `None`: nowhere.
    pub out: Option<PathBuf>,
    /// Set it to stop: nothing new is begun, and what runs stops at its next report of progress.
    pub cancelled: Arc<AtomicBool>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            jobs: 1,
            cpus: None,
            gpus: 0,
            memory_mib: None,
            force: BTreeSet::new(),
            out: None,
            cancelled: Arc::default(),
        }
    }
}

/// Why a run could not be made, or not be brought to its end. A failed stage is none of these: it is in the summary.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The run's log can't be written.
    #[error("can't write the run's log: {}", palinode_cache::reason(.0))]
    Log(io::Error),
    /// Figures can't be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}
