//! `why`: for one instance, why it will run, or where its result came from, and what changed before that.

use std::collections::BTreeSet;

use palinode_cache::{Cache, Execution, KeyParts, PortContent, StageKey};
use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::{
    graph::Graph,
    plan::{Decision, PlanError, PlanOptions, plan},
    runs,
    why::{Change, Reason, clip, diff},
};

/// Why an instance is as it is.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The instance.
    pub address: String,
    /// Its kind.
    pub kind: String,
    /// What it comes to.
    pub state: State,
    /// How the last result that this address had before differs from its result now, newest first.
    pub before: Option<Before>,
}

/// What an instance comes to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its result is there.
    Hit {
        /// The key.
        key: StageKey,
        /// The key's parts.
        parts: Box<KeyParts>,
        /// Who made it where and when.
        made: Box<Execution>,
        /// The run that made it; `None` if it was made in another cache, or that run's log is gone.
        run: Option<String>,
    },
    /// It runs.
    Run {
        /// Why.
        reason: Reason,
        /// The key.
        key: StageKey,
        /// The key's parts.
        parts: Box<KeyParts>,
    },
    /// It shares its result with an instance that runs.
    Same {
        /// That instance.
        runs_as: String,
    },
    /// It may run.
    May {
        /// What speaks for it so far.
        reason: Reason,
        /// What it waits on.
        waits_on: Vec<String>,
    },
}

/// An earlier result at the same address.
#[derive(Debug, Clone, Serialize)]
pub struct Before {
    /// The run in which the address had it.
    pub run: String,
    /// Its key.
    pub key: StageKey,
    /// What changed since; empty if its record is gone.
    pub changes: Vec<Change>,
}

/// Explains each of `nodes`, which are in `selection`.
///
/// # Errors
/// See [`plan`].
pub fn explain(
    graph: &Graph,
    selection: &BTreeSet<NodeIndex>,
    nodes: &BTreeSet<NodeIndex>,
    cache: &Cache,
) -> Result<Vec<Explanation>, PlanError> {
    let plan = plan(graph, selection, cache, &PlanOptions::default())?;
    let mut explanations = Vec::new();
    for node in plan.nodes.into_iter().filter(|node| nodes.contains(&node.node)) {
        let history = runs::history(cache.root(), &graph.pipeline, &node.address);
        let history: Vec<_> = history.map(Iterator::collect).unwrap_or_default();
        let now = node.decision.key();
        let record = match &node.decision {
            Decision::Hit(result) => {
                let vanished = || PlanError::Vanished { address: node.address.clone() };
                Some(cache.record(&result.key)?.ok_or_else(vanished)?)
            }
            _ => None,
        };
        let parts = match &node.decision {
            Decision::Hit(_) => record.as_ref().map(|record| record.parts.clone()),
            Decision::Run { identity, .. } => Some(identity.parts.clone()),
            Decision::Same { .. } | Decision::May { .. } => None,
        };
        let before = match (parts, history.iter().find(|past| Some(past.key) != now)) {
            (Some(parts), Some(past)) => {
                let old = cache.record(&past.key)?;
                let changes = old.map_or_else(Vec::new, |old| diff(&old.parts, &parts));
                Some(Before { run: past.run.clone(), key: past.key, changes })
            }
            _ => None,
        };
        let state = match (node.decision, record) {
            (Decision::Hit(_), Some(record)) => State::Hit {
                run: runs::maker(cache.root(), &record.key).unwrap_or_default(),
                key: record.key,
                parts: Box::new(record.parts),
                made: Box::new(record.execution),
            },
            (Decision::Hit(_), None) => return Err(PlanError::Vanished { address: node.address }),
            (Decision::Run { reason, identity }, _) => {
                State::Run { reason, key: identity.key, parts: Box::new(identity.parts) }
            }
            (Decision::Same { runs_as, .. }, _) => State::Same { runs_as },
            (Decision::May { reason, waits_on }, _) => State::May { reason, waits_on },
        };
        explanations.push(Explanation { address: node.address, kind: node.kind, state, before });
    }
    Ok(explanations)
}

impl Explanation {
    /// For people.
    pub fn render(&self) -> String {
        let mut lines = vec![format!("{} ({})", self.address, self.kind)];
        match &self.state {
            State::Hit { key, parts, made, run } => {
                lines.push(format!("  its result {} is in the cache", key.short()));
                let run = run.as_ref().map_or_else(String::new, |run| format!(", in run {run}"));
                let started = made.started.strftime("%Y-%m-%d %H:%M:%S UTC");
                lines.push(format!("  made on {} at {started} in {:.1} s{run}", made.host, made.seconds));
                if made.address != self.address {
                    lines.push(format!("  under the address {}", made.address));
                }
                lines.push(format!("  from {}, revision {}", parts.kind, parts.revision));
                lines.extend(told(parts));
            }
            State::Run { reason, .. } => lines.push(format!("  will run: {reason}")),
            State::Same { runs_as } => lines.push(format!("  has the same result as {runs_as}, which will run")),
            State::May { reason: Reason::Upstream(_), waits_on } => {
                lines.push(format!("  may run: {}", Reason::Upstream(waits_on.clone())));
            }
            State::May { reason, waits_on } => {
                lines.push(format!("  may run: {reason}"));
                lines.push(format!("  {}", Reason::Upstream(waits_on.clone())));
            }
        }
        // For one that will run, the reason has told the changes already.
        if let (State::Hit { .. }, Some(before)) = (&self.state, &self.before) {
            lines.push(format!("  before, in run {}, it was {}:", before.run, before.key.short()));
            match before.changes.as_slice() {
                [] => lines.push("    that record is gone".to_owned()),
                changes => lines.extend(changes.iter().map(|change| format!("    {change}"))),
            }
        }
        lines.join("\n") + "\n"
    }
}

/// Each part of a key in a line.
fn told(parts: &KeyParts) -> Vec<String> {
    let numerics = parts.numerics.iter().map(|(name, value)| format!("    numerics {name} = {value}"));
    let params = parts.params.iter().filter(|(name, _)| !parts.files.contains_key(*name));
    let params = params.map(|(name, value)| format!("    with.{name} = {}", clip(value)));
    let files = parts.files.iter().map(|(param, tree)| format!("    with.{param} = files {}", tree.short()));
    let inputs = parts.inputs.iter().map(|(port, content)| match content {
        PortContent::One(tree) => format!("    input {port} = {}", tree.short()),
        PortContent::Table(rows) => format!("    input {port} = a table of {}", rows.len()),
    });
    numerics.chain(params).chain(files).chain(inputs).collect()
}
