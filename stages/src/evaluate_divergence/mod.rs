//! `evaluate.divergence`: means of divergences with crossed bootstrap intervals, their quantiles and densities.

mod tables;
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
    records::{self, DivergenceRow, Scale},
    runtime::on_cpus,
    stats::{Bootstrap, Resample},
};

/// The kind.
pub(crate) struct EvaluateDivergence;

/// `with` of `evaluate.divergence`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Which measures are told.
    measures: Vec<Measure>,
    /// Gathered axes to pool over, beside a row for each instance: their points are a sample, as seeds are.
    pool: Vec<String>,
    /// Parts of the prompts that get rows of their own, beside all of them.
    by: Vec<By>,
    /// What the bootstrap draws anew of the prompts: `crossed` (identities and templates, each for itself), `identity`,
    /// `template`, or `prompt`. Pooled axes are drawn anew in any case.
    resample: Resample,
    /// What densities are over: `log10` of the value, or the value itself (`linear`).
    scale: Scale,
    /// Places at which a density is told.
    points: usize,
    /// Bootstrap resamples.
    resamples: usize,
    /// Level of the intervals.
    confidence: f64,
    /// Seeds the bootstrap.
    seed: u64,
}

/// A measure of `divergence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// KL(base || tuned), in nats.
    Kl,
    /// KL(tuned || base), in nats.
    ReverseKl,
    /// Jensen and Shannon's divergence, in nats.
    Js,
    /// Total variation.
    Tv,
}

impl Measure {
    /// As files name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Measure::Kl => "kl",
            Measure::ReverseKl => "reverse_kl",
            Measure::Js => "js",
            Measure::Tv => "tv",
        }
    }

    fn of(self, row: &DivergenceRow) -> f64 {
        match self {
            Measure::Kl => row.kl,
            Measure::ReverseKl => row.reverse_kl,
            Measure::Js => row.js,
            Measure::Tv => row.tv,
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Params {
            measures: vec![Measure::Kl, Measure::ReverseKl, Measure::Js, Measure::Tv],
            pool: vec!["seed".to_owned()],
            by: vec![By::Group],
            resample: Resample::default(),
            scale: Scale::default(),
            points: 200,
            resamples: 2000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

impl Kind for EvaluateDivergence {
    type Params = Params;
    const NAME: &'static str = "evaluate.divergence";
    const ABOUT: &'static str = "Means of divergences with crossed bootstrap intervals, quantiles and densities.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        let about = "divergence.jsonl of `divergence`; gather the axes to compare and to pool";
        vec![InputPort::table("divergences", PortType::Distribution, about)]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "metrics.jsonl: mean, interval and quantiles by measure, coordinates and part of the prompts; \
                     densities.jsonl: kernel densities";
        vec![OutputPort::new("metrics", PortType::Metrics, about)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = bootstrap_problems(params.resamples, params.confidence);
        if params.measures.is_empty() {
            problems.push(ParamProblem::new("measures", "the list is empty").hint("give kl, reverse_kl, js or tv"));
        }
        if !(10..=10_000).contains(&params.points) {
            problems.push(ParamProblem::new("points", "give a number from 10 to 10000"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let read = tables::Tables::read(&params, ctx)?;
        let bootstrap = Bootstrap::new(params.resamples, params.confidence, params.seed);
        let (means, densities) = on_cpus(ctx, || read.told(&params, &bootstrap, ctx))?;
        ctx.summary("instances", read.there());
        ctx.summary("positions", read.positions());
        ctx.summary("missing_instances", read.missing());
        if read.missing() > 0 {
            ctx.warn(format!("{} instances are missing from the gather and in no mean", read.missing()));
        }
        let zeros: usize = densities.iter().filter(|row| row.pooled.is_empty()).map(|row| row.zeros).max().unwrap_or(0);
        ctx.summary("zeros", zeros);
        let output = ctx.output("metrics")?;
        output.write_jsonl(records::METRICS, &means)?;
        output.write_jsonl(records::DENSITIES, &densities)
    }
}
