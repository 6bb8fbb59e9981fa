//! Dropout of activations (Srivastava et al. 2014) from counter-based random numbers: a mask is a function of the seed,
//! the pass and the place in the model, so it comes out the same on any number of threads, and again when a block is
//! computed again.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{Pass, ops};
use crate::config::DropoutRates;
use crate::rng::Stream;

/// Names the dropout masks of one training step; without it a pass drops nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutKey {
    /// Seed of the training run.
    pub seed: u64,
    /// Number of the forward pass in that run.
    pub step: u64,
    /// Of the model's own dropout, which all parts of it share; an adapter's rate is its own.
    pub rates: DropoutRates,
}

/// First word of the streams that masks are drawn from.
const MODEL: u64 = 0x6d6f_6465;
/// Numbers that come from one stream; fixed, so that masks don't depend on threads.
const CHUNK: usize = 1 << 13;

impl Pass {
    /// What follows belongs to this part of the model (embedding, block, head): its masks are its own, and the same
    /// whichever parts were computed before.
    pub(crate) fn enter(&self, part: usize) {
        self.place.store((part as u64) << 16, std::sync::atomic::Ordering::Relaxed);
    }

    /// The rate of one kind of dropout in this pass.
    pub(crate) fn rate(&self, rate: impl Fn(&DropoutRates) -> f64) -> f64 {
        self.dropout.map_or(0.0, |key| rate(&key.rates))
    }

    /// Activations of which each was dropped with its probability, and the others made larger to keep the sum.
    pub(crate) fn drop<const D: usize>(&self, x: Tensor<D>, rate: impl Fn(&DropoutRates) -> f64) -> Tensor<D> {
        let (Some(key), rate) = (self.dropout, self.rate(rate)) else { return x };
        if rate <= 0.0 {
            return x;
        }
        let place = self.place.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let shape = x.shape();
        let mut mask = vec![0.0f32; shape.num_elements()];
        let keep = (1.0 / (1.0 - rate)) as f32;
        mask.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, mask)| {
            let mut stream = Stream::new(key.seed, &[MODEL, key.step, place, chunk as u64]);
            for value in mask {
                *value = if f64::from(stream.uniform()) < rate { 0.0 } else { keep };
            }
        });
        let device = x.device();
        x * ops::from_vec(mask, shape, &device)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn as_many_are_dropped_as_the_rate_says_and_places_differ() {
        let rates = DropoutRates { hidden: 0.25, ..DropoutRates::default() };
        let device = Device::flex();
        let pass = Pass { dropout: Some(DropoutKey { seed: 3, step: 7, rates }), ..Pass::bare(&device) };
        let ones = || Tensor::<2>::ones([300, 100], &device);
        let drop = |pass: &Pass| ops::to_vec(pass.drop(ones(), |rates| rates.hidden));
        pass.enter(1);
        let (first, second) = (drop(&pass), drop(&pass));
        let zeros = first.iter().filter(|&&value| value == 0.0).count();
        assert!((zeros as f64 / 30_000.0 - 0.25).abs() < 0.01, "{zeros}");
        assert!(first.iter().all(|&value| value == 0.0 || value == 1.0 / 0.75));
        assert_ne!(first, second);
        pass.enter(2);
        assert_ne!(first, drop(&pass));
        pass.enter(1);
        assert_eq!(first, drop(&pass));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        pass.enter(1);
        assert_eq!(first, pool.install(|| drop(&pass)));
        assert_eq!(ops::to_vec(pass.drop(ones(), |rates| rates.attention)), vec![1.0; 30_000]);
    }
}
