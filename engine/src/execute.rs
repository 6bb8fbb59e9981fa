//! The run: a dispatcher that owns all state, and jobs that tell it by messages how they go. Results become known as
//! jobs end; what is downstream is decided then, from what came out, so outputs that came out the same cut it off.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use jiff::Timestamp;
use palinode_cache::{Cache, Hold, StageKey};
use petgraph::graph::NodeIndex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    event::{Event, NodeOutcome, RunLog, RunSummary, run_id},
    executor::Executor,
    gpus::Gpus,
    graph::Graph,
    perform::{NoResult, Performed, Task},
    plan::{Decision, Identity, Plan, PlanOptions, Planner},
    publish,
    ready::{ReadyQueue, TaskId},
    resources,
    why::Reason,
};

mod ending;
mod expected;
mod inputs;
mod options;
mod parked;
mod queue;

pub use self::options::{Git, RunError, RunOptions};
pub use crate::perform::failed_dir;

/// Brings the instances in `selection` up to date; it holds with each instance all that it needs.
///
/// # Errors
/// See [`RunError`]; a failed stage is no error but in the summary.
pub async fn run(
    graph: &Graph,
    selection: &BTreeSet<NodeIndex>,
    cache: &Cache,
    options: RunOptions,
    executor: Arc<dyn Executor>,
    on_event: impl Fn(&Event) + Send + Sync,
) -> Result<RunSummary, RunError> {
    let clock = Instant::now();
    let hold = cache.hold()?;
    let cache = &cache.batched();
    let mut planner = Planner::new(graph, selection, cache, &PlanOptions { force: options.force.clone() })?;
    let plan = planner.plan()?;
    resources::check(graph, &plan, options.limits())?;
    let id = run_id(Timestamp::now());
    let (jobs, messages) = unbounded_channel();
    let mut dispatcher = Dispatcher {
        // In a cache that can only be read, hits are still hits; there is nowhere to log them.
        hold: Some(hold),
        log: (!cache.is_read_only()).then(|| RunLog::create(cache.root(), &id)).transpose().map_err(RunError::Log)?,
        on_event: &on_event,
        graph,
        cache,
        options: &options,
        executor,
        queue: queue::queue(graph, &plan, &options),
        outcomes: vec![None; plan.nodes.len()],
        waiting: HashMap::new(),
        same: HashMap::new(),
        planner,
        plan: &plan,
        parked: BTreeSet::new(),
        gpus: Gpus::new(options.gpus.clone(), options.gpu_locks.clone()),
        expected: None,
        failed: 0,
        jobs,
    };
    let (pipeline, file) = (graph.pipeline.clone(), graph.file.clone());
    dispatcher.tell(&Event::RunStarted { run: id.clone(), pipeline, file, instances: plan.nodes.len() });
    if plan.nodes.iter().any(|node| !matches!(node.decision, Decision::Hit(_))) {
        options.git.start();
    }
    dispatcher.dispatch(messages).await?;
    dispatcher.flush()?;
    let mut summary = dispatcher.summary(id);
    if let Some(out) = &options.out {
        let results = dispatcher.results();
        let published = publish::publish(graph, &results, cache, out)?;
        for file in published {
            if file.written {
                dispatcher.tell(&Event::Published { address: file.address, path: file.path.clone() });
                summary.written.push(file.path.clone());
            }
            summary.files.push(file.path);
        }
    }
    summary.seconds = clock.elapsed().as_secs_f64();
    // Not a copy: of many instances it is large.
    let finished = Event::RunFinished(summary);
    dispatcher.tell(&finished);
    let Event::RunFinished(summary) = finished else { unreachable!("it was made above") };
    Ok(summary)
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

enum Message {
    Event(Event),
    Ended(TaskId, Result<Performed, NoResult>),
    /// Nobody else makes the result of this parked instance any more.
    Free(TaskId),
}

struct Dispatcher<'a> {
    graph: &'a Graph,
    cache: &'a Cache,
    plan: &'a Plan,
    options: &'a RunOptions,
    planner: Planner<'a>,
    executor: Arc<dyn Executor>,
    queue: ReadyQueue,
    /// How each instance ended; none if it hasn't, in the order of the plan.
    outcomes: Vec<Option<NodeOutcome>>,
    /// What each queued instance is to be the result of, and why.
    waiting: HashMap<TaskId, (Reason, Identity)>,
    /// The instance that runs for a key, and those that wait for the same result.
    same: HashMap<StageKey, Vec<TaskId>>,
    /// Instances whose result another process is making.
    parked: BTreeSet<TaskId>,
    gpus: Gpus,
    /// When it was told how long the rest may take.
    expected: Option<Instant>,
    /// Instances that failed so far.
    failed: usize,
    jobs: UnboundedSender<Message>,
    log: Option<RunLog>,
    /// Keeps the collector out while the log doesn't tell it what this run needs: until the plan's hits are told, and
    /// for good where there is no log.
    hold: Option<Arc<Hold>>,
    on_event: &'a (dyn Fn(&Event) + Send + Sync),
}

impl Dispatcher<'_> {
    async fn dispatch(&mut self, mut messages: UnboundedReceiver<Message>) -> Result<(), RunError> {
        let ready = self.queue.initial();
        self.settle_ready(ready)?;
        self.write_log(RunLog::flush);
        if self.log.is_some() {
            self.hold = None;
        }
        let interrupt = self.options.interrupt.clone();
        loop {
            if self.queue.running() > 0 || self.queue.is_queued() {
                self.expect();
            }
            while !self.is_ending()
                && let Some(id) = self.queue.start()
            {
                if let Err(error) = self.begin(id) {
                    self.ended(id, Err(error))?;
                }
            }
            if self.queue.running() == 0 && (self.parked.is_empty() || self.is_ending()) {
                self.cancel_rest();
                return Ok(());
            }
            self.write_log(RunLog::flush);
            tokio::select! {
                Some(message) = messages.recv() => match message {
                    Message::Event(event) => self.tell(&event),
                    Message::Ended(id, result) => self.ended(id, result)?,
                    Message::Free(id) => self.unpark(id)?,
                },
                // Those that wait for another process need not be waited for.
                () = interrupt.draining(), if !interrupt.is_draining() => {}
            }
        }
    }

    /// Whether nothing new is to begin.
    fn is_ending(&self) -> bool {
        self.options.interrupt.is_draining() || (self.options.fail_fast && self.failed > 0)
    }

    /// Decides instances whose inputs are all known: hits end at once, which may make others ready.
    fn settle_ready(&mut self, ready: Vec<TaskId>) -> Result<(), RunError> {
        let mut ready = VecDeque::from(ready);
        while let Some(id) = ready.pop_front() {
            let node = &self.plan.nodes[id];
            let decision = match &node.decision {
                // Of those with the same result, whichever is ready first runs.
                Decision::May { .. } | Decision::Same { .. } => self.planner.decide(node.node)?,
                decision => decision.clone(),
            };
            match decision {
                Decision::Hit(result) => ready.extend(self.succeeded(id, result, None)?),
                Decision::Run { reason, identity } => match self.same.get_mut(&identity.key) {
                    Some(others) => others.push(id),
                    None => {
                        self.same.insert(identity.key, Vec::new());
                        self.waiting.insert(id, (reason, identity));
                        self.queue.enqueue(id);
                    }
                },
                Decision::Same { .. } | Decision::May { .. } => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, id: TaskId) -> Result<(), NoResult> {
        let node = self.plan.nodes[id].node;
        let instance = self.graph.instance(node);
        let Some((reason, identity)) = self.waiting.get(&id).cloned() else { return Ok(()) };
        let Some(lock) = self.cache.try_lock(&identity.key)? else {
            self.park(id, identity.key);
            return Ok(());
        };
        let (events, mut heard) = unbounded_channel();
        let task = Task {
            cache: self.cache.clone(),
            executor: self.executor.clone(),
            events,
            interrupt: self.options.interrupt.clone(),
            kind: instance.kind.clone(),
            address: instance.address.to_string(),
            identity,
            params: instance.params.clone(),
            reason,
            inputs: self.inputs(node)?,
            outside: self.planner.outside(node),
            files: self.planner.files(node),
            paths: instance.paths.clone(),
            folder: folder(&self.graph.file),
            resources: instance.resources.clone(),
            attempts: instance.attempts.clone(),
            gpus: self.gpus.clone(),
            git: self.options.git.clone(),
            lock: Arc::new(lock),
        };
        let jobs = self.jobs.clone();
        tokio::spawn(async move {
            let mut work = tokio::spawn(task.perform());
            let result = loop {
                tokio::select! {
                    // All that a job said is passed on before its end is: the task drops its sender when it ends.
                    biased;
                    Some(event) = heard.recv() => drop(jobs.send(Message::Event(event))),
                    result = &mut work => break result,
                }
            };
            while let Ok(event) = heard.try_recv() {
                let _ = jobs.send(Message::Event(event));
            }
            let broke_off = |error| NoResult::failed(format!("its job broke off: {error}"));
            let _ = jobs.send(Message::Ended(id, result.unwrap_or_else(|error| Err(broke_off(error)))));
        });
        Ok(())
    }

    fn tell(&mut self, event: &Event) {
        (self.on_event)(event);
        self.write_log(|log| log.append(event));
    }

    /// The log tells, it decides nothing: what is done is not thrown away because the disk is full.
    fn write_log(&mut self, write: impl FnOnce(&mut RunLog) -> io::Result<()>) {
        if let Some(Err(error)) = self.log.as_mut().map(write) {
            tracing::warn!(reason = palinode_cache::reason(&error), "the run's log is not written on");
            self.log = None;
            self.hold = self.cache.hold().ok();
        }
    }
}

/// The folder of a pipeline's file, as the system knows it.
fn folder(file: &Path) -> PathBuf {
    let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    file.parent().map(Path::to_owned).unwrap_or_default()
}
