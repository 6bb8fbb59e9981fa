//! Targets: which part of a graph to bring up to date. `X`, `X+` (and all that depends on it), `+X`, `X[rank=8]`,
//! globs. What a target needs always comes along; so a gather is never shrunk, as it needs all of its points.

use std::collections::BTreeSet;

use globset::Glob;
use petgraph::{Direction, graph::NodeIndex};

use crate::{
    address::Reference,
    graph::{Graph, Instance},
    mistake::suggestion,
};

/// The nodes to bring up to date: with each node all that it needs.
pub type Selection = BTreeSet<NodeIndex>;

/// A target that selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// It can't be read.
    #[error("`{target}` is not a target: {reason}")]
    Malformed {
        /// As given.
        target: String,
        /// In a few words.
        reason: String,
    },
    /// No stage has this name.
    #[error("no stage is called `{name}`")]
    UnknownStage {
        /// As given.
        name: String,
        /// The stages.
        known: Vec<String>,
    },
    /// No stage that is meant has this axis.
    #[error("`{stage}` has no axis `{axis}`")]
    UnknownAxis {
        /// The stage, or the pattern.
        stage: String,
        /// As given.
        axis: String,
        /// Its axes.
        known: Vec<String>,
    },
    /// The axis is there, but not this label.
    #[error("`{stage}` has nothing at `{axis}={label}`")]
    UnknownLabel {
        /// The stage, or the pattern.
        stage: String,
        /// The axis.
        axis: String,
        /// As given.
        label: String,
        /// The labels.
        known: Vec<String>,
    },
    /// The stage is there, but not with these coordinates.
    #[error("no instance matches `{target}`")]
    NoInstance {
        /// As given.
        target: String,
        /// Some addresses of the stage.
        known: Vec<String>,
    },
}

impl SelectError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Malformed { .. } => Some("write `stage`, `stage+`, `+stage` or `stage[axis=label]`".to_owned()),
            Self::UnknownStage { name, known } => suggestion(name, known),
            Self::UnknownAxis { axis, known, .. } => {
                suggestion(axis, known).or_else(|| Some("leave the brackets out".to_owned()))
            }
            Self::UnknownLabel { label, known, .. } => suggestion(label, known),
            Self::NoInstance { target, known } => suggestion(target, known),
        }
    }
}

impl Graph {
    /// The nodes that `targets` ask for, and all that these need; everything if there are no targets.
    ///
    /// # Errors
    /// If a target matches nothing.
    pub fn select(&self, targets: &[String]) -> Result<Selection, SelectError> {
        if targets.is_empty() {
            return Ok(self.order.iter().copied().collect());
        }
        let mut selected = Selection::new();
        for target in targets {
            let name = target.trim();
            let (name, downstream) = name.strip_suffix('+').map_or((name, false), |name| (name, true));
            let name = name.strip_prefix('+').unwrap_or(name);
            let found = self.named(name)?;
            selected.extend(if downstream { self.reach(found, Direction::Outgoing) } else { found });
        }
        Ok(self.reach(selected, Direction::Incoming))
    }

    /// The nodes that `stage`, `stage[axis=label]` or a glob of stages mean, without what they need.
    ///
    /// # Errors
    /// If none does.
    pub fn named(&self, target: &str) -> Result<Selection, SelectError> {
        let malformed = |reason: String| SelectError::Malformed { target: target.to_owned(), reason };
        // Brackets are coordinates if they hold a `=`, else part of a glob.
        let wanted = if target.contains('[') && !target.contains('=') {
            Reference { stage: target.to_owned(), output: None, coords: Vec::new() }
        } else {
            Reference::parse(target).map_err(malformed)?
        };
        if let Some(output) = &wanted.output {
            return Err(malformed(format!("it names the output `{output}`, but a stage runs as a whole")));
        }
        let glob = Glob::new(&wanted.stage).map_err(|error| malformed(error.kind().to_string()))?.compile_matcher();
        let named: Vec<_> = self.order.iter().filter(|n| glob.is_match(&self.instance(**n).address.stage)).collect();
        if named.is_empty() {
            let known: BTreeSet<_> = self.dag.node_weights().map(|instance| instance.address.stage.clone()).collect();
            return Err(SelectError::UnknownStage { name: wanted.stage, known: known.into_iter().collect() });
        }
        let matches = |instance: &Instance| {
            wanted.coords.iter().all(|coord| {
                let own = instance.address.coords.iter().find(|(axis, _)| *axis == coord.axis);
                own.is_some_and(|(_, label)| coord.labels.contains(label))
            })
        };
        let found: Selection = named.iter().map(|node| **node).filter(|node| matches(self.instance(*node))).collect();
        if found.is_empty() {
            self.explain(&wanted, named.iter().map(|node| self.instance(**node)))?;
            let known = named.iter().map(|node| self.instance(**node).address.to_string()).collect();
            return Err(SelectError::NoInstance { target: target.to_owned(), known });
        }
        Ok(found)
    }

    /// What of the coordinates `wanted` none of `instances` has.
    fn explain<'a>(
        &self,
        wanted: &Reference,
        instances: impl Iterator<Item = &'a Instance> + Clone,
    ) -> Result<(), SelectError> {
        let stage = || wanted.stage.clone();
        for coord in &wanted.coords {
            let coords = || instances.clone().flat_map(|instance| &instance.address.coords);
            let distinct = |names: &mut dyn Iterator<Item = &String>| {
                let mut known: Vec<String> = Vec::new();
                names.for_each(|name| {
                    if !known.contains(name) {
                        known.push(name.clone())
                    }
                });
                known
            };
            let axes = distinct(&mut coords().map(|(axis, _)| axis));
            if !axes.contains(&coord.axis) {
                return Err(SelectError::UnknownAxis { stage: stage(), axis: coord.axis.clone(), known: axes });
            }
            let labels = distinct(&mut coords().filter(|(axis, _)| *axis == coord.axis).map(|(_, label)| label));
            if let [label] = coord.labels.as_slice()
                && !labels.contains(label)
            {
                let (axis, label) = (coord.axis.clone(), label.clone());
                return Err(SelectError::UnknownLabel { stage: stage(), axis, label, known: labels });
            }
        }
        Ok(())
    }

    /// `nodes`, and all that can be reached from them.
    fn reach(&self, nodes: Selection, direction: Direction) -> Selection {
        let mut open: Vec<_> = nodes.iter().copied().collect();
        let mut reached = nodes;
        while let Some(node) = open.pop() {
            open.extend(self.dag.neighbors_directed(node, direction).filter(|next| reached.insert(*next)));
        }
        reached
    }
}
