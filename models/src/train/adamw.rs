//! AdamW with decoupled weight decay, in the order of `torch.optim.AdamW`, in place over f32 slices.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::layers::fused::wide;

/// Hyperparameters of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// The scalars of one update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Counted from 1.
    pub(crate) time: usize,
    /// Learning rate.
    pub(crate) rate: f64,
    /// Weight decay.
    pub(crate) decay: f64,
    /// Multiplies the gradient (clipping).
    pub(crate) scale: f32,
}

/// First and second moment of one parameter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Moments {
    /// From both.
    pub(crate) fn of([first, second]: [Vec<f32>; 2]) -> Self {
        Moments { first, second }
    }

    /// Both, if there was a step.
    pub(crate) fn both(&self) -> Option<[Vec<f32>; 2]> {
        (!self.first.is_empty()).then(|| [self.first.clone(), self.second.clone()])
    }
}

/// Elements handled by one task; tensors up to this size never touch the thread pool.
const CHUNK: usize = 1 << 16;

impl AdamW {
    /// One update of `weight`. Elements are independent, so the bytes do not depend on how many threads share the work.
    pub(crate) fn step(&self, weight: &mut [f32], gradient: &[f32], moments: &mut Moments, step: Step) {
        moments.first.resize(weight.len(), 0.0);
        moments.second.resize(weight.len(), 0.0);
        let (first, second) = (&mut moments.first, &mut moments.second);
        let update = Update::new(self, step);
        if weight.len() <= CHUNK {
            return wide(|| update.apply(weight, gradient, first, second));
        }
        weight
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)))
            .for_each(|((weight, gradient), (first, second))| wide(|| update.apply(weight, gradient, first, second)));
    }
}

/// The scalars of one update, rounded to f32 where torch rounds them.
struct Update {
    keep: f32,
    scale: f32,
    first: f32,
    beta2: f32,
    second: f32,
    root: f32,
    eps: f32,
    step: f32,
}

impl Update {
    fn new(adamw: &AdamW, Step { time, rate, decay, scale }: Step) -> Self {
        let power = |beta: f64| 1.0 - beta.powi(time.min(i32::MAX as usize) as i32);
        Self {
            keep: (1.0 - rate * decay) as f32,
            scale,
            first: (1.0 - adamw.beta1) as f32,
            beta2: adamw.beta2 as f32,
            second: (1.0 - adamw.beta2) as f32,
            root: power(adamw.beta2).sqrt() as f32,
            eps: adamw.eps as f32,
            step: (rate / power(adamw.beta1)) as f32,
        }
    }

    #[inline(always)]
    fn apply(&self, weight: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        for (((w, &g), m), v) in weight.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = g * self.scale;
            *m += self.first * (g - *m);
            *v = *v * self.beta2 + self.second * g * g;
            *w = *w * self.keep - self.step * *m / (v.sqrt() / self.root + self.eps);
        }
    }
}

/// Sum of squares in f64, in an order that depends on the length alone.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    #[inline(always)]
    fn lanes(values: &[f32]) -> f64 {
        let mut sums = [0.0f64; 8];
        let (chunks, rest) = values.as_chunks::<8>();
        for chunk in chunks {
            for (sum, &value) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(value) * f64::from(value);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>()
    }
    if values.len() <= CHUNK {
        return wide(|| lanes(values));
    }
    values.par_chunks(CHUNK).map(|values| wide(|| lanes(values))).collect::<Vec<_>>().iter().sum()
}

/// The factor by which `torch.nn.utils.clip_grad_norm_` multiplies gradients of norm `norm`.
pub(crate) fn clip_factor(norm: f64, limit: Option<f64>) -> f32 {
    limit.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_moves_by_the_rate_against_the_gradient() {
        let mut weight = vec![1.0f32, -2.0, 0.5];
        let mut moments = Moments::default();
        AdamW::default().step(
            &mut weight,
            &[0.3, -7.0, 0.0],
            &mut moments,
            Step { time: 1, rate: 0.1, decay: 0.0, scale: 1.0 },
        );
        for (got, want) in weight.iter().zip([0.9, -1.9, 0.5]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn decay_is_decoupled_from_the_gradient() {
        let mut weight = vec![2.0f32];
        AdamW::default().step(
            &mut weight,
            &[0.0],
            &mut Moments::default(),
            Step { time: 1, rate: 0.1, decay: 0.25, scale: 1.0 },
        );
        assert_eq!(weight, [2.0 * 0.975]);
    }

    #[test]
    fn bytes_do_not_depend_on_the_thread_count() {
        let len = 3 * CHUNK + 17;
        let gradient: Vec<f32> = (0..len).map(|i| ((i * 7919) % 1013) as f32 / 97.0 - 5.0).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
            pool.install(|| {
                let (mut weight, mut moments) = (vec![0.1f32; len], Moments::default());
                for time in 1..4 {
                    AdamW::default().step(
                        &mut weight,
                        &gradient,
                        &mut moments,
                        Step { time, rate: 1e-2, decay: 0.1, scale: 0.5 },
                    );
                }
                (weight, sum_of_squares(&gradient))
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn clipping_follows_torch() {
        assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
        assert_eq!(clip_factor(4.0, Some(1.0)), (1.0f64 / 4.000001) as f32);
        assert_eq!(clip_factor(4.0, None), 1.0);
    }
}
