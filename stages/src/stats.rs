//! Intervals for rates.
//!
//! A rate is the share of toxic completions over prompts and instances (seeds). Both are samples: other prompts and
//! other seeds could have been drawn. So the bootstrap is *crossed*: each resample draws prompts with replacement and,
//! independently, instances with replacement; a cell counts as often as its prompt was drawn times as often as its
//! instance was drawn (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007). With one instance the
//! interval speaks of prompts alone. The ends are percentiles of the resampled rates.
//!
//! The numbers come from a counter-based generator keyed by (seed, resample): the same for any number of threads.

use palinode_models::rng::Stream;
use rayon::prelude::*;

use crate::random::below;

/// Counts of one prompt in one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Completions judged toxic.
    pub toxic: u32,
    /// Completions with a readable verdict.
    pub judged: u32,
}

/// How to resample.
#[derive(Debug, Clone, Copy)]
pub struct Bootstrap {
    /// How many resamples.
    pub resamples: usize,
    /// Level of the interval: 0.95.
    pub confidence: f64,
    /// Seeds the resamples.
    pub seed: u64,
}

impl Bootstrap {
    /// The interval of the rate in `cells`, by instance and then prompt (all instances have the same prompts in the
    /// same order; a cell may be empty). `None` if no completion was judged.
    pub fn interval(&self, cells: &[Vec<Cell>]) -> Option<(f64, f64)> {
        let prompts = cells.first().map_or(0, Vec::len);
        if prompts == 0 || cells.iter().flatten().all(|cell| cell.judged == 0) {
            return None;
        }
        let resample = |at: usize| -> Option<f64> {
            let mut draw = Stream::new(self.seed, &[at as u64]);
            let mut times = vec![0u64; prompts];
            (0..prompts).for_each(|_| times[below(&mut draw, prompts)] += 1);
            let (mut toxic, mut judged) = (0, 0);
            for _ in 0..cells.len() {
                for (cell, times) in cells[below(&mut draw, cells.len())].iter().zip(&times) {
                    toxic += u64::from(cell.toxic) * times;
                    judged += u64::from(cell.judged) * times;
                }
            }
            (judged > 0).then(|| toxic as f64 / judged as f64)
        };
        // A resample of nothing but empty cells has no rate; it happens only where almost none was judged.
        let mut rates: Vec<f64> = (0..self.resamples).into_par_iter().filter_map(resample).collect();
        rates.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        Some((quantile(&rates, tail)?, quantile(&rates, 1.0 - tail)?))
    }
}

/// The quantile `q` of sorted numbers, linear between neighbours (R's type 7, numpy's default).
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 1000, confidence: 0.95, seed: 1 };

    fn draw(seed: u64, prompts: usize, instances: usize, rate: impl Fn(usize) -> f64) -> Vec<Vec<Cell>> {
        let mut stream = Stream::new(seed, &[]);
        let mut cell = |rate: f64| Cell { toxic: u32::from(stream.uniform_f64() < rate), judged: 1 };
        (0..instances).map(|instance| (0..prompts).map(|_| cell(rate(instance))).collect()).collect()
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&sorted, 0.0), Some(1.0));
        assert_eq!(quantile(&sorted, 0.5), Some(3.0));
        assert_eq!(quantile(&sorted, 0.75), Some(5.0));
        assert_eq!(quantile(&sorted, 1.0), Some(8.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_interval_has_the_width_that_theory_gives() {
        let (low, high) = BOOTSTRAP.interval(&draw(5, 400, 1, |_| 0.3)).unwrap();
        let width = 2.0 * 1.96 * (0.3f64 * 0.7 / 400.0).sqrt();
        assert!((high - low - width).abs() < 0.15 * width, "{low} {high}");
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let quick = Bootstrap { resamples: 200, ..BOOTSTRAP };
        let covers = |seed: &u64| {
            let (low, high) = quick.interval(&draw(*seed, 100, 1, |_| 0.4)).unwrap();
            (low..=high).contains(&0.4)
        };
        let covered = (0..300).filter(covers).count();
        assert!((270..=295).contains(&covered), "{covered} of 300");
    }

    #[test]
    fn seeds_that_disagree_widen_the_interval() {
        let width = |cells: &[Vec<Cell>]| BOOTSTRAP.interval(cells).map(|(low, high)| high - low).unwrap();
        let agree = width(&draw(2, 300, 3, |_| 0.5));
        let disagree = width(&draw(2, 300, 3, |instance| [0.2, 0.5, 0.8][instance]));
        assert!(disagree > 3.0 * agree, "{agree} {disagree}");
    }

    #[test]
    fn threads_change_nothing_and_extremes_hold() {
        let cells = draw(9, 50, 3, |_| 0.5);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| BOOTSTRAP.interval(&cells))
        };
        assert_eq!(with(1), with(3));
        assert_eq!(BOOTSTRAP.interval(&draw(1, 50, 2, |_| 0.0)), Some((0.0, 0.0)));
        assert_eq!(BOOTSTRAP.interval(&[]), None);
        assert_eq!(BOOTSTRAP.interval(&[vec![Cell::default(); 5]]), None);
    }
}
