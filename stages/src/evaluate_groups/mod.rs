//! `evaluate.groups`: how well each group is classified, and how far low-rank finetuning is from full finetuning on it.
//!
//! Two numbers of the paper are absolute values: the harmful bias gap, `|accuracy - reference's accuracy|` of a group, and
//! accuracy parity, the highest accuracy of a group minus the lowest. An interval of an absolute value can't contain 0, so
//! both are told as point estimates, and what they are absolute values of with intervals and tests, paired by test item
//! and run.

mod resample;
pub(crate) mod row;
mod runs;
mod scores;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;

use palinode_engine::{
    context::Context,
    job::{InputFiles, JobRow},
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::table::{Instance, tables};
use crate::{
    records::{self, COUNTS, PREDICTIONS, TrainCounts},
    runtime::on_cpus,
    training,
};

/// The kind.
pub(crate) struct Groups;

/// `with` of `evaluate.groups`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Gathered axes to pool over, beside rows for each run: their points are a sample, as seeds are.
    pool: Vec<String>,
    /// The protected group; by default the one that was downsampled (input `counts`), else the smallest of the test items.
    minority: Option<String>,
    /// The group that it is compared with; by default the largest other one.
    majority: Option<String>,
    /// Bins of the calibration error.
    bins: usize,
    /// Bootstrap resamples, over test items and pooled runs.
    resamples: usize,
    /// Level of the intervals.
    confidence: f64,
    /// Seeds the bootstrap.
    seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            pool: vec!["seed".to_owned()],
            minority: None,
            majority: None,
            bins: 15,
            resamples: 2000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

impl Kind for Groups {
    type Params = Params;
    const NAME: &'static str = "evaluate.groups";
    const ABOUT: &'static str = "Accuracy, F1 and calibration by group; gaps to a reference run, and between groups.";
    const REVISION: u32 = 2;

    fn inputs() -> Vec<InputPort> {
        let reference = "those of the run to compare with at the same point, as `predicted[rank=full]`";
        let counts = "counts.json of `dataset.downsample`: sizes of the groups in training";
        vec![
            InputPort::table("predictions", PortType::Predictions, "what was predicted; gather what is to be compared"),
            InputPort::table("reference", PortType::Predictions, reference).optional(),
            InputPort::table("counts", PortType::Metrics, counts).optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "metrics.jsonl: a row for each group and one for all, by coordinates; pooled ones last. F1 is the mean \
                     over the labels that occur: where the group is a label, 1 or at most about .5. Intervals resample \
                     items within groups; ECE is of the decided label's probability";
        vec![OutputPort::new("metrics", PortType::Metrics, about)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = training::at_least_one(&[("bins", params.bins)]);
        if !(100..=1_000_000).contains(&params.resamples) {
            problems.push(ParamProblem::new("resamples", "give a number from 100 to 1000000"));
        }
        if !(params.confidence > 0.0 && params.confidence < 1.0) {
            problems.push(ParamProblem::new("confidence", "give a number between 0 and 1").hint("95% is 0.95"));
        }
        if params.minority.is_some() && params.minority == params.majority {
            problems.push(ParamProblem::new("majority", "it is the minority"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let instances = read(ctx, &params.pool)?;
        check_pool(&params, &instances)?;
        let rows = on_cpus(ctx, || {
            let tables = tables(&instances, &params.pool);
            let mut rows = Vec::new();
            for (done, table) in tables.iter().enumerate() {
                ctx.progress(done, tables.len(), "table")?;
                rows.extend(table.rows(&params)?);
            }
            Ok(rows)
        })?;
        let there = instances.iter().filter(|instance| instance.predictions.is_some()).count();
        ctx.summary("runs", there);
        ctx.summary("missing_runs", instances.len() - there);
        if there < instances.len() {
            ctx.warn(format!("{} runs are missing from the gather and in no row", instances.len() - there));
        }
        let undefined: BTreeSet<String> = rows
            .iter()
            .filter_map(|row| Some(format!("{}: {}", row.group.as_ref()?, row.accuracy.undefined.as_ref()?)))
            .collect();
        for reason in undefined {
            ctx.warn(format!("undefined for the group {reason}"));
        }
        ctx.output("metrics")?.write_jsonl(records::METRICS, &rows)
    }
}

fn read(ctx: &Context<'_>, pool: &[String]) -> Result<Vec<Instance>, StageError> {
    let [references, counts] = ["reference", "counts"].map(|port| ctx.table(port));
    let rows = ctx.table("predictions");
    // A port without a gathered axis is one result for all.
    let at = |table: &[JobRow], place: usize| match table.len() {
        1 => Some(table[0].clone()),
        _ => table.get(place).cloned(),
    };
    let reference = |place: usize| at(&references, place).and_then(|row| row.input);
    let itself = itself(&rows, reference, pool);
    let read = |(place, row): (usize, JobRow)| {
        // The reference itself is compared with nothing.
        let itself = itself.contains(&place);
        let reference = reference(place).filter(|_| !itself);
        let predictions = |files: &InputFiles| records::rows(files, PREDICTIONS);
        let counts = at(&counts, place).and_then(|row| row.input);
        Ok(Instance {
            coords: row.coords,
            predictions: row.input.as_ref().map(predictions).transpose()?,
            reference: reference.as_ref().map(predictions).transpose()?,
            compared: !references.is_empty() && !itself,
            counts: counts.map(|files| records::json::<TrainCounts>(&files, COUNTS)).transpose()?,
        })
    };
    rows.into_iter().enumerate().map(read).collect()
}

type Coords<'c> = Vec<&'c (String, Value)>;

/// The rows that are the reference: all runs that are pooled say what it says, and those of no other point do. A run may
/// say by chance what the reference says, and then its gap is 0; which of several that do is the reference can't be
/// known, and all have a gap of 0.
fn itself(rows: &[JobRow], reference: impl Fn(usize) -> Option<InputFiles>, pool: &[String]) -> BTreeSet<usize> {
    // The rows of each point, by its coordinates.
    let mut points: Vec<(Coords<'_>, Vec<usize>)> = Vec::new();
    for (place, row) in rows.iter().enumerate().filter(|(_, row)| row.input.is_some()) {
        let kept: Coords<'_> = row.coords.iter().filter(|(axis, _)| !pool.contains(axis)).collect();
        match points.iter_mut().find(|(coords, _)| *coords == kept) {
            Some((_, places)) => places.push(place),
            None => points.push((kept, vec![place])),
        }
    }
    let digest = |files: Option<InputFiles>| files.map(|files| files.digest);
    let same = |place: &usize| digest(rows[*place].input.clone()) == digest(reference(*place));
    points.retain(|(_, places)| places.iter().all(same));
    let compared = |places: &[usize]| places.iter().map(|&place| digest(reference(place))).collect::<Vec<_>>();
    let alone =
        |places: &[usize]| points.iter().filter(|(_, others)| compared(others) == compared(places)).count() == 1;
    points.iter().filter(|(_, places)| alone(places)).flat_map(|(_, places)| places.iter().copied()).collect()
}

/// An axis to pool over must be gathered, or intervals would be narrower than the researcher thinks. The default asks
/// nothing: a study without seeds has none to gather.
fn check_pool(params: &Params, instances: &[Instance]) -> Result<(), StageError> {
    let axes: BTreeSet<&str> = instances
        .iter()
        .flat_map(|instance| &instance.coords)
        .map(|(axis, _): &(String, Value)| axis.as_str())
        .collect();
    match params.pool.iter().find(|axis| !axes.contains(axis.as_str())) {
        Some(axis) if params.pool != Params::default().pool => {
            let gathered = axes.into_iter().collect::<Vec<_>>().join(", ");
            let gathered = if gathered.is_empty() { "no axis".to_owned() } else { gathered };
            Err(StageError::failed(format!(
                "`pool` names the axis `{axis}`, which is not gathered ({gathered} is): add it to `gather`"
            )))
        }
        _ => Ok(()),
    }
}
