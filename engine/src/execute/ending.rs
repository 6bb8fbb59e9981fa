//! What follows when an instance ends: what is told, what becomes ready, what is blocked; and the run's summary.

use std::sync::Arc;

use palinode_cache::{StageKey, StoredResult};
use petgraph::graph::NodeIndex;

use super::{Dispatcher, RunError};
use crate::{
    event::{Event, NodeOutcome, Outcome, RunLog, RunSummary},
    perform::{Failure, NoResult, Performed, Ran},
    plan::Settled,
    ready::TaskId,
};

impl Dispatcher<'_> {
    pub(super) fn ended(&mut self, id: TaskId, result: Result<Performed, NoResult>) -> Result<(), RunError> {
        let key = self.waiting.remove(&id).map(|(_, identity)| identity.key);
        let same = key.and_then(|key| self.same.remove(&key)).unwrap_or_default();
        let mut ready = Vec::new();
        // What is decided now must still be there when it is told.
        let _hold = self.cache.hold()?;
        match result {
            Ok(Performed { result, ran, hold: _told }) => {
                ready.extend(self.succeeded(id, result.clone(), ran)?);
                for id in same {
                    ready.extend(self.succeeded(id, result.clone(), None)?);
                }
            }
            Err(NoResult::Cancelled) => {
                for id in std::iter::once(id).chain(same) {
                    self.cancelled(id);
                    self.queue.end(id, false);
                }
            }
            Err(NoResult::Failed(failure)) => {
                let first = self.plan.nodes[id].address.clone();
                let message = format!("the same result as {first}: {}", failure.message);
                ready.extend(self.failed(id, key, failure));
                for id in same {
                    let failure = Failure { message: message.clone(), ..Failure::default() };
                    ready.extend(self.failed(id, key, failure));
                }
            }
        }
        if !self.is_ending() {
            self.settle_ready(ready)?;
        }
        // While the collector is still kept out.
        self.write_log(RunLog::flush);
        Ok(())
    }

    pub(super) fn succeeded(
        &mut self,
        id: TaskId,
        result: Arc<StoredResult>,
        ran: Option<Ran>,
    ) -> Result<Vec<TaskId>, RunError> {
        let node = &self.plan.nodes[id];
        let (address, key) = (node.address.clone(), result.key);
        let seconds = ran.as_ref().map_or(0.0, |ran| ran.seconds);
        let (outcome, event) = match ran {
            Some(Ran { seconds, summary }) => {
                (Outcome::Executed, Event::StageFinished { address: address.clone(), key, seconds, summary })
            }
            None => (Outcome::Cached, Event::StageCached { address: address.clone(), key }),
        };
        if node.last != Some(key) && !self.cache.is_read_only() {
            self.cache.set_last(&self.graph.pipeline, &address, &key)?;
        }
        self.planner.settle(node.node, Settled::Done(result));
        self.outcomes[id] = Some(NodeOutcome { address, key: Some(key), outcome, seconds });
        self.tell(&event);
        let next = self.queue.end(id, true);
        Ok(next.ready)
    }

    fn failed(&mut self, id: TaskId, key: Option<StageKey>, failure: Failure) -> Vec<TaskId> {
        let address = self.plan.nodes[id].address.clone();
        let Failure { message, kept, tail, .. } = failure;
        self.failed += 1;
        self.tell(&Event::StageFailed { address: address.clone(), message: message.clone(), kept, tail });
        self.no_result(id, key, Outcome::Failed(message));
        let next = self.queue.end(id, false);
        for (blocked, _) in next.blocked {
            let by = address.clone();
            self.tell(&Event::StageBlocked { address: self.plan.nodes[blocked].address.clone(), by: by.clone() });
            self.no_result(blocked, None, Outcome::Blocked(by));
        }
        next.ready
    }

    fn cancelled(&mut self, id: TaskId) {
        self.tell(&Event::StageCancelled { address: self.plan.nodes[id].address.clone() });
        self.no_result(id, None, Outcome::Cancelled);
    }

    fn no_result(&mut self, id: TaskId, key: Option<StageKey>, outcome: Outcome) {
        let node = &self.plan.nodes[id];
        self.planner.settle(node.node, Settled::Failed);
        self.outcomes[id] = Some(NodeOutcome { address: node.address.clone(), key, outcome, seconds: 0.0 });
    }

    /// Nothing runs and nothing can start: what is left was not begun because the run was to end.
    pub(super) fn cancel_rest(&mut self) {
        for id in 0..self.outcomes.len() {
            if self.outcomes[id].is_none() {
                self.cancelled(id);
            }
        }
    }

    /// Waits until the results of this run are on disk and in the index, where the next plan finds them.
    pub(super) fn flush(&self) -> Result<(), RunError> {
        let ran = |outcome: &&NodeOutcome| outcome.outcome == Outcome::Executed;
        let keys: Vec<_> = self.outcomes.iter().flatten().filter(ran).filter_map(|outcome| outcome.key).collect();
        if !keys.is_empty() {
            self.cache.flush()?;
            self.cache.index_results(&keys);
        }
        Ok(())
    }

    /// Each instance that has a result, with it.
    pub(super) fn results(&self) -> Vec<(NodeIndex, Arc<StoredResult>)> {
        let result = |node: NodeIndex| match self.planner.settled(node) {
            Some(Settled::Done(result)) => Some((node, result.clone())),
            _ => None,
        };
        self.plan.nodes.iter().filter_map(|node| result(node.node)).collect()
    }

    pub(super) fn summary(&mut self, run: String) -> RunSummary {
        let nodes: Vec<NodeOutcome> = std::mem::take(&mut self.outcomes).into_iter().flatten().collect();
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
