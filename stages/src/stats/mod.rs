//! Intervals and tests for shares and means over prompts and runs.
//!
//! A share is told of prompts, and prompts are made of identities and templates; runs differ in their seeds. All of these
//! are samples: other identities, templates and seeds could have been drawn. So the bootstrap is *crossed*: each
//! resample draws the levels of every factor with replacement, each factor for itself, and an observation counts the
//! product of how often its levels were drawn (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007). With
//! one completion per prompt, resampling prompts alone would take sentences about one identity for independent. The
//! product weights are never too narrow for long, and up to three times (two factors) too wide in variance where
//! observations have nothing in common but noise: they err on the safe side.
//!
//! The numbers come from a counter-based generator keyed by (seed, factor, levels, resample): the same for any number of
//! threads, and the same for tables of one shape.

mod density;
mod design;
mod multiple;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use palinode_models::rng::Stream;
use rayon::prelude::*;

pub use density::{Density, silverman};
pub use design::{Design, Factor, Resample};
pub use multiple::holm;

use crate::random::below;

/// A part of a ratio: what is counted, and of how much.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ratio {
    /// Toxic completions; summed loss; summed divergence.
    pub top: f64,
    /// Judged completions; tokens; positions.
    pub bottom: f64,
}

/// How to resample.
#[derive(Debug)]
pub struct Bootstrap {
    /// How many resamples.
    pub resamples: usize,
    /// Level of the interval: 0.95.
    pub confidence: f64,
    /// Seeds the resamples.
    pub seed: u64,
    /// Counts of small factors, by place and levels: tables of one shape are many.
    drawn: Mutex<Drawn>,
}

/// How often each level was drawn, resample after resample, by the factor's place and its levels.
type Drawn = BTreeMap<(usize, usize), Arc<Vec<u16>>>;

/// Factors of more levels are drawn anew for each table: their counts would take too much memory.
const KEPT: usize = 4096;

/// What a difference came out as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Two-sided.
    pub p: f64,
}

/// What a share of 0 or 1 of `n` can still be: there a bootstrap sees no spread, so the ends are those of Clopper and
/// Pearson (1934), as if the `n` were independent.
pub fn exact(confidence: f64, share: f64, n: usize) -> Option<(f64, f64)> {
    if n == 0 {
        return None;
    }
    let reach = libm::pow((1.0 - confidence) / 2.0, 1.0 / n as f64);
    match share {
        0.0 => Some((0.0, 1.0 - reach)),
        1.0 => Some((reach, 1.0)),
        _ => None,
    }
}

impl Bootstrap {
    /// Of so many resamples, with intervals of this level.
    pub fn new(resamples: usize, confidence: f64, seed: u64) -> Self {
        Bootstrap { resamples, confidence, seed, drawn: Mutex::default() }
    }

    /// The percentile interval of `sum(top) / sum(bottom)` over cells that `design` describes. `None` where nothing can
    /// be resampled, or no resample has anything below the line.
    pub fn interval(&self, design: &Design, cells: &[Ratio]) -> Option<(f64, f64)> {
        let mut values = self.resample(design, |weights| ratio(cells, weights))?;
        values.sort_by(f64::total_cmp);
        self.ends(&values)
    }

    /// The interval of the difference of two ratios over the same cells, and a p-value that agrees with it: twice the
    /// share of resamples at or beyond 0, counting the sample itself among them (Davison and Hinkley, Bootstrap Methods
    /// and their Application, 4.4), at most 1. The least that it can be is `2 / (resamples + 1)`.
    pub fn difference(&self, design: &Design, left: &[Ratio], right: &[Ratio]) -> Option<Difference> {
        let both = |weights: &[f64]| Some(ratio(left, weights)? - ratio(right, weights)?);
        let mut values = self.resample(design, both)?;
        values.sort_by(f64::total_cmp);
        let (low, high) = self.ends(&values)?;
        let below = values.iter().filter(|&&value| value <= 0.0).count();
        let above = values.iter().filter(|&&value| value >= 0.0).count();
        let p = 2.0 * (below.min(above) + 1) as f64 / (values.len() + 1) as f64;
        Some(Difference { low, high, p: p.min(1.0) })
    }

    /// [`exact`] of this level.
    pub fn exact(&self, share: f64, n: usize) -> Option<(f64, f64)> {
        exact(self.confidence, share, n)
    }

    fn ends(&self, sorted: &[f64]) -> Option<(f64, f64)> {
        let tail = (1.0 - self.confidence) / 2.0;
        Some((quantile(sorted, tail)?, quantile(sorted, 1.0 - tail)?))
    }

    /// A statistic of each resample, in order; those in which it doesn't exist are left out. It is handed how often each
    /// cell counts.
    fn resample(&self, design: &Design, statistic: impl Fn(&[f64]) -> Option<f64> + Sync) -> Option<Vec<f64>> {
        if design.factors.is_empty() || design.cells == 0 {
            return None;
        }
        let drawn: Vec<Option<Arc<Vec<u16>>>> =
            design.factors.iter().enumerate().map(|(place, factor)| self.kept(place, factor.levels)).collect();
        let one = |scratch: &mut (Vec<f64>, Vec<u16>), at: usize| {
            let (weights, counts) = scratch;
            weights.clear();
            weights.resize(design.cells, 1.0);
            for (place, (factor, drawn)) in design.factors.iter().zip(&drawn).enumerate() {
                let counts: &[u16] = match drawn {
                    Some(drawn) => &drawn[at * factor.levels..][..factor.levels],
                    None => {
                        counts.clear();
                        counts.resize(factor.levels, 0);
                        self.draw(place, at, counts);
                        counts
                    }
                };
                for (weight, &level) in weights.iter_mut().zip(&factor.of) {
                    *weight *= f64::from(counts[level as usize]);
                }
            }
            statistic(weights)
        };
        let values = (0..self.resamples).into_par_iter().map_init(Default::default, one);
        let values: Vec<Option<f64>> = values.collect();
        Some(values.into_iter().flatten().collect())
    }

    /// The counts of all resamples for a factor of so many levels, unless they are too many to keep.
    fn kept(&self, place: usize, levels: usize) -> Option<Arc<Vec<u16>>> {
        if levels > KEPT {
            return None;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = drawn.entry((place, levels)).or_insert_with(|| {
            let mut counts = vec![0; self.resamples * levels];
            counts.chunks_mut(levels).enumerate().for_each(|(at, counts)| self.draw(place, at, counts));
            Arc::new(counts)
        });
        Some(Arc::clone(counts))
    }

    fn draw(&self, place: usize, at: usize, counts: &mut [u16]) {
        let levels = counts.len();
        let mut draw = Stream::new(self.seed, &[place as u64, levels as u64, at as u64]);
        (0..levels).for_each(|_| counts[below(&mut draw, levels)] += 1);
    }
}

/// `sum(w top) / sum(w bottom)`.
fn ratio(cells: &[Ratio], weights: &[f64]) -> Option<f64> {
    let (mut top, mut bottom) = (0.0, 0.0);
    for (cell, weight) in cells.iter().zip(weights) {
        top += weight * cell.top;
        bottom += weight * cell.bottom;
    }
    (bottom > 0.0).then(|| top / bottom)
}

/// The quantile `q` of sorted numbers, linear between neighbours (R's type 7, numpy's default).
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests;
