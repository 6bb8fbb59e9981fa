//! From examples to micro-batches: seeded order per epoch, windows of optimizer steps, buckets by length.

use super::{Sample, TrainConfig};
use crate::rng::Stream;

/// First word of the streams that shuffle.
const SHUFFLE: u64 = 0x7368_7566;

/// Which examples each optimizer step sees.
#[derive(Debug, Clone)]
pub(crate) struct Order<'a, S> {
    examples: &'a [S],
    window: usize,
    micro: usize,
    shuffle: Option<u64>,
    bucket: bool,
}

impl<'a, S: Sample> Order<'a, S> {
    pub(crate) fn new(examples: &'a [S], config: &TrainConfig) -> Self {
        Order {
            examples,
            window: config.micro_batch * config.accumulation,
            micro: config.micro_batch,
            shuffle: config.shuffle.then_some(config.seed),
            bucket: config.bucket,
        }
    }

    /// Optimizer steps of one pass over the examples; a last window that isn't full counts too.
    pub(crate) fn steps_per_epoch(&self) -> usize {
        self.examples.len().div_ceil(self.window)
    }

    /// The order of one epoch.
    pub(crate) fn epoch(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        if let Some(seed) = self.shuffle {
            let mut stream = Stream::new(seed, &[SHUFFLE, epoch as u64]);
            for end in (1..order.len()).rev() {
                order.swap(end, below(&mut stream, end as u64 + 1) as usize);
            }
        }
        order
    }

    /// The micro-batches of one optimizer step of an epoch.
    pub(crate) fn window(&self, epoch: &[usize], step: usize) -> Vec<Vec<&'a S>> {
        let start = step * self.window;
        let mut chosen = epoch[start..(start + self.window).min(epoch.len())].to_vec();
        if self.bucket {
            // Within the window only, so that bucketing changes how rows are padded, not which rows a step sees.
            chosen.sort_by_key(|&at| self.examples[at].tokens());
        }
        chosen.chunks(self.micro).map(|part| part.iter().map(|&at| &self.examples[at]).collect()).collect()
    }
}

/// Uniform below `bound`, without bias (Lemire's rejection).
fn below(stream: &mut Stream, bound: u64) -> u64 {
    let bound = bound as u32 as u64;
    loop {
        let product = u64::from(stream.bits()) * bound;
        if product as u32 >= (u32::MAX - bound as u32 + 1) % bound as u32 {
            return product >> 32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Example;
    use proptest::prelude::*;

    fn examples(lengths: &[usize]) -> Vec<Example> {
        let one = |(at, &len): (usize, &usize)| Example { ids: vec![at as u32; len], loss_from: 0 };
        lengths.iter().enumerate().map(one).collect()
    }

    #[test]
    fn bucketing_keeps_each_window_and_shortens_padding() {
        let examples = examples(&[9, 2, 8, 3, 5, 5]);
        let config =
            TrainConfig { micro_batch: 2, accumulation: 2, shuffle: false, bucket: true, ..Default::default() };
        let order = Order::new(&examples, &config);
        let lengths = |step| {
            let window = order.window(&order.epoch(0), step);
            window.iter().map(|batch| batch.iter().map(|row| row.ids.len()).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(lengths(0), [[2, 3], [8, 9]]);
        assert_eq!(lengths(1), [[5, 5]]);
        assert_eq!(order.steps_per_epoch(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn each_epoch_is_a_permutation_of_its_own(count in 1usize..40, seed in 0u64..9, window in 1usize..7) {
            let examples = examples(&vec![3; count]);
            let config = TrainConfig { micro_batch: window, seed, shuffle: true, ..Default::default() };
            let order = Order::new(&examples, &config);
            let (first, again, second) = (order.epoch(0), order.epoch(0), order.epoch(1));
            prop_assert_eq!(&first, &again);
            let mut sorted = first.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            if count > 12 {
                prop_assert_ne!(&first, &second);
            }
            let rows: usize = (0..order.steps_per_epoch())
                .flat_map(|step| order.window(&first, step))
                .map(|batch| batch.len())
                .sum();
            prop_assert_eq!(rows, count);
        }
    }
}
