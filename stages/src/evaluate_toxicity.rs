//! `evaluate.toxicity`: the share of toxic completions, with intervals, per instance and pooled over seeds.

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{
    context::Context,
    job::JobRow,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    records::{self, Phase, Rate, Split, Verdict},
    runtime::on_cpus,
    stats::{Bootstrap, Cell},
};

const ALL: &str = "all";

/// The kind.
pub(crate) struct Toxicity;

/// `with` of `evaluate.toxicity`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Gathered axes to pool over, beside a row for each instance: their points are a sample, as seeds are.
    pool: Vec<String>,
    /// Bootstrap resamples, over prompts and pooled instances.
    resamples: usize,
    /// Level of the intervals.
    confidence: f64,
    /// Seeds the bootstrap.
    seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Params { pool: vec!["seed".to_owned()], resamples: 2000, confidence: 0.95, seed: 0 }
    }
}

impl Kind for Toxicity {
    type Params = Params;
    const NAME: &'static str = "evaluate.toxicity";
    const ABOUT: &'static str = "Counts toxic completions, with bootstrap intervals over prompts and seeds.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::table("verdicts", PortType::Verdicts, "what to count; gather the axes to compare and to pool"),
            InputPort::table("before", PortType::Verdicts, "the untouched base's, told in rows of their own")
                .optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "metrics.jsonl: counts, share and interval by coordinates, split and group";
        vec![OutputPort::new("metrics", PortType::Metrics, about)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = Vec::new();
        if !(100..=1_000_000).contains(&params.resamples) {
            problems.push(ParamProblem::new("resamples", "give a number from 100 to 1000000"));
        }
        if !(params.confidence > 0.0 && params.confidence < 1.0) {
            problems.push(ParamProblem::new("confidence", "give a number between 0 and 1").hint("95% is 0.95"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let verdicts = read(ctx, "verdicts")?;
        check_pool(&params, &verdicts)?;
        let phases = [(Phase::Before, read(ctx, "before")?), (Phase::After, verdicts)];
        let rates = on_cpus(ctx, || {
            let mut rates = Vec::new();
            for (phase, instances) in &phases {
                let tables = tables(instances, &params.pool);
                for (done, table) in tables.iter().enumerate() {
                    ctx.progress(done, tables.len(), "rate")?;
                    rates.extend(table.rates(*phase, &params));
                }
            }
            Ok(rates)
        })?;
        let count = |count: fn(&Rate) -> usize| {
            let whole = |rate: &&Rate| rate.pooled.is_empty() && rate.split == ALL && rate.group == ALL;
            rates.iter().filter(whole).map(count).sum::<usize>()
        };
        ctx.summary("completions", count(|rate| rate.n));
        ctx.summary("toxic", count(|rate| rate.toxic));
        ctx.summary("unparsable", count(|rate| rate.unparsable));
        let missing = count(|rate| rate.missing);
        ctx.summary("missing_instances", missing);
        if missing > 0 {
            ctx.warn(format!("{missing} instances are missing from the gather and in no rate"));
        }
        ctx.output("metrics")?.write_jsonl(records::METRICS, &rates)
    }
}

/// One row of a gather: coordinates and verdicts, if the point is there.
struct Instance {
    coords: Vec<(String, Value)>,
    verdicts: Option<Vec<Verdict>>,
}

fn read(ctx: &Context<'_>, port: &str) -> Result<Vec<Instance>, StageError> {
    let read = |row: JobRow| {
        let verdicts = row.input.map(|files| records::rows(&files, records::VERDICTS)).transpose()?;
        Ok(Instance { coords: row.coords, verdicts })
    };
    ctx.table(port).into_iter().map(read).collect()
}

/// An axis to pool over must be gathered, or intervals would be narrower than the researcher thinks. The default asks
/// nothing: a study without seeds has none to gather.
fn check_pool(params: &Params, instances: &[Instance]) -> Result<(), StageError> {
    let axes: BTreeSet<&str> =
        instances.iter().flat_map(|instance| &instance.coords).map(|(axis, _)| axis.as_str()).collect();
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

/// The instances that one block of rows counts.
struct Table<'i> {
    coords: Vec<(String, Value)>,
    pooled: Vec<String>,
    instances: Vec<&'i Instance>,
}

/// One table for each instance, then one for each set of instances that differ on pooled axes alone.
fn tables<'i>(instances: &'i [Instance], pool: &[String]) -> Vec<Table<'i>> {
    let one = |instance: &'i Instance| Table {
        coords: instance.coords.clone(),
        pooled: Vec::new(),
        instances: vec![instance],
    };
    let mut tables: Vec<Table<'_>> = instances.iter().map(one).collect();
    let single = tables.len();
    for instance in instances {
        let (pooled, kept): (Vec<_>, Vec<_>) =
            instance.coords.iter().cloned().partition(|(axis, _)| pool.contains(axis));
        if pooled.is_empty() {
            continue;
        }
        match tables[single..].iter_mut().find(|table| table.coords == kept) {
            Some(table) => table.instances.push(instance),
            None => {
                let pooled = pooled.into_iter().map(|(axis, _)| axis).collect();
                tables.push(Table { coords: kept, pooled, instances: vec![instance] });
            }
        }
    }
    tables
}

impl Table<'_> {
    fn rates(&self, phase: Phase, params: &Params) -> Vec<Rate> {
        let verdicts = || self.instances.iter().filter_map(|instance| instance.verdicts.as_ref()).flatten();
        let groups: BTreeSet<&str> = verdicts().map(|verdict| verdict.prompt.group.as_str()).collect();
        let splits: BTreeSet<Split> = verdicts().filter_map(|verdict| verdict.prompt.split).collect();
        // With one group, its rows would repeat those of all.
        let groups = std::iter::once(None).chain(groups.iter().map(|&group| Some(group)).filter(|_| groups.len() > 1));
        let splits = || std::iter::once(None).chain(splits.iter().copied().map(Some));
        groups.flat_map(|group| splits().map(move |split| self.rate(phase, split, group, params))).collect()
    }

    fn rate(&self, phase: Phase, split: Option<Split>, group: Option<&str>, params: &Params) -> Rate {
        let counted = |verdict: &&Verdict| {
            group.is_none_or(|group| verdict.prompt.group == group)
                && split.is_none_or(|split| verdict.prompt.split == Some(split))
        };
        let there: Vec<&Vec<Verdict>> =
            self.instances.iter().filter_map(|instance| instance.verdicts.as_ref()).collect();
        let (mut n, mut toxic, mut unparsable) = (0, 0, 0);
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for verdict in there.iter().copied().flatten().filter(counted) {
            let next = places.len();
            places.entry(&verdict.prompt.id).or_insert(next);
            n += 1;
            toxic += usize::from(verdict.toxic == Some(true));
            unparsable += usize::from(verdict.toxic.is_none());
        }
        let mut cells = vec![vec![Cell::default(); places.len()]; there.len()];
        for (row, verdicts) in cells.iter_mut().zip(&there) {
            for verdict in verdicts.iter().filter(counted) {
                let cell = &mut row[places[verdict.prompt.id.as_str()]];
                cell.judged += u32::from(verdict.toxic.is_some());
                cell.toxic += u32::from(verdict.toxic == Some(true));
            }
        }
        let bootstrap = Bootstrap { resamples: params.resamples, confidence: params.confidence, seed: params.seed };
        let interval = bootstrap.interval(&cells);
        Rate {
            phase,
            coords: self.coords.clone(),
            pooled: self.pooled.clone(),
            split: match split {
                None => ALL,
                Some(Split::Validation) => "validation",
                Some(Split::Test) => "test",
            }
            .to_owned(),
            group: group.unwrap_or(ALL).to_owned(),
            instances: there.len(),
            missing: self.instances.len() - there.len(),
            prompts: places.len(),
            n,
            toxic,
            unparsable,
            share: (n > unparsable).then(|| toxic as f64 / (n - unparsable) as f64),
            low: interval.map(|(low, _)| low),
            high: interval.map(|(_, high)| high),
            confidence: params.confidence,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, problems};

    /// Ten prompts in two groups and both splits; the first `toxic` are toxic, the last unparsable.
    fn verdicts(toxic: usize) -> Option<Vec<Value>> {
        let verdict = |at: usize| {
            let (group, split) = (["a", "b"][at / 5], ["validation", "test"][at % 2]);
            let prompt = json!({ "id": at.to_string(), "text": "t", "group": group, "split": split });
            let toxic = if at == 9 { Value::Null } else { json!(at < toxic) };
            json!({ "prompt": prompt, "sample": 0, "text": "", "toxic": toxic })
        };
        Some((0..10).map(verdict).collect())
    }

    fn at(rank: u32, seed: u32) -> Value {
        json!([["rank", rank], ["seed", seed]])
    }

    fn table() -> Bench {
        let rows = [(at(2, 0), verdicts(6)), (at(2, 1), verdicts(3)), (at(8, 0), verdicts(1)), (at(8, 1), None)];
        Bench::new().table("verdicts", records::VERDICTS, &rows)
    }

    #[test]
    fn each_instance_and_each_pool_is_counted() {
        let before = [(json!([["seed", 0]]), verdicts(9))];
        let bench = table().table("before", records::VERDICTS, &before);
        let done = bench.run::<Toxicity>(json!({ "resamples": 200 })).unwrap();
        let rates: Vec<Rate> = done.rows("metrics", records::METRICS);
        let line = |r: &Rate| {
            let coords: Vec<_> = r.coords.iter().map(|(axis, label)| format!("{axis}={label}")).collect();
            let counts = format!("{}/{} of {} prompts, {} unparsable", r.toxic, r.n, r.prompts, r.unparsable);
            format!("{:?} {} {:?} {}x{}: {counts}", r.phase, coords.join(","), r.pooled, r.instances, r.missing)
        };
        let whole: Vec<_> = rates.iter().filter(|r| r.split == ALL && r.group == ALL).map(line).collect();
        insta::assert_snapshot!(whole.join("\n"), @r#"
        Before seed=0 [] 1x0: 9/10 of 10 prompts, 1 unparsable
        Before  ["seed"] 1x0: 9/10 of 10 prompts, 1 unparsable
        After rank=2,seed=0 [] 1x0: 6/10 of 10 prompts, 1 unparsable
        After rank=2,seed=1 [] 1x0: 3/10 of 10 prompts, 1 unparsable
        After rank=8,seed=0 [] 1x0: 1/10 of 10 prompts, 1 unparsable
        After rank=8,seed=1 [] 0x1: 0/0 of 0 prompts, 0 unparsable
        After rank=2 ["seed"] 2x0: 9/20 of 10 prompts, 2 unparsable
        After rank=8 ["seed"] 1x1: 1/10 of 10 prompts, 1 unparsable
        "#);
        let parts = rates.iter().filter(|r| r.coords.len() == 1 && r.coords[0].1 == 2);
        let parts: Vec<_> = parts.map(|r| format!("{} {} {}/{}", r.group, r.split, r.toxic, r.n)).collect();
        insta::assert_snapshot!(parts.join("\n"), @r"
        all all 9/20
        all validation 5/10
        all test 4/10
        a all 8/10
        a validation 5/6
        a test 3/4
        b all 1/10
        b validation 0/4
        b test 1/6
        ");
        let share = |rate: &Rate| rate.share.map(|share| (share, rate.low.unwrap(), rate.high.unwrap()));
        assert!(rates.iter().filter_map(share).all(|(share, low, high)| low <= share && share <= high));
        insta::assert_snapshot!(json!(done.summary), @r#"{"completions":40,"missing_instances":1,"toxic":19,"unparsable":4}"#);
        insta::assert_snapshot!(done.digest(), @"metrics e9c52740e1f0");
    }

    #[test]
    fn an_axis_that_is_not_gathered_can_not_be_pooled() {
        let error = table().run::<Toxicity>(json!({ "pool": ["sead"] })).err().unwrap();
        insta::assert_snapshot!(error, @"`pool` names the axis `sead`, which is not gathered (rank, seed is): add it to `gather`");
        insta::assert_snapshot!(problems::<Toxicity>(json!({ "resamples": 3, "confidence": 95 })), @r"
        resamples: give a number from 100 to 1000000
        confidence: give a number between 0 and 1 (hint: 95% is 0.95)
        ");
    }

    #[test]
    fn one_result_without_axes_is_a_table_of_one() {
        let bench = Bench::new().rows("verdicts", records::VERDICTS, &verdicts(4).unwrap());
        let rates: Vec<Rate> = bench.run::<Toxicity>(json!({})).unwrap().rows("metrics", records::METRICS);
        assert_eq!((rates.len(), rates[0].toxic, rates[0].pooled.len()), (9, 4, 0));
    }
}
