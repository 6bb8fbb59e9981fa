//! What the kinds that evaluate share: the points of a gather, pooled; the parts of the prompts.

use std::collections::BTreeSet;

use palinode_engine::{
    job::JobRow,
    stage::{ParamProblem, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    figure::same,
    records::{ALL, Exposure, Prompt, Split},
};

/// (axis, label).
pub(crate) type Coords = Vec<(String, Value)>;

/// What rows are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// The prompts' group: `gender`, `orientation`.
    Group,
    /// The prompts' identity.
    Identity,
}

/// The rows of a table, each once, without the axes that only repeat them: ports that are gathered together share one
/// list of coordinates, so the base stands there for each rank. With each row, the coordinates that it had.
pub(crate) fn own_axes(rows: Vec<JobRow>) -> Vec<(JobRow, Coords)> {
    let axes: BTreeSet<String> = rows.iter().flat_map(|row| &row.coords).map(|(axis, _)| axis.clone()).collect();
    let without = |coords: &Coords, axis: &String| -> Coords {
        coords.iter().filter(|(name, _)| name != axis).cloned().collect()
    };
    let repeats = |axis: &String| {
        let mut groups: Vec<(Coords, Option<_>, usize)> = Vec::new();
        for row in &rows {
            let (others, digest) = (without(&row.coords, axis), row.input.as_ref().map(|files| files.digest));
            match groups.iter_mut().find(|(known, ..)| *known == others) {
                Some((_, known, count)) if *known == digest => *count += 1,
                Some(_) => return false,
                None => groups.push((others, digest, 1)),
            }
        }
        groups.iter().all(|(_, _, count)| *count > 1)
    };
    let repeated: Vec<String> = axes.into_iter().filter(repeats).collect();
    let mut once: Vec<(JobRow, Coords)> = Vec::new();
    for row in rows {
        let coords = repeated.iter().fold(row.coords.clone(), |coords, axis| without(&coords, axis));
        if !once.iter().any(|(known, _)| known.coords == coords) {
            let had = row.coords;
            once.push((JobRow { coords, input: row.input }, had));
        }
    }
    once
}

/// Points of a gather that one block of rows tells of.
pub(crate) struct Pool {
    /// Without the pooled axes.
    pub(crate) coords: Coords,
    /// The pooled axes; empty for one point.
    pub(crate) axes: Vec<String>,
    /// Places of the points.
    pub(crate) rows: Vec<usize>,
}

/// One pool for each point, then one for each set of points that differ on axes of `pool` alone.
pub(crate) fn pools(points: &[&Coords], pool: &[String]) -> Vec<Pool> {
    let one = |(at, coords): (usize, &&Coords)| Pool { coords: (*coords).clone(), axes: Vec::new(), rows: vec![at] };
    let mut pools: Vec<Pool> = points.iter().enumerate().map(one).collect();
    let single = pools.len();
    for (at, coords) in points.iter().enumerate() {
        let (pooled, kept): (Coords, Coords) = coords.iter().cloned().partition(|(axis, _)| pool.contains(axis));
        if pooled.is_empty() {
            continue;
        }
        match pools[single..].iter_mut().find(|pool| pool.coords == kept) {
            Some(pool) => pool.rows.push(at),
            None => {
                let axes = pooled.into_iter().map(|(axis, _)| axis).collect();
                pools.push(Pool { coords: kept, axes, rows: vec![at] });
            }
        }
    }
    pools
}

/// Refuses to pool over what is not gathered, unless that is the default.
pub(crate) fn check_pool(pool: &[String], default: &[String], axes: &BTreeSet<&str>) -> Result<(), StageError> {
    match pool.iter().find(|axis| !axes.contains(axis.as_str())) {
        Some(axis) if pool != default => {
            let gathered = axes.iter().copied().collect::<Vec<_>>().join(", ");
            let gathered = if gathered.is_empty() { "no axis".to_owned() } else { gathered };
            Err(StageError::failed(format!(
                "`pool` names the axis `{axis}`, which is not gathered ({gathered} is): add it to `gather`"
            )))
        }
        _ => Ok(()),
    }
}

/// A part of the prompts; none of a field means all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part<'p> {
    pub(crate) split: Option<Split>,
    pub(crate) exposure: Option<Exposure>,
    pub(crate) group: Option<&'p str>,
    pub(crate) identity: Option<&'p str>,
}

/// All prompts and their parts: groups, splits and exposures crossed; identities by split and by exposure.
pub(crate) fn parts<'p>(prompts: impl Iterator<Item = &'p Prompt>, by: &[By]) -> Vec<Part<'p>> {
    let (mut splits, mut exposures) = (BTreeSet::from([None]), BTreeSet::from([None]));
    let (mut groups, mut identities) = (BTreeSet::new(), BTreeSet::new());
    for prompt in prompts {
        splits.insert(prompt.split);
        exposures.insert(prompt.exposure);
        groups.insert(prompt.group.as_str());
        identities.extend(prompt.identity.as_deref());
    }
    let listed = |by: bool, names: BTreeSet<&'p str>| -> Vec<Option<&'p str>> {
        // With one group, its rows would repeat those of all.
        names.into_iter().map(Some).filter(|_| by).collect()
    };
    let groups = listed(by.contains(&By::Group) && groups.len() > 1, groups);
    let identities = listed(by.contains(&By::Identity) && identities.len() > 1, identities);
    let mut parts = Vec::new();
    for group in std::iter::once(None).chain(groups) {
        for &split in &splits {
            for &exposure in &exposures {
                parts.push(Part { split, exposure, group, identity: None });
            }
        }
    }
    for identity in identities {
        for &split in &splits {
            for &exposure in &exposures {
                if split.is_none() || exposure.is_none() {
                    parts.push(Part { split, exposure, group: None, identity });
                }
            }
        }
    }
    parts
}

impl Part<'_> {
    pub(crate) fn holds(&self, prompt: &Prompt) -> bool {
        self.group.is_none_or(|group| prompt.group == group)
            && self.identity.is_none_or(|identity| prompt.identity.as_deref() == Some(identity))
            && (self.split.is_none() || prompt.split == self.split)
            && (self.exposure.is_none() || prompt.exposure == self.exposure)
    }

    pub(crate) fn split_name(&self) -> String {
        match self.split {
            None => ALL,
            Some(Split::Validation) => "validation",
            Some(Split::Test) => "test",
        }
        .to_owned()
    }

    pub(crate) fn exposure_name(&self) -> String {
        self.exposure.map_or(ALL, exposure_name).to_owned()
    }

    pub(crate) fn group_name(&self) -> String {
        self.group.unwrap_or(ALL).to_owned()
    }
}

/// The level of each of `axes` at each of `coords`; 0 where the axis is lacking.
pub(crate) fn runs(coords: &[&Coords], axes: &[String]) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::with_capacity(axes.len()); coords.len()];
    for axis in axes {
        let mut known: Vec<&Value> = Vec::new();
        for (row, coords) in rows.iter_mut().zip(coords) {
            let Some((_, value)) = coords.iter().find(|(name, _)| name == axis) else {
                row.push(0);
                continue;
            };
            let at = known.iter().position(|known| same(known, value)).unwrap_or(known.len());
            if at == known.len() {
                known.push(value);
            }
            row.push(at as u32);
        }
    }
    rows
}

/// Whether two points are the same along the axes that both have.
pub(crate) fn agree(a: &Coords, b: &Coords) -> bool {
    a.iter().all(|(axis, label)| b.iter().find(|(name, _)| name == axis).is_none_or(|(_, other)| same(label, other)))
}

pub(crate) fn exposure_name(exposure: Exposure) -> &'static str {
    match exposure {
        Exposure::Seen => "seen",
        Exposure::Unseen => "unseen",
    }
}

/// Problems of the params that all kinds with a bootstrap have.
pub(crate) fn bootstrap_problems(resamples: usize, confidence: f64) -> Vec<ParamProblem> {
    let mut problems = Vec::new();
    if !(100..=1_000_000).contains(&resamples) {
        problems.push(ParamProblem::new("resamples", "give a number from 100 to 1000000"));
    }
    if !(confidence > 0.0 && confidence < 1.0) {
        problems.push(ParamProblem::new("confidence", "give a number between 0 and 1").hint("95% is 0.95"));
    }
    problems
}
