//! The rows of one run, or of runs that are pooled.

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::stage::StageError;
use serde_json::Value;

use super::{
    Params,
    resample::{Draw, Resample, Right, difference, interval},
    row::{Estimate, GroupRow, Parity, Role},
    runs::Runs,
    scores::{confusion, ece, macro_f1},
};
use crate::{
    records::{Prediction, TrainCounts},
    stats::exact,
};

/// One row of the gather.
pub(super) struct Instance {
    pub(super) coords: Vec<(String, Value)>,
    pub(super) predictions: Option<Vec<Prediction>>,
    pub(super) reference: Option<Vec<Prediction>>,
    /// Whether there should be a reference: not for the reference itself.
    pub(super) compared: bool,
    pub(super) counts: Option<TrainCounts>,
}

/// The instances that one block of rows tells of.
pub(super) struct Table<'i> {
    coords: Vec<(String, Value)>,
    pooled: Vec<String>,
    instances: Vec<&'i Instance>,
}

/// One table for each instance, then one for each set of instances that differ on pooled axes alone.
pub(super) fn tables<'i>(instances: &'i [Instance], pool: &[String]) -> Vec<Table<'i>> {
    let one =
        |instance: &'i Instance| Table { coords: instance.coords.clone(), pooled: vec![], instances: vec![instance] };
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

/// A group and its part in the comparison.
struct Group<'g> {
    name: &'g str,
    role: Option<Role>,
    train: Option<f64>,
    /// Its place among the groups that are resampled; none if it is too small.
    place: Option<usize>,
    items: Vec<usize>,
}

impl Table<'_> {
    pub(super) fn rows(&self, params: &Params) -> Result<Vec<GroupRow>, StageError> {
        let there: Vec<&Instance> =
            self.instances.iter().copied().filter(|instance| instance.predictions.is_some()).collect();
        let runs: Vec<&[Prediction]> = there.iter().filter_map(|instance| instance.predictions.as_deref()).collect();
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let references: Vec<&[Prediction]> =
            there.iter().filter_map(|instance| instance.reference.as_deref()).collect();
        let compared = there.iter().any(|instance| instance.compared);
        let whole = references.len() == runs.len();
        let runs = Runs::new(&runs, whole.then_some(&references[..]))?;
        let groups = self.groups(&runs, &there, params)?;
        let missing = compared && !whole;
        let summary = Summary::new(self, &runs, groups, params, there.len());
        Ok(summary.rows(missing, &there))
    }

    fn groups<'g>(
        &self,
        runs: &Runs<'g>,
        there: &[&'g Instance],
        params: &'g Params,
    ) -> Result<Vec<Group<'g>>, StageError> {
        let items = runs.groups();
        let counts: Vec<&TrainCounts> = there.iter().filter_map(|instance| instance.counts.as_ref()).collect();
        let mut names: BTreeSet<&str> = items.keys().copied().collect();
        names.extend(counts.iter().flat_map(|counts| counts.before.keys()).map(String::as_str));
        let train = |name: &str| {
            let sum: usize = counts.iter().map(|counts| counts.after.get(name).copied().unwrap_or(0)).sum();
            (!counts.is_empty()).then(|| sum as f64 / counts.len() as f64)
        };
        // As large as it was before it was downsampled, or as it is in the test.
        let size = |name: &str| match counts.first() {
            Some(counts) => counts.before.get(name).copied().unwrap_or(0),
            None => items.get(name).map_or(0, Vec::len),
        };
        for (field, name) in [("minority", &params.minority), ("majority", &params.majority)] {
            if let Some(name) = name
                && !names.contains(name.as_str())
            {
                let have = names.iter().copied().collect::<Vec<_>>().join(", ");
                return Err(StageError::failed(format!("`{field}`: there is no group `{name}`; there are {have}")));
            }
        }
        let downsampled = counts.first().map(|counts| counts.group.as_str());
        let others = |name: &&str| params.majority.as_deref() != Some(*name);
        let minority = params.minority.as_deref().or(downsampled);
        let minority = minority.or_else(|| names.iter().copied().filter(others).min_by_key(|name| size(name)));
        let others = |name: &&str| Some(*name) != minority;
        let majority = params.majority.as_deref();
        // Of equals the first by name.
        let largest = || names.iter().copied().filter(others).rev().max_by_key(|name| size(name));
        let majority = majority.or_else(largest);
        let mut place = 0..;
        let group = |name: &'g str| {
            let role = match name {
                name if Some(name) == majority => Some(Role::Majority),
                name if Some(name) == minority => Some(Role::Minority),
                _ => None,
            };
            let items = items.get(name).cloned().unwrap_or_default();
            let place = if items.len() > 1 { place.next() } else { None };
            Group { name, role, train: train(name), place, items }
        };
        Ok(names.into_iter().map(group).collect())
    }
}

/// Everything that the rows of a table are made of.
struct Summary<'s> {
    table: &'s Table<'s>,
    runs: &'s Runs<'s>,
    groups: Vec<Group<'s>>,
    params: &'s Params,
    count: usize,
    right: Right,
    reference: Option<Right>,
    draws: Vec<Draw>,
}

fn right(runs: &[Vec<&Prediction>]) -> Right {
    runs.iter().map(|run| run.iter().map(|prediction| prediction.correct()).collect()).collect()
}

/// Share of right predictions at some items, overall and in each run.
fn shares(right: &Right, items: &[usize]) -> (f64, Vec<f64>) {
    let count = |run: &Vec<bool>| items.iter().filter(|&&item| run[item]).count();
    let counts: Vec<usize> = right.iter().map(count).collect();
    let all = counts.iter().sum::<usize>() as f64 / (items.len() * right.len()) as f64;
    (all, counts.into_iter().map(|count| count as f64 / items.len() as f64).collect())
}

/// Highest minus lowest.
fn spread(values: impl Iterator<Item = f64>) -> f64 {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)));
    high - low
}

fn less(one: &[f64], other: &[f64]) -> Vec<f64> {
    one.iter().zip(other).map(|(one, other)| one - other).collect()
}

impl<'s> Summary<'s> {
    fn new(table: &'s Table<'s>, runs: &'s Runs<'s>, groups: Vec<Group<'s>>, params: &'s Params, count: usize) -> Self {
        let reference = runs.references.as_deref().map(right);
        let right = right(&runs.runs);
        let places: Vec<Vec<usize>> =
            groups.iter().filter(|group| group.place.is_some()).map(|group| group.items.clone()).collect();
        let resample = Resample {
            groups: &places,
            right: &right,
            reference: reference.as_ref(),
            resamples: params.resamples,
            seed: params.seed,
        };
        let draws = resample.draws();
        Summary { table, runs, groups, params, count, right, reference, draws }
    }

    fn rows(&self, missing: bool, there: &[&Instance]) -> Vec<GroupRow> {
        let groups = self.groups.iter().map(|group| self.group(group, missing));
        std::iter::once(self.whole(missing, there)).chain(groups).collect()
    }

    /// What all rows have, of the predictions at some items.
    fn row(&self, items: &[usize]) -> GroupRow {
        let at = |run: &Vec<&'s Prediction>| items.iter().map(|&item| run[item]).collect::<Vec<_>>();
        let predictions: Vec<Vec<&Prediction>> = self.runs.runs.iter().map(at).collect();
        let all = || predictions.iter().flatten().copied();
        let enough = items.len() > 1;
        let over = |values: Vec<f64>| Estimate::of(values.iter().sum::<f64>() / values.len() as f64, &values);
        let f1 = || over(predictions.iter().map(|run| macro_f1(&confusion(run.iter().copied()))).collect());
        let eces: Option<Vec<f64>> = predictions.iter().map(|run| ece(run, self.params.bins)).collect();
        let (value, runs) = if enough { shares(&self.right, items) } else { (0.0, Vec::new()) };
        let reason = match items.len() {
            0 => "no test item is of this group",
            _ => "only one test item is of this group: its accuracy can be nothing but 0 or 1",
        };
        let if_enough = |estimate: Estimate| if enough { estimate } else { Estimate::undefined(reason) };
        GroupRow {
            coords: self.table.coords.clone(),
            pooled: self.table.pooled.clone(),
            runs: self.count,
            missing: self.table.instances.len() - self.count,
            group: None,
            role: None,
            train: None,
            items: items.len(),
            correct: all().filter(|prediction| prediction.correct()).count(),
            undecided: all().filter(|prediction| prediction.predicted.is_none()).count(),
            accuracy: if_enough(Estimate::of(value, &runs)),
            f1: if enough { f1() } else { Estimate::undefined(reason) },
            ece: if_enough(eces.map_or_else(|| Estimate::undefined("predictions without probabilities"), over)),
            confusion: confusion(all()),
            against_reference: None,
            hbg: None,
            against_majority: None,
            change_against_majority: None,
            parity: None,
        }
    }

    fn group(&self, group: &Group<'_>, missing: bool) -> GroupRow {
        let mut row = self.row(&group.items);
        row.group = Some(group.name.to_owned());
        row.role = group.role;
        row.train = group.train;
        let Some(place) = group.place else { return row };
        let level = self.params.confidence;
        row.accuracy = self.within(row.accuracy, group.items.len(), |draw| draw.accuracy[place]);
        if let Some((signed, hbg)) = self.against_reference(group, missing) {
            row.against_reference = Some(signed);
            row.hbg = Some(hbg);
        }
        let majority = self.groups.iter().find(|group| group.role == Some(Role::Majority));
        if let Some(majority) = majority.filter(|majority| majority.name != group.name) {
            let estimate = majority.place.map(|other| {
                let (one, ones) = shares(&self.right, &group.items);
                let (two, twos) = shares(&self.right, &majority.items);
                let number = move |draw: &Draw| draw.accuracy[place] - draw.accuracy[other];
                difference(one - two, &less(&ones, &twos), &self.draws, level, number)
            });
            let reason = || Estimate::undefined("the majority has fewer than two test items");
            row.against_majority = Some(estimate.unwrap_or_else(reason));
            row.change_against_majority = self.change(group, majority, missing);
        }
        row
    }

    /// A share of `items` with its interval.
    fn within(&self, share: Estimate, items: usize, number: impl Fn(&Draw) -> f64) -> Estimate {
        let level = self.params.confidence;
        let exact = share.value.and_then(|share| exact(level, share, items));
        share.within(exact.unwrap_or_else(|| interval(&self.draws, level, number)))
    }

    /// A group's signed gap to the reference, and its absolute value.
    fn against_reference(&self, group: &Group<'_>, missing: bool) -> Option<(Estimate, Estimate)> {
        if missing {
            let why = || Estimate::undefined("a run to compare with is missing");
            return Some((why(), why()));
        }
        let (reference, place) = (self.reference.as_ref()?, group.place?);
        let (one, ones) = shares(&self.right, &group.items);
        let (two, twos) = shares(reference, &group.items);
        let gaps = less(&ones, &twos);
        let number = move |draw: &Draw| draw.accuracy[place] - draw.reference[place];
        let signed = difference(one - two, &gaps, &self.draws, self.params.confidence, number);
        let absolute: Vec<f64> = gaps.iter().map(|gap| gap.abs()).collect();
        Some((signed, Estimate::of((one - two).abs(), &absolute)))
    }

    /// How a group's gap to the majority differs from that in the reference.
    fn change(&self, group: &Group<'_>, majority: &Group<'_>, missing: bool) -> Option<Estimate> {
        if missing {
            return Some(Estimate::undefined("a run to compare with is missing"));
        }
        let (reference, place, other) = (self.reference.as_ref()?, group.place?, majority.place?);
        let gap = |right: &Right| {
            let ((one, ones), (two, twos)) = (shares(right, &group.items), shares(right, &majority.items));
            (one - two, less(&ones, &twos))
        };
        let ((ours, by_run), (theirs, by_reference)) = (gap(&self.right), gap(reference));
        let number = move |draw: &Draw| {
            (draw.accuracy[place] - draw.accuracy[other]) - (draw.reference[place] - draw.reference[other])
        };
        let level = self.params.confidence;
        Some(difference(ours - theirs, &less(&by_run, &by_reference), &self.draws, level, number))
    }

    fn whole(&self, missing: bool, there: &[&Instance]) -> GroupRow {
        let every: Vec<usize> = (0..self.runs.items.len()).collect();
        let mut row = self.row(&every);
        let counted: Vec<&Group<'_>> = self.groups.iter().filter(|group| group.place.is_some()).collect();
        let level = self.params.confidence;
        if counted.len() == self.groups.iter().filter(|group| !group.items.is_empty()).count() && every.len() > 1 {
            // By the sizes that the groups have: they are not resampled.
            let sizes: Vec<f64> = counted.iter().map(|group| group.items.len() as f64 / every.len() as f64).collect();
            let number = |draw: &Draw| draw.accuracy.iter().zip(&sizes).map(|(at, size)| at * size).sum();
            row.accuracy = self.within(row.accuracy, every.len(), number);
        }
        let with = |role: Role| self.groups.iter().find(|group| group.role == Some(role)).and_then(|group| group.train);
        let proportion = with(Role::Minority).zip(with(Role::Majority)).filter(|(_, majority)| *majority > 0.0);
        let kept: Vec<f64> =
            there.iter().filter_map(|instance| instance.counts.as_ref()).map(|counts| counts.share).collect();
        let mut parity = Parity {
            ap: Estimate::undefined("fewer than two groups have two or more test items"),
            against_reference: None,
            best: None,
            worst: None,
            worst_against_reference: None,
            proportion: proportion.map(|(minority, majority)| minority / majority),
            kept: kept.first().copied().filter(|first| kept.iter().all(|share| share == first)),
            confidence: level,
        };
        row.train = self.groups.iter().map(|group| group.train).sum();
        if counted.len() > 1 {
            self.parity(&counted, missing, &mut parity);
        }
        row.parity = Some(parity);
        row
    }

    fn parity(&self, counted: &[&Group<'_>], missing: bool, parity: &mut Parity) {
        let all = |right: &Right| counted.iter().map(|group| shares(right, &group.items)).collect::<Vec<_>>();
        let of_run = |shares: &[(f64, Vec<f64>)], run: usize| spread(shares.iter().map(|(_, runs)| runs[run]));
        let aps = |shares: &[(f64, Vec<f64>)]| -> (f64, Vec<f64>) {
            let runs = (0..self.count).map(|run| of_run(shares, run)).collect();
            (spread(shares.iter().map(|(all, _)| *all)), runs)
        };
        let ours = all(&self.right);
        let (ap, by_run) = aps(&ours);
        parity.ap = Estimate::of(ap, &by_run);
        let named: BTreeMap<&str, f64> =
            counted.iter().zip(&ours).map(|(group, (all, _))| (group.name, *all)).collect();
        // Of equals the first by name.
        parity.best = named.iter().rev().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| (*name).to_owned());
        parity.worst = named.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| (*name).to_owned());
        if missing {
            parity.against_reference = Some(Estimate::undefined("a run to compare with is missing"));
        }
        let Some(reference) = &self.reference else { return };
        let theirs = all(reference);
        let (other, others) = aps(&theirs);
        let number = |draw: &Draw| spread(draw.accuracy.iter().copied()) - spread(draw.reference.iter().copied());
        parity.against_reference =
            Some(difference(ap - other, &less(&by_run, &others), &self.draws, self.params.confidence, number));
        let gaps = counted.iter().zip(ours.iter().zip(&theirs)).map(|(group, (one, two))| (group.name, one.0 - two.0));
        parity.worst_against_reference = gaps.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(name, _)| name.to_owned());
    }
}
