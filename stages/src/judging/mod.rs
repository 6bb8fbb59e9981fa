//! What judging judges shares: two sides' words on the same texts as a confusion matrix, what is computed from it, and
//! intervals for that.

mod bootstrap;
mod counts;
mod curves;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use palinode_engine::{
    context::Context,
    job::JobRow,
    stage::{ParamProblem, StageError},
};
use serde_json::Value;

use crate::records::{Confusion, Prompt};

pub(crate) use bootstrap::{Intervals, Pair};
pub(crate) use counts::Counts;
pub(crate) use curves::{CALIBRATION_BINS, calibration, roc};

/// Which completion: its prompt and its sample.
pub(crate) type Key<'r> = (&'r str, u32);

/// Where each row's completion stands; `what` is what the rows are.
///
/// # Errors
/// If two rows are of one completion.
pub(crate) fn places<'r>(
    what: &str,
    keys: impl IntoIterator<Item = Key<'r>>,
) -> Result<HashMap<Key<'r>, usize>, StageError> {
    let mut places = HashMap::new();
    for (at, key) in keys.into_iter().enumerate() {
        if places.insert(key, at).is_some() {
            let (prompt, sample) = key;
            let message = format!("the {what} hold two rows for the completion {sample} of the prompt `{prompt}`");
            return Err(StageError::failed(message));
        }
    }
    Ok(places)
}

/// The rows at `port` beside each row of the table at `verdicts`: at the same coordinates, or the only one there is.
pub(crate) fn beside(ctx: &Context<'_>, port: &str, coords: &[(String, Value)]) -> Result<Option<JobRow>, StageError> {
    let rows = ctx.table(port);
    if let [one] = &rows[..] {
        return Ok(Some(one.clone()));
    }
    let same = rows.iter().find(|row| row.coords == coords).cloned();
    if same.is_none() && !rows.is_empty() {
        return Err(StageError::failed(format!(
            "the input `{port}` has nothing at {coords:?}: gather it as the verdicts are"
        )));
    }
    Ok(same)
}

/// A text with a word of both sides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged<'p> {
    pub(crate) prompt: &'p Prompt,
    pub(crate) truth: bool,
    pub(crate) predicted: bool,
    pub(crate) score: Option<f64>,
}

/// A text without a word of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'p> {
    pub(crate) prompt: &'p Prompt,
    /// The truth is lacking.
    pub(crate) unlabelled: bool,
    /// The verdict is.
    pub(crate) unparsable: bool,
}

/// What one instance is measured on.
pub(crate) struct Sample<'p> {
    pub(crate) coords: Vec<(String, Value)>,
    pub(crate) truth: &'p str,
    pub(crate) judge: &'p str,
    pub(crate) judged: Vec<Judged<'p>>,
    pub(crate) left: Vec<Left<'p>>,
}

impl Sample<'_> {
    /// A row for all texts, then one for each value of each `by`. With one group, its row would repeat that of all.
    pub(crate) fn rows(&self, by: &[String], intervals: Intervals) -> Vec<Confusion> {
        let all = || self.judged.iter().map(|judged| judged.prompt).chain(self.left.iter().map(|left| left.prompt));
        let mut rows = vec![self.row("all", "all", intervals)];
        for by in by {
            let names: BTreeSet<&str> = all().flat_map(|prompt| values(prompt, by)).collect();
            if names.len() < 2 && by == "group" {
                continue;
            }
            rows.extend(names.iter().map(|name| self.row(by, name, intervals)));
        }
        rows
    }

    fn row(&self, by: &str, value: &str, intervals: Intervals) -> Confusion {
        let within = |prompt: &Prompt| by == "all" || values(prompt, by).contains(&value);
        let mut clusters: HashMap<&str, usize> = HashMap::new();
        let mut counts = Counts::default();
        let mut pairs = Vec::new();
        for judged in self.judged.iter().filter(|judged| within(judged.prompt)) {
            let next = clusters.len();
            let cluster = *clusters.entry(&judged.prompt.id).or_insert(next);
            counts += Counts::one(judged.truth, judged.predicted);
            let Judged { truth, predicted, score, .. } = *judged;
            pairs.push(Pair { cluster, truth, predicted, score });
        }
        let left =
            |lacks: fn(&Left<'_>) -> bool| self.left.iter().filter(|left| lacks(left) && within(left.prompt)).count();
        let names = bootstrap::NAMES.iter().map(|name| (*name).to_owned());
        let measures: BTreeMap<_, _> = names.zip(bootstrap::measures(&pairs, intervals)).collect();
        Confusion {
            coords: self.coords.clone(),
            truth: self.truth.to_owned(),
            judge: self.judge.to_owned(),
            by: by.to_owned(),
            value: value.to_owned(),
            n: counts.total(),
            prompts: clusters.len(),
            unlabelled: left(|left| left.unlabelled),
            unparsable: left(|left| left.unparsable),
            tp: counts.tp,
            missed: counts.missed,
            fp: counts.fp,
            tn: counts.tn,
            measures,
            confidence: intervals.confidence,
        }
    }
}

/// What a prompt is counted by, beside all: `group`, `identity`, `template`, `split`, or a fact. A fact of several values
/// (`female+male`) counts in each.
fn values<'p>(prompt: &'p Prompt, by: &str) -> Vec<&'p str> {
    match by {
        "group" => vec![&prompt.group],
        "identity" => prompt.identity.iter().map(String::as_str).collect(),
        "template" => prompt.template.iter().map(String::as_str).collect(),
        fact => prompt.facts.get(fact).map(|value| value.split('+').collect()).unwrap_or_default(),
    }
}

/// Fails if `by` names what no prompt has: a slip would look like a set without disparities.
pub(crate) fn check_by<'p>(by: &[String], prompts: impl Iterator<Item = &'p Prompt> + Clone) -> Result<(), StageError> {
    for name in by {
        if prompts.clone().all(|prompt| values(prompt, name).is_empty()) {
            let facts: HashSet<&str> =
                prompts.clone().flat_map(|prompt| prompt.facts.keys().map(String::as_str)).collect();
            let mut facts: Vec<&str> = facts.into_iter().collect();
            facts.sort_unstable();
            let known = ["group", "identity", "template"].into_iter().chain(facts).collect::<Vec<_>>().join(", ");
            let message = format!("`by` names `{name}`, which no prompt has; there may be: {known}");
            return Err(StageError::failed(message));
        }
    }
    Ok(())
}

/// What is wrong with how intervals are asked for.
pub(crate) fn interval_problems(resamples: usize, confidence: f64) -> Vec<ParamProblem> {
    let mut problems = Vec::new();
    if !(100..=1_000_000).contains(&resamples) {
        problems.push(ParamProblem::new("resamples", "give a number from 100 to 1000000"));
    }
    if !(confidence > 0.0 && confidence < 1.0) {
        problems.push(ParamProblem::new("confidence", "give a number between 0 and 1").hint("95% is 0.95"));
    }
    problems
}
