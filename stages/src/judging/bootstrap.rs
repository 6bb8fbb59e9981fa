//! Measures with bootstrap intervals over texts.
//!
//! A resample draws as many texts as there are, with replacement; completions of one prompt are drawn together, since
//! they are not independent. Numbers come from a counter-based generator keyed by (seed, resample), so they are the same
//! for any number of threads. A resample in which a measure has no value has no part in that measure's interval.

use palinode_models::rng::Stream;
use rayon::prelude::*;

use super::{
    counts::Counts,
    curves::{area, calibration, calibration_error},
};
use crate::{random::below, records::Measured, stats::quantile};

/// How to resample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intervals {
    /// How many resamples; 0 for no intervals.
    pub(crate) resamples: usize,
    /// Level of the interval: 0.95.
    pub(crate) confidence: f64,
    /// Seeds the resamples.
    pub(crate) seed: u64,
}

/// One text that both sides judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    /// Which prompt it belongs to: those of one are drawn together. From 0 on, without gaps.
    pub(crate) cluster: usize,
    pub(crate) truth: bool,
    pub(crate) predicted: bool,
    pub(crate) score: Option<f64>,
}

/// The names of what [`measures`] gives, in its order.
pub(crate) const NAMES: [&str; 9] = ["accuracy", "precision", "recall", "f1", "kappa", "tpr", "fpr", "auc", "ece"];

/// What is computed of `pairs`, by [`NAMES`].
pub(crate) fn measures(pairs: &[Pair], intervals: Intervals) -> Vec<Measured> {
    let clusters = pairs.iter().map(|pair| pair.cluster + 1).max().unwrap_or(0);
    let mut counts = vec![Counts::default(); clusters];
    pairs.iter().for_each(|pair| counts[pair.cluster] += Counts::one(pair.truth, pair.predicted));
    let scores: Option<Vec<(f64, bool, usize)>> =
        pairs.iter().map(|pair| Some((pair.score?, pair.truth, pair.cluster))).collect();
    let no_scores = if scores.is_none() { Some("the judge gives no score, or not for all texts") } else { None };
    let mut scored = scores.unwrap_or_default();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let sorted: Vec<(f64, bool)> = scored.iter().map(|&(score, truth, _)| (score, truth)).collect();
    let probabilities = sorted.iter().all(|(score, _)| (0.0..=1.0).contains(score));
    let compute = |times: &dyn Fn(usize) -> u64| -> Vec<Result<f64, &'static str>> {
        let sum: Counts = counts.iter().enumerate().map(|(at, counts)| counts.times(times(at))).sum();
        let mut values = sum.measures().to_vec();
        values.push(no_scores.map_or_else(|| area(&sorted, |at| times(scored[at].2)), Err));
        values.push(match no_scores {
            Some(reason) => Err(reason),
            None if !probabilities => Err("the judge's scores are not between 0 and 1"),
            None => {
                let bins = scored.iter().map(|&(score, truth, cluster)| (score, truth, times(cluster)));
                calibration_error(&calibration(bins))
            }
        });
        values
    };
    let mut measured: Vec<Measured> = compute(&|_| 1).into_iter().map(measured_of).collect();
    if clusters == 0 {
        return measured;
    }
    let resample = |at: usize| {
        let mut draw = Stream::new(intervals.seed, &[at as u64]);
        let mut times = vec![0u64; clusters];
        (0..clusters).for_each(|_| times[below(&mut draw, clusters)] += 1);
        compute(&|cluster| times[cluster])
    };
    let resampled: Vec<Vec<Result<f64, &'static str>>> =
        (0..intervals.resamples).into_par_iter().map(resample).collect();
    let tail = (1.0 - intervals.confidence) / 2.0;
    for (at, measured) in measured.iter_mut().enumerate().filter(|(_, measured)| measured.value.is_some()) {
        let mut values: Vec<f64> = resampled.iter().filter_map(|values| values[at].ok()).collect();
        values.sort_by(f64::total_cmp);
        measured.low = quantile(&values, tail);
        measured.high = quantile(&values, 1.0 - tail);
    }
    measured
}

fn measured_of(value: Result<f64, &'static str>) -> Measured {
    match value {
        Ok(value) => Measured { value: Some(value), ..Measured::default() },
        Err(reason) => Measured { undefined: Some(reason.to_owned()), ..Measured::default() },
    }
}
