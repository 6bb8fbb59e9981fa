//! How a run is made, and why it could not be.

use std::{
    collections::BTreeSet,
    fmt, io,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use palinode_cache::CacheError;

use crate::{
    interrupt::Interrupt,
    plan::PlanError,
    publish::PublishError,
    resources::{Limits, TooMuch},
};

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Stages that run at once.
    pub jobs: usize,
    /// CPUs that they may keep busy; `None`: those that there are.
    pub cpus: Option<usize>,
    /// Ids of the GPUs that they may use.
    pub gpus: Vec<usize>,
    /// Where GPU ids are claimed, so that two processes don't use the same; needed only where there are GPUs.
    pub gpu_locks: Option<PathBuf>,
    /// Memory in MiB that they may declare together; `None`: no limit.
    pub memory_mib: Option<u64>,
    /// Begin nothing new after a stage failed; else all that doesn't need it goes on.
    pub fail_fast: bool,
    /// Names of stages that run even if their result is there.
    pub force: BTreeSet<String>,
    /// Where figures and tables are published; `None`: nowhere.
    pub out: Option<PathBuf>,
    /// Tells the state of the git checkout for records; asked once, when the first result is recorded.
    pub git: Git,
    /// By which the run is ended early.
    pub interrupt: Interrupt,
}

impl RunOptions {
    /// What a run may use.
    pub fn limits(&self) -> Limits {
        let cpus = self.cpus.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        Limits { cpus, memory_mib: self.memory_mib, gpus: self.gpus.len() }
    }
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            jobs: 1,
            cpus: None,
            gpus: Vec::new(),
            gpu_locks: None,
            memory_mib: None,
            fail_fast: false,
            force: BTreeSet::new(),
            out: None,
            git: Git::default(),
            interrupt: Interrupt::default(),
        }
    }
}

/// The state of a git checkout, read when it is first asked for.
#[derive(Clone, Default)]
pub struct Git(Option<Arc<Reader>>);

type Reader = LazyLock<Option<String>, Box<dyn FnOnce() -> Option<String> + Send>>;

impl Git {
    /// As `read` says.
    pub fn new(read: impl FnOnce() -> Option<String> + Send + 'static) -> Self {
        Self(Some(Arc::new(LazyLock::new(Box::new(read)))))
    }

    /// Begins to read it, so that who asks need not wait.
    pub(crate) fn start(&self) {
        if let Some(reader) = self.0.clone() {
            // Without a thread, who asks first reads it.
            let _ = std::thread::Builder::new().name("git".to_owned()).spawn(move || {
                LazyLock::force(&reader);
            });
        }
    }

    /// The state, if there is a checkout.
    pub fn state(&self) -> Option<String> {
        self.0.as_ref().and_then(|reader| LazyLock::force(reader).clone())
    }
}

impl fmt::Debug for Git {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Git")
    }
}

/// Why a run could not be made, or not be brought to its end. A failed stage is none of these: it is in the summary.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A stage asks for more than there is.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
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
