//! The run: a dispatcher that owns all state, and jobs that tell it by messages how they go. Results become known as
//! jobs end; what is downstream is decided then, from what came out, so outputs that came out the same cut it off.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use palinode_cache::{Cache, CacheError, FileTree, Record, StageKey};
use petgraph::graph::NodeIndex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    event::{Event, NodeOutcome, Outcome, RunLog, RunSummary, run_id},
    executor::Executor,
    graph::{Binding, Graph, Missing, Source},
    job::{InputFile, InputFiles, JobInput, JobRow},
    perform::{NoResult, Performed, Task},
    plan::{Decision, Identity, Plan, PlanError, PlanOptions, Planner, Settled},
    publish::{self, PublishError},
    ready::{self, Limits, Need, ReadyQueue, TaskId},
    why::Reason,
};

pub use crate::perform::failed_dir;

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
    let mut planner = Planner::new(graph, selection, cache, &PlanOptions { force: options.force.clone() })?;
    let plan = planner.plan()?;
    let id = run_id(Timestamp::now());
    let (jobs, messages) = unbounded_channel();
    let mut dispatcher = Dispatcher {
        // In a cache that can only be read, hits are still hits; there is nowhere to log them.
        log: (!cache.is_read_only()).then(|| RunLog::create(cache.root(), &id)).transpose().map_err(RunError::Log)?,
        on_event: &on_event,
        graph,
        cache,
        options: &options,
        executor,
        queue: queue(graph, &plan, &options),
        outcomes: vec![None; plan.nodes.len()],
        waiting: HashMap::new(),
        same: HashMap::new(),
        planner,
        plan: &plan,
        jobs,
    };
    let (pipeline, file) = (graph.pipeline.clone(), graph.file.clone());
    dispatcher.tell(&Event::RunStarted { run: id.clone(), pipeline, file, instances: plan.nodes.len() })?;
    dispatcher.dispatch(messages).await?;
    let mut summary = dispatcher.summary(id);
    if let Some(out) = &options.out {
        let results = dispatcher.results();
        let published = publish::publish(graph, &results, cache, out)?;
        for file in published {
            if file.written {
                dispatcher.tell(&Event::Published { address: file.address, path: file.path.clone() })?;
                summary.written.push(file.path.clone());
            }
            summary.files.push(file.path);
        }
    }
    summary.seconds = clock.elapsed().as_secs_f64();
    dispatcher.tell(&Event::RunFinished(summary.clone()))?;
    Ok(summary)
}

fn queue(graph: &Graph, plan: &Plan, options: &RunOptions) -> ReadyQueue {
    let ids: HashMap<NodeIndex, TaskId> = plan.nodes.iter().enumerate().map(|(id, node)| (node.node, id)).collect();
    let tasks = plan.nodes.iter().map(|node| {
        let instance = graph.instance(node.node);
        let mut needs: BTreeMap<TaskId, bool> = BTreeMap::new();
        let mut need = |source: &Source, success: bool| {
            if let Some(&on) = ids.get(&source.node) {
                *needs.entry(on).or_default() |= success;
            }
        };
        for binding in instance.inputs.values() {
            match binding {
                Binding::One(source) => need(source, true),
                Binding::Table { rows, missing } => {
                    let sources = rows.iter().filter_map(|row| row.source.as_ref());
                    sources.for_each(|source| need(source, *missing == Missing::Error));
                }
            }
        }
        let seconds = match &node.decision {
            Decision::Hit(_) => 0.0,
            _ => node.seconds.unwrap_or(1.0),
        };
        let needs = needs.into_iter().map(|(on, success)| Need { on, success }).collect();
        ready::Task { needs, resources: instance.resources.clone(), seconds }
    });
    let cpus = options.cpus.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let memory_mib = options.memory_mib.unwrap_or(u64::MAX);
    ReadyQueue::new(tasks.collect(), Limits { jobs: options.jobs, cpus, gpus: options.gpus, memory_mib })
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

enum Message {
    Event(Event),
    Ended(TaskId, Result<Performed, NoResult>),
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
    jobs: UnboundedSender<Message>,
    log: Option<RunLog>,
    on_event: &'a (dyn Fn(&Event) + Send + Sync),
}

impl Dispatcher<'_> {
    async fn dispatch(&mut self, mut messages: UnboundedReceiver<Message>) -> Result<(), RunError> {
        let ready = self.queue.initial();
        self.settle_ready(ready)?;
        loop {
            let cancelled = self.options.cancelled.load(Ordering::Relaxed);
            while !cancelled && let Some(id) = self.queue.start() {
                if let Err(error) = self.begin(id) {
                    self.ended(id, Err(error))?;
                }
            }
            if self.queue.running() == 0 {
                return self.cancel_rest();
            }
            // Woken now and then, so that a cancelled run begins nothing new.
            match tokio::time::timeout(Duration::from_millis(200), messages.recv()).await {
                Ok(Some(Message::Event(event))) => self.tell(&event)?,
                Ok(Some(Message::Ended(id, result))) => self.ended(id, result)?,
                Ok(None) | Err(_) => {}
            }
        }
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
                Decision::Hit(record) => ready.extend(self.succeeded(id, record, None)?),
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
        let (events, mut heard) = unbounded_channel();
        let task = Task {
            cache: self.cache.clone(),
            executor: self.executor.clone(),
            events,
            cancelled: self.options.cancelled.clone(),
            kind: instance.kind.clone(),
            address: instance.address.to_string(),
            identity,
            params: instance.params.clone(),
            reason,
            inputs: self.inputs(node)?,
            outside: self.planner.outside(node),
            paths: instance.paths.clone(),
            cpus: instance.resources.cpus,
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
            let failed = |error| NoResult::Failed { message: format!("its job broke off: {error}"), kept: None };
            let _ = jobs.send(Message::Ended(id, result.unwrap_or_else(|error| Err(failed(error)))));
        });
        Ok(())
    }

    /// What arrives at the ports of `node`, with the places where it lies now.
    fn inputs(&self, node: NodeIndex) -> Result<BTreeMap<String, JobInput>, NoResult> {
        let files = |port: &str, source: &Source| -> Result<Option<InputFiles>, NoResult> {
            let Some(Settled::Done(record)) = self.planner.settled(source.node) else { return Ok(None) };
            record.outputs.get(source.port).map(|tree| self.locate(port, tree)).transpose()
        };
        let mut inputs = BTreeMap::new();
        for (port, binding) in &self.graph.instance(node).inputs {
            let input = match binding {
                Binding::One(source) => files(port, source)?.map(JobInput::One),
                Binding::Table { rows, .. } => {
                    let row = |row: &crate::graph::TableRow| {
                        let input = row.source.as_ref().map(|source| files(port, source)).transpose()?.flatten();
                        Ok(JobRow { coords: row.coords.clone(), input })
                    };
                    Some(JobInput::Table(rows.iter().map(row).collect::<Result<_, NoResult>>()?))
                }
            };
            inputs.extend(input.map(|input| (port.clone(), input)));
        }
        Ok(inputs)
    }

    fn locate(&self, port: &str, tree: &FileTree) -> Result<InputFiles, NoResult> {
        let mut files = BTreeMap::new();
        for (name, entry) in &tree.0 {
            let Some(path) = self.cache.locate(entry)? else {
                let message = format!("`{name}` of input `{port}` was lost or damaged during this run; run again");
                return Err(NoResult::Failed { message, kept: None });
            };
            files.insert(name.clone(), InputFile { path, entry: *entry });
        }
        Ok(InputFiles { digest: tree.digest(), files })
    }

    fn ended(&mut self, id: TaskId, result: Result<Performed, NoResult>) -> Result<(), RunError> {
        let key = self.waiting.remove(&id).map(|(_, identity)| identity.key);
        let same = key.and_then(|key| self.same.remove(&key)).unwrap_or_default();
        let mut ready = Vec::new();
        match result {
            Ok(Performed { record, seconds }) => {
                ready.extend(self.succeeded(id, record.clone(), seconds)?);
                for id in same {
                    ready.extend(self.succeeded(id, record.clone(), None)?);
                }
            }
            Err(NoResult::Cancelled) => {
                for id in std::iter::once(id).chain(same) {
                    self.cancelled(id)?;
                    self.queue.end(id, false);
                }
            }
            Err(NoResult::Failed { message, kept }) => {
                let first = self.plan.nodes[id].address.clone();
                ready.extend(self.failed(id, key, message.clone(), kept)?);
                for id in same {
                    ready.extend(self.failed(id, key, format!("the same result as {first}: {message}"), None)?);
                }
            }
        }
        if !self.options.cancelled.load(Ordering::Relaxed) {
            self.settle_ready(ready)?;
        }
        Ok(())
    }

    fn succeeded(&mut self, id: TaskId, record: Arc<Record>, ran: Option<f64>) -> Result<Vec<TaskId>, RunError> {
        let node = &self.plan.nodes[id];
        let (address, key) = (node.address.clone(), record.key);
        let (outcome, event) = match ran {
            Some(seconds) => {
                let summary = record.summary.clone();
                (Outcome::Executed, Event::StageFinished { address: address.clone(), key, seconds, summary })
            }
            None => (Outcome::Cached, Event::StageCached { address: address.clone(), key }),
        };
        if node.last != Some(key) && !self.cache.is_read_only() {
            self.cache.set_last(&self.graph.pipeline, &address, &key)?;
        }
        self.planner.settle(node.node, Settled::Done(record));
        self.outcomes[id] = Some(NodeOutcome { address, key: Some(key), outcome, seconds: ran.unwrap_or(0.0) });
        self.tell(&event)?;
        let next = self.queue.end(id, true);
        Ok(next.ready)
    }

    fn failed(
        &mut self,
        id: TaskId,
        key: Option<StageKey>,
        message: String,
        kept: Option<PathBuf>,
    ) -> Result<Vec<TaskId>, RunError> {
        let address = self.plan.nodes[id].address.clone();
        self.tell(&Event::StageFailed { address: address.clone(), message: message.clone(), kept })?;
        self.no_result(id, key, Outcome::Failed(message));
        let next = self.queue.end(id, false);
        for (blocked, _) in next.blocked {
            let by = address.clone();
            self.tell(&Event::StageBlocked { address: self.plan.nodes[blocked].address.clone(), by: by.clone() })?;
            self.no_result(blocked, None, Outcome::Blocked(by));
        }
        Ok(next.ready)
    }

    fn cancelled(&mut self, id: TaskId) -> Result<(), RunError> {
        self.tell(&Event::StageCancelled { address: self.plan.nodes[id].address.clone() })?;
        self.no_result(id, None, Outcome::Cancelled);
        Ok(())
    }

    fn no_result(&mut self, id: TaskId, key: Option<StageKey>, outcome: Outcome) {
        let node = &self.plan.nodes[id];
        self.planner.settle(node.node, Settled::Failed);
        self.outcomes[id] = Some(NodeOutcome { address: node.address.clone(), key, outcome, seconds: 0.0 });
    }

    /// Nothing runs and nothing can start: what is left was not begun because the run was cancelled.
    fn cancel_rest(&mut self) -> Result<(), RunError> {
        for id in 0..self.outcomes.len() {
            if self.outcomes[id].is_none() {
                self.cancelled(id)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, event: &Event) -> Result<(), RunError> {
        (self.on_event)(event);
        // The log tells, it decides nothing: what is done is not thrown away because the disk is full.
        if let Some(Err(error)) = self.log.as_mut().map(|log| log.append(event)) {
            tracing::warn!(reason = palinode_cache::reason(&error), "the run's log is not written on");
            self.log = None;
        }
        Ok(())
    }

    /// Each instance that has a result, with it.
    fn results(&self) -> Vec<(NodeIndex, Arc<Record>)> {
        let result = |node: NodeIndex| match self.planner.settled(node) {
            Some(Settled::Done(record)) => Some((node, record.clone())),
            _ => None,
        };
        self.plan.nodes.iter().filter_map(|node| result(node.node)).collect()
    }

    fn summary(&mut self, run: String) -> RunSummary {
        let nodes: Vec<NodeOutcome> = self.outcomes.iter_mut().filter_map(Option::take).collect();
        let mut summary = RunSummary { run, pipeline: self.graph.pipeline.clone(), ..RunSummary::default() };
        for node in &nodes {
            *match node.outcome {
                Outcome::Executed => &mut summary.executed,
                Outcome::Cached => &mut summary.cached,
                Outcome::Failed(_) => &mut summary.failed,
                Outcome::Blocked(_) => &mut summary.blocked,
                Outcome::Cancelled => &mut summary.cancelled,
            } += 1;
        }
        summary.nodes = nodes;
        summary
    }
}
