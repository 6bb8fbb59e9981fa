//! The bootstrap over test items and runs.
//!
//! Crossed, as in [`crate::stats`]: each resample draws the items of each group with replacement and, independently, the
//! runs; a prediction counts as often as its item was drawn times as often as its run was. Accuracies of a run and of its
//! reference are taken on the same draws, so that differences are paired by item and run.

use palinode_models::rng::Stream;
use rayon::prelude::*;

use super::row::Estimate;
use crate::{random::below, stats::quantile};

/// Whether each prediction is right: by run, then item.
pub(super) type Right = Vec<Vec<bool>>;

/// What to resample.
pub(super) struct Resample<'r> {
    /// The places of each group's items.
    pub(super) groups: &'r [Vec<usize>],
    pub(super) right: &'r Right,
    pub(super) reference: Option<&'r Right>,
    pub(super) resamples: usize,
    pub(super) seed: u64,
}

/// Accuracies of the groups in a resample.
#[derive(Debug, Clone)]
pub(super) struct Draw {
    pub(super) accuracy: Vec<f64>,
    pub(super) reference: Vec<f64>,
}

impl Resample<'_> {
    /// What comes of each resample; the same on any number of threads.
    pub(super) fn draws(&self) -> Vec<Draw> {
        (0..self.resamples).into_par_iter().map(|at| self.draw(at)).collect()
    }

    fn draw(&self, at: usize) -> Draw {
        let runs = self.right.len();
        let mut times = vec![0u32; runs];
        let mut stream = Stream::new(self.seed, &[at as u64]);
        (0..runs).for_each(|_| times[below(&mut stream, runs)] += 1);
        let mut draw = Draw { accuracy: Vec::new(), reference: Vec::new() };
        for (number, group) in self.groups.iter().enumerate() {
            let mut stream = Stream::new(self.seed, &[at as u64, number as u64 + 1]);
            let mut items = vec![0u32; group.len()];
            (0..group.len()).for_each(|_| items[below(&mut stream, group.len())] += 1);
            let share = |right: &Right| {
                let mut sum = 0u64;
                for (run, &times) in right.iter().zip(&times).filter(|(_, times)| **times > 0) {
                    let here: u64 =
                        group.iter().zip(&items).map(|(&item, &drawn)| u64::from(run[item]) * u64::from(drawn)).sum();
                    sum += here * u64::from(times);
                }
                sum as f64 / (runs * group.len()).max(1) as f64
            };
            draw.accuracy.push(share(self.right));
            draw.reference.extend(self.reference.map(share));
        }
        draw
    }
}

/// The interval of a number, from its value in each resample: percentiles.
pub(super) fn interval(draws: &[Draw], confidence: f64, number: impl Fn(&Draw) -> f64) -> (f64, f64) {
    let mut values: Vec<f64> = draws.iter().map(number).collect();
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    let end = |q: f64| quantile(&values, q).unwrap_or(f64::NAN);
    (end(tail), end(1.0 - tail))
}

/// A signed difference: its value overall and in each run, its interval, and the two-sided p-value of its being 0, twice
/// the smaller share of resamples at or beyond 0 (with one added to both counts, so that it is never 0).
pub(super) fn difference(
    value: f64,
    runs: &[f64],
    draws: &[Draw],
    confidence: f64,
    number: impl Fn(&Draw) -> f64 + Copy,
) -> Estimate {
    let count = |beyond: fn(f64) -> bool| draws.iter().filter(|draw| beyond(number(draw))).count();
    let share = |count: usize| (count + 1) as f64 / (draws.len() + 1) as f64;
    // Sums of shares may miss 0 in their last bits.
    let least = share(count(|x| x <= 1e-12)).min(share(count(|x| x >= -1e-12)));
    let estimate = Estimate::of(value, runs).within(interval(draws, confidence, number));
    Estimate { p: Some((2.0 * least).min(1.0)), ..estimate }
}
