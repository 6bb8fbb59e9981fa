//! The workers of a run, and which of them gets a job.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
};

use super::process::{Process, Start};
use crate::{
    context::Reporter,
    executor::{Executor, FindKind, InProcess, JobError, JobFuture},
    job::{Job, JobReport},
    stop::Stop,
};

/// Runs jobs of heavy kinds in worker processes, and others in this one. Workers are started as they are needed, stay
/// for the whole run, and are killed with it.
pub struct Workers {
    find: Arc<FindKind>,
    here: InProcess,
    pool: Arc<Pool>,
}

struct Pool {
    start: Start,
    /// Workers that there may be, idle ones included.
    most: usize,
    state: Mutex<State>,
    /// Starts workers. They die with the thread that starts them, so that must be one that lasts.
    starter: Sender<Box<dyn FnOnce() + Send>>,
}

#[derive(Default)]
struct State {
    /// Idle workers, the one that was idle longest first.
    idle: Vec<Process>,
    busy: usize,
}

impl Workers {
    /// At most `most` workers, started by `program` with `args` and, beside this process's own, the variables `envs`.
    pub fn new(
        find: Arc<FindKind>,
        program: PathBuf,
        args: Vec<String>,
        envs: BTreeMap<String, String>,
        most: usize,
    ) -> Self {
        let (starter, orders) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        thread::spawn(move || orders.into_iter().for_each(|order| order()));
        let known = find.clone();
        let here = InProcess::new(move |kind| known(kind));
        let start = Start { program, args, envs };
        Self { find, here, pool: Arc::new(Pool { start, most: most.max(1), state: Mutex::default(), starter }) }
    }
}

impl Executor for Workers {
    fn execute(&self, job: Job, reporter: Arc<dyn Reporter>, stop: Arc<Stop>) -> JobFuture {
        let Some(kind) = (self.find)(&job.kind).filter(|kind| kind.heavy()) else {
            return self.here.execute(job, reporter, stop);
        };
        let holds = kind.loads(&job);
        let pool = self.pool.clone();
        Box::pin(async move {
            let ran = tokio::task::spawn_blocking(move || pool.run(job, holds, &*reporter, &stop)).await;
            ran.unwrap_or_else(|error| Err(JobError::Failed(format!("its job broke off: {error}"))))
        })
    }
}

impl Pool {
    fn run(
        &self,
        job: Job,
        holds: Option<String>,
        reporter: &dyn Reporter,
        stop: &Stop,
    ) -> Result<JobReport, JobError> {
        let mut worker = self.take(&job.gpus, holds.as_deref())?;
        // What it held is given up for what this job loads; a job that loads nothing leaves it.
        if holds.is_some() {
            worker.holds = holds;
        }
        let (ran, lives) = worker.run(job, reporter, stop);
        let mut state = self.state();
        state.busy -= 1;
        if lives {
            state.idle.push(worker);
        } else {
            drop(state);
            drop(worker);
        }
        ran
    }

    /// An idle worker, the one that holds `holds` before all; or a new one.
    fn take(&self, gpus: &[usize], holds: Option<&str>) -> Result<Process, JobError> {
        let mut dropped = Vec::new();
        let mut state = self.state();
        dropped.extend(state.idle.extract_if(.., |worker| !worker.is_alive()));
        state.busy += 1;
        let full = state.busy + state.idle.len() > self.most;
        let offers: Vec<_> =
            state.idle.iter().map(|worker| (worker.gpus.as_slice(), worker.holds.as_deref())).collect();
        if let Some(at) = choose(&offers, gpus, holds, full) {
            return Ok(state.idle.remove(at));
        }
        if full && !state.idle.is_empty() {
            dropped.push(state.idle.remove(0));
        }
        drop(state);
        drop(dropped);
        let (send, started) = mpsc::channel();
        let (start, gpus) = (self.start.clone(), gpus.to_vec());
        let order = Box::new(move || drop(send.send(Process::start(&start, gpus))));
        let started = self.starter.send(order).ok().and_then(|()| started.recv().ok());
        started.unwrap_or_else(|| Err(std::io::Error::other("the run is ending"))).map_err(|error| {
            self.state().busy -= 1;
            let program = self.start.program.display();
            JobError::Failed(format!(
                "can't start the worker process `{program}`: {error} (`--in-process` does without)"
            ))
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which idle worker (its GPUs, what it holds) gets a job: one with the same GPUs, for a process sees those that it
/// began with. Best is one that holds what the job loads; then one that holds nothing. One that holds something else
/// is spared while there may be a new one: what it holds will be asked for again.
fn choose(idle: &[(&[usize], Option<&str>)], gpus: &[usize], loads: Option<&str>, full: bool) -> Option<usize> {
    let fits = |wanted: &dyn Fn(Option<&str>) -> bool| {
        idle.iter().rposition(|(its_gpus, holds)| *its_gpus == gpus && wanted(*holds))
    };
    let same = fits(&|holds| holds == loads);
    let empty = || fits(&|holds| holds.is_none());
    let other = || idle.iter().position(|(its_gpus, _)| *its_gpus == gpus);
    // A job that loads nothing leaves what a worker holds: any will do.
    let spared = full || loads.is_none();
    same.or_else(empty).or_else(|| if spared { other() } else { None })
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn a_worker_that_holds_the_base_gets_the_job() {
        let idle: [(&[usize], Option<&str>); 4] = [(&[], Some("a")), (&[], None), (&[], Some("b")), (&[1], Some("c"))];
        assert_eq!(choose(&idle, &[], Some("b"), false), Some(2));
        assert_eq!(choose(&idle, &[], Some("c"), false), Some(1), "other GPUs");
        assert_eq!(choose(&idle[2..], &[], Some("c"), false), None, "`b` is spared");
        assert_eq!(choose(&idle[2..], &[], Some("c"), true), Some(0));
        assert_eq!(choose(&idle[2..], &[], None, false), Some(0));
        assert_eq!(choose(&idle, &[2], None, true), None);
    }
}
