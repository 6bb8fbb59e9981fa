//! `dataset.downsample`: a group of the training part to a share of its size.
//!
//! Which examples stay depends on the seed and their ids alone, and those that a smaller share keeps, a larger one keeps
//! too: shares differ in nothing but what is added.

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cut::{Counting, rank};
use crate::records::{self, COUNTS, DATASET, Example, Part, TrainCounts};

/// The kind.
pub(crate) struct Downsample;

/// `with` of `dataset.downsample`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The group that is made smaller; by default the smallest.
    #[serde(default)]
    group: Option<String>,
    /// The share of its examples that stays: 1 for all.
    share: f64,
    /// Seeds which stay.
    #[serde(default)]
    seed: u64,
}

/// What the draws are called.
const DRAW: &str = "downsample";

impl Kind for Downsample {
    type Params = Params;
    const NAME: &'static str = "dataset.downsample";
    const ABOUT: &'static str = "Keeps a share of a group's training examples; smaller shares lie inside larger ones.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::one("train", PortType::Dataset, "the training part")]
    }

    fn outputs() -> Vec<OutputPort> {
        let counts = "counts.json: training examples by group, before and after";
        vec![
            OutputPort::new("train", PortType::Dataset, "dataset.jsonl: what stays, in its order"),
            OutputPort::new("counts", PortType::Metrics, counts),
        ]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        crate::share("share", params.share).into_iter().collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let files = ctx.input("train")?;
        let mut done = 0;
        let mut rows = |each: &mut dyn FnMut(Example) -> Result<(), StageError>| {
            records::each_row(files, DATASET, |example: Example| {
                done += 1;
                if done % 4096 == 0 {
                    ctx.progress(done, 0, "example")?;
                }
                each(example)
            })
        };
        let mut before: BTreeMap<String, usize> = BTreeMap::new();
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        rows(&mut |example| {
            if example.split != Part::Train {
                let (id, part) = (example.id, example.split.name());
                let message = format!("`{id}` is of the {part} part, and only training examples may be taken away");
                return Err(StageError::failed(message));
            }
            *before.entry(example.group).or_default() += 1;
            *labels.entry(example.label).or_default() += 1;
            Ok(())
        })?;
        let group = params.group(&before)?;
        let mut counting = Counting::new();
        rows(&mut |example| {
            if example.group == group {
                counting.add(rank(params.seed, DRAW, &example.id));
            }
            Ok(())
        })?;
        let kept = (params.share * counting.total() as f64).round() as u64;
        let mut finding = counting.find(kept);
        rows(&mut |example| {
            if example.group == group {
                finding.add(rank(params.seed, DRAW, &example.id));
            }
            Ok(())
        })?;
        let cut = finding.cut()?;
        let mut after: BTreeMap<String, usize> = BTreeMap::new();
        let mut left: BTreeSet<String> = BTreeSet::new();
        let mut writer = ctx.output("train")?.jsonl(DATASET)?;
        rows(&mut |example| {
            if example.group == group && !cut.takes(rank(params.seed, DRAW, &example.id)) {
                return Ok(());
            }
            *after.entry(example.group.clone()).or_default() += 1;
            if !left.contains(&example.label) {
                left.insert(example.label.clone());
            }
            writer.push(&example)
        })?;
        writer.finish()?;
        if let Some((label, count)) = labels.iter().find(|(label, _)| !left.contains(*label)) {
            return Err(StageError::failed(format!(
                "with {} of the group `{group}` no example of the class `{label}` is left (it had {count}): a model \
                 could not learn it; keep more",
                params.share
            )));
        }
        ctx.summary("group", group.as_str());
        ctx.summary("before", json!(before));
        ctx.summary("after", json!(after));
        let counts = TrainCounts { group, share: params.share, before, after };
        records::write_json(ctx, "counts", COUNTS, &counts)
    }
}

impl Params {
    /// The group that is meant.
    fn group(&self, counts: &BTreeMap<String, usize>) -> Result<String, StageError> {
        let have = || {
            let each = counts.iter().map(|(group, count)| format!("`{group}` ({count})"));
            each.collect::<Vec<_>>().join(", ")
        };
        if let Some(group) = &self.group {
            return match counts.contains_key(group) {
                true => Ok(group.clone()),
                false => Err(StageError::failed(format!("there is no group `{group}`; there are {}", have()))),
            };
        }
        let least = counts.values().min().ok_or_else(|| StageError::failed("there is no training example"))?;
        let smallest: Vec<&String> =
            counts.iter().filter(|(_, count)| *count == least).map(|(group, _)| group).collect();
        match smallest[..] {
            [one] => Ok(one.clone()),
            _ => Err(StageError::failed(format!("no group is the smallest: {}; name one as `group`", have()))),
        }
    }
}
