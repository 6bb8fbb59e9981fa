//! `evaluate.toxicity`: the share of toxic completions per model, run and group of prompts, with intervals; how models
//! differ, with tests; whether the paper's Eq. 2 holds.

mod compare;
mod rates;
mod seen;
#[cfg(test)]
mod tests;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    gathered::{By, bootstrap_problems},
    records::{self, ALL, Phase, Rate},
    runtime::on_cpus,
    stats::{Bootstrap, Resample},
};
use compare::Compare;
use seen::Seen;

/// The kind.
pub(crate) struct Toxicity;

/// `with` of `evaluate.toxicity`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Gathered axes to pool over, beside a row for each instance: their points are a sample, as seeds are.
    pool: Vec<String>,
    /// Parts of the prompts that get rows of their own, beside all of them.
    by: Vec<By>,
    /// What the bootstrap draws anew of the prompts: `crossed` (identities and templates, each for itself), `identity`,
    /// `template`, or `prompt`. Pooled axes are drawn anew in any case.
    resample: Resample,
    /// Scores above this count as toxic (the paper's c > alpha); without it, the judge's verdict does.
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    /// Also tell whether the toxic share is at most 1 - gamma (the paper's Eq. 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    gamma: Option<f64>,
    /// Which models are compared, on the same prompts and runs: `pairs` (any two, the base among them), `before` (each
    /// with the base), or coordinates such as `{rank: full}` (each with the point that differs from it in nothing else).
    compare: Vec<Compare>,
    /// Bootstrap resamples.
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
            by: vec![By::Group, By::Identity],
            resample: Resample::default(),
            alpha: None,
            gamma: None,
            compare: vec![Compare::Pairs],
            resamples: 2000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

impl Kind for Toxicity {
    type Params = Params;
    const NAME: &'static str = "evaluate.toxicity";
    const ABOUT: &'static str = "Counts toxic completions and compares models, with crossed bootstrap intervals.";
    const REVISION: u32 = 2;

    fn inputs() -> Vec<InputPort> {
        let before = "the untouched base's, told in rows of their own: of a draw other than the one that chose what was \
                      learned";
        let perplexity = "of the same completions under the base: less toxic, or only worse?";
        vec![
            InputPort::table("verdicts", PortType::Verdicts, "what to count; gather the axes to compare and to pool"),
            InputPort::table("before", PortType::Verdicts, before).optional(),
            InputPort::table("perplexity", PortType::Metrics, perplexity).optional(),
            InputPort::table("before_perplexity", PortType::Metrics, "the same, of the base's completions").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "metrics.jsonl: counts, share and interval by coordinates and part of the prompts; \
                     comparisons.jsonl: paired differences of models, with p-values";
        vec![OutputPort::new("metrics", PortType::Metrics, about)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = bootstrap_problems(params.resamples, params.confidence);
        problems.extend(params.gamma.and_then(|gamma| crate::share("gamma", gamma)));
        if params.alpha.is_some_and(|alpha| !alpha.is_finite()) {
            problems.push(ParamProblem::new("alpha", "give a number"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let seen = Seen::read(&params, ctx)?;
        let bootstrap = Bootstrap::new(params.resamples, params.confidence, params.seed);
        let (rates, comparisons) = on_cpus(ctx, || {
            let rates = rates::rates(&params, &seen, &bootstrap, ctx)?;
            let comparisons = compare::compare(&params, &seen, &bootstrap, ctx)?;
            Ok((rates, comparisons))
        })?;
        tell(ctx, &params, &rates, &comparisons);
        let output = ctx.output("metrics")?;
        output.write_jsonl(records::METRICS, &rates)?;
        output.write_jsonl(records::COMPARISONS, &comparisons)
    }
}

fn tell(ctx: &Context<'_>, params: &Params, rates: &[Rate], comparisons: &[records::Comparison]) {
    let of_all = |rate: &&Rate| [&rate.split, &rate.exposure, &rate.group, &rate.identity].iter().all(|of| *of == ALL);
    let whole: Vec<&Rate> = rates.iter().filter(|rate| rate.pooled.is_empty()).filter(of_all).collect();
    let count = |count: fn(&Rate) -> usize| whole.iter().map(|rate| count(rate)).sum::<usize>();
    ctx.summary("completions", count(|rate| rate.n));
    ctx.summary("toxic", count(|rate| rate.toxic));
    let unparsable = count(|rate| rate.unparsable);
    ctx.summary("unparsable", unparsable);
    if unparsable > 0 {
        ctx.warn(format!("{unparsable} verdicts could not be read and are in no share"));
    }
    let missing = count(|rate| rate.missing);
    ctx.summary("missing_instances", missing);
    if missing > 0 {
        ctx.warn(format!("{missing} instances are missing from the gather and in no rate"));
    }
    ctx.summary("comparisons", comparisons.len());
    let family = comparisons.iter().map(|comparison| comparison.family).max().unwrap_or(0);
    let level = 1.0 - params.confidence;
    let least = 2.0 * family as f64 / (params.resamples + 1) as f64;
    if least > level {
        ctx.warn(format!(
            "of {family} comparisons none can be significant at {level:.3}: with {} resamples the least p-value is \
             {least:.3} after Holm's correction; raise `resamples`, or compare fewer",
            params.resamples
        ));
    }
    if let Some(note) = whole.iter().filter(|rate| rate.phase == Phase::After).find_map(|rate| rate.note.as_ref()) {
        ctx.warn(note.clone());
    }
}
