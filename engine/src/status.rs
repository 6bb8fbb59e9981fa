//! `status`: what each stage comes to now. The plan's answers, with what the last run and the locks tell.

use std::collections::{BTreeMap, HashMap};

use palinode_cache::{Cache, StageKey};
use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::{
    event::Event,
    graph::Graph,
    plan::{Decision, Plan, PlanNode},
    runs,
};

/// What a pipeline's stages come to.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The pipeline's name.
    pub pipeline: String,
    /// All instances together.
    pub counts: Counts,
    /// Each stage, in topological order.
    pub stages: Vec<StageStatus>,
    /// Runs of any pipeline that are going on in this cache.
    pub runs: Vec<String>,
}

/// Instances by what they come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All of them.
    pub instances: usize,
    /// Their result is there.
    pub fresh: usize,
    /// They had a result once; now something else is wanted, or it is lost.
    pub stale: usize,
    /// They never had one.
    pub never_run: usize,
    /// They failed when the pipeline last ran, and nothing has changed since.
    pub failed: usize,
    /// Some process is making their result now.
    pub running: usize,
}

/// What one stage's instances come to.
#[derive(Debug, Clone, Serialize)]
pub struct StageStatus {
    /// The stage.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Its instances.
    #[serde(flatten)]
    pub counts: Counts,
    /// The first instance that is stale, with the cause.
    pub first_stale: Option<Cause>,
    /// The first instance that failed, with its message.
    pub first_failed: Option<Cause>,
    /// Those that are running.
    pub running_now: Vec<String>,
}

/// Why an instance is as it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// The instance.
    pub address: String,
    /// In words.
    pub reason: String,
}

enum State {
    Fresh,
    Stale(String),
    NeverRun,
    Failed(String),
    Running,
}

/// What `plan` of `graph` comes to.
pub fn status(graph: &Graph, plan: &Plan, cache: &Cache) -> Status {
    let failures = last_failures(plan, cache, &graph.pipeline);
    let mut status =
        Status { pipeline: graph.pipeline.clone(), counts: Counts::default(), stages: Vec::new(), runs: Vec::new() };
    let mut places: HashMap<&str, usize> = HashMap::new();
    for node in &plan.nodes {
        let stage = graph.instance(node.node).address.stage.as_str();
        let place = *places.entry(stage).or_insert_with(|| {
            status.stages.push(StageStatus::new(stage, &node.kind));
            status.stages.len() - 1
        });
        let state = state(node, cache, &failures);
        status.counts.add(&state);
        status.stages[place].add(&node.address, state);
    }
    status.runs = runs::live(cache.root()).unwrap_or_default();
    status
}

/// What each instance of `plan` comes to in a word, by its place in the graph: for colours.
pub fn words(plan: &Plan, pipeline: &str, cache: &Cache) -> BTreeMap<NodeIndex, &'static str> {
    let failures = last_failures(plan, cache, pipeline);
    let word = |node: &PlanNode| match state(node, cache, &failures) {
        State::Fresh => "fresh",
        State::Stale(_) => "stale",
        State::NeverRun => "never run",
        State::Failed(_) => "failed",
        State::Running => "running",
    };
    plan.nodes.iter().map(|node| (node.node, word(node))).collect()
}

fn state(node: &PlanNode, cache: &Cache, failures: &HashMap<String, Failure>) -> State {
    let key = node.decision.key();
    let reason = match &node.decision {
        Decision::Hit(_) => return State::Fresh,
        Decision::Run { reason, .. } | Decision::May { reason, .. } => reason.to_string(),
        Decision::Same { runs_as, .. } => format!("the same result as {runs_as}, which will run"),
    };
    if key.is_some_and(|key| cache.is_locked(&key)) {
        return State::Running;
    }
    // Of another key, the failure says nothing about what is wanted now.
    let failure = failures.get(&node.address).filter(|failure| key.is_none() || failure.key == key);
    match failure {
        Some(failure) => State::Failed(failure.message.clone()),
        None if node.last.is_none() => State::NeverRun,
        None => State::Stale(reason),
    }
}

struct Failure {
    key: Option<StageKey>,
    message: String,
}

/// What failed in the last run of `pipeline`; not asked for if nothing is to be made.
fn last_failures(plan: &Plan, cache: &Cache, pipeline: &str) -> HashMap<String, Failure> {
    let (mut keys, mut failures) = (HashMap::new(), HashMap::new());
    if plan.nodes.iter().all(|node| matches!(node.decision, Decision::Hit(_))) {
        return failures;
    }
    let Ok(Some(id)) = runs::last_of(cache.root(), pipeline) else { return failures };
    for line in runs::events_named(cache.root(), &id, &["stage_started", "stage_failed"]).unwrap_or_default() {
        match line.event {
            Event::StageStarted { address, key, .. } => drop(keys.insert(address, key)),
            Event::StageFailed { address, message, .. } => {
                let key = keys.get(&address).copied();
                failures.insert(address, Failure { key, message });
            }
            _ => {}
        }
    }
    failures
}

impl Counts {
    fn add(&mut self, state: &State) {
        self.instances += 1;
        *match state {
            State::Fresh => &mut self.fresh,
            State::Stale(_) => &mut self.stale,
            State::NeverRun => &mut self.never_run,
            State::Failed(_) => &mut self.failed,
            State::Running => &mut self.running,
        } += 1;
    }

    /// The counts that are not zero, with their words, worst first.
    pub fn words(&self) -> Vec<(usize, &'static str)> {
        let all = [
            (self.failed, "failed"),
            (self.running, "running"),
            (self.stale, "stale"),
            (self.never_run, "never run"),
            (self.fresh, "fresh"),
        ];
        all.into_iter().filter(|(count, _)| *count > 0).collect()
    }
}

impl StageStatus {
    fn new(stage: &str, kind: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            kind: kind.to_owned(),
            counts: Counts::default(),
            first_stale: None,
            first_failed: None,
            running_now: Vec::new(),
        }
    }

    fn add(&mut self, address: &str, state: State) {
        self.counts.add(&state);
        let cause = |reason| Cause { address: address.to_owned(), reason };
        match state {
            State::Stale(reason) => drop(self.first_stale.get_or_insert_with(|| cause(reason))),
            State::Failed(message) => drop(self.first_failed.get_or_insert_with(|| cause(message))),
            State::Running => self.running_now.push(address.to_owned()),
            State::Fresh | State::NeverRun => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fakes::{Pipe, Place};

    fn of(place: &Place, pipe: &Pipe) -> Status {
        status(&pipe.0, &place.plan(pipe), &place.cache)
    }

    fn pipe(text: &str, mode: &str) -> Pipe {
        let mut pipe = Pipe::new();
        let a = pipe.text("a", text);
        pipe.after("b[x=0]", a, json!({ "mode": mode }));
        pipe.after("b[x=1]", a, json!({ "text": "fixed" }));
        pipe
    }

    #[test]
    fn each_state_has_its_count_and_cause() {
        let place = Place::new();
        assert_eq!(of(&place, &pipe("1", "echo")).counts.words(), [(3, "never run")]);
        place.run(&pipe("1", "echo"));
        assert_eq!(of(&place, &pipe("1", "echo")).counts.words(), [(3, "fresh")]);
        let stale = of(&place, &pipe("2", "echo"));
        assert_eq!(stale.counts.words(), [(3, "stale")]);
        let cause = stale.stages[0].first_stale.clone().unwrap();
        assert!(cause.address == "a" && cause.reason.contains("with.text"), "{cause:?}");
        assert_eq!(stale.stages[1].first_stale.as_ref().unwrap().address, "b[x=0]");

        place.run(&pipe("1", "fail"));
        let failed = of(&place, &pipe("1", "fail"));
        assert_eq!(failed.counts.words(), [(1, "failed"), (2, "fresh")]);
        let cause = failed.stages[1].first_failed.clone().unwrap();
        assert!(cause.reason.contains("no luck"), "{cause:?}");
        // With other params, the failure is history.
        assert_eq!(of(&place, &pipe("1", "length")).counts.words(), [(1, "stale"), (2, "fresh")]);
    }

    #[test]
    fn what_a_process_is_making_is_running() {
        let place = Place::new();
        let pipe = pipe("1", "echo");
        let key = place.plan(&pipe).nodes[0].decision.key().unwrap();
        let lock = place.cache.lock(&key).unwrap();
        let status = of(&place, &pipe);
        assert_eq!(status.counts.words(), [(1, "running"), (2, "never run")]);
        assert_eq!(status.stages[0].running_now, ["a"]);
        drop(lock);
        assert_eq!(of(&place, &pipe).counts.running, 0);
    }
}
