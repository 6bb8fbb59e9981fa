//! What instances ask for against what there is: told before anything runs, since what asks for more would wait forever.

use std::{collections::HashSet, fmt};

use crate::{
    graph::{Graph, Resources},
    plan::{Decision, Plan},
};

/// What a run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPUs.
    pub cpus: usize,
    /// Memory in MiB; `None`: no limit.
    pub memory_mib: Option<u64>,
    /// GPUs.
    pub gpus: usize,
}

/// Stages that ask for more than there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TooMuch {
    lines: Vec<String>,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Checks that everything in `plan` that may run could ever start.
///
/// # Errors
/// With each stage that could not.
pub fn check(graph: &Graph, plan: &Plan, limits: Limits) -> Result<(), TooMuch> {
    // All instances of a stage ask for the same: each stage is told once.
    let mut told = HashSet::new();
    let mut found = TooMuch { lines: Vec::new(), hint: String::new() };
    for node in plan.nodes.iter().filter(|node| !matches!(node.decision, Decision::Hit(_))) {
        let instance = graph.instance(node.node);
        let stage = &instance.address.stage;
        let Some((words, flag)) = excess(&instance.resources, limits) else { continue };
        if told.insert(stage) {
            if found.lines.is_empty() {
                found.hint = format!("lower its `resources`, or say what may be used: `{flag}`");
            }
            found.lines.push(format!("{}: the stage `{stage}` asks for {words}", graph.file.display()));
        }
    }
    if found.lines.is_empty() { Ok(()) } else { Err(found) }
}

/// What is asked for beyond `limits`, in words, and the flag that would grant it.
fn excess(asked: &Resources, limits: Limits) -> Option<(String, String)> {
    let words = |count: usize, what: &str, there: usize| {
        let s = if count == 1 { "" } else { "s" };
        format!("{count} {what}{s}, and the run may use {}", if there == 0 { "none".into() } else { there.to_string() })
    };
    if asked.gpus > limits.gpus {
        return Some((words(asked.gpus, "GPU", limits.gpus), format!("--gpus {}", asked.gpus)));
    }
    if asked.cpus > limits.cpus {
        return Some((words(asked.cpus, "CPU", limits.cpus), format!("--cpus {}", asked.cpus)));
    }
    let there = limits.memory_mib.filter(|there| asked.memory_mib > *there)?;
    let words = format!("{} MiB of memory, and the run may use {there} MiB", asked.memory_mib);
    Some((words, format!("--memory {}MiB", asked.memory_mib)))
}
