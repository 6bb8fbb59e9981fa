//! From examples to micro-batches: seeded order per epoch, bucketing by length, right padding, targets.

use std::ops::Range;

use super::{Example, TrainConfig};
use crate::rng::Stream;

/// First word of the streams that shuffle.
const SHUFFLE: u64 = 0x7368_7566;

/// Rows that go through the model at once: inputs with their last token cut off, and what is to be predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MicroBatch {
    /// Input ids by row, not padded.
    pub(crate) rows: Vec<Vec<u32>>,
    /// Places `row * width + position` of the inputs whose successor counts, ascending.
    pub(crate) places: Vec<usize>,
    /// The successors, in the order of `places`.
    pub(crate) targets: Vec<u32>,
}

impl MicroBatch {
    fn new<'a>(examples: impl Iterator<Item = &'a Example>) -> Self {
        let chosen: Vec<&Example> = examples.collect();
        let width = chosen.iter().map(|example| example.ids.len() - 1).max().unwrap_or(0);
        let mut batch = MicroBatch { rows: Vec::with_capacity(chosen.len()), places: vec![], targets: vec![] };
        for (row, example) in chosen.iter().enumerate() {
            let predicted = example.predicted();
            batch.places.extend(predicted.clone().map(|at| row * width + at - 1));
            batch.targets.extend_from_slice(&example.ids[predicted]);
            batch.rows.push(example.ids[..example.ids.len() - 1].to_vec());
        }
        batch
    }
}

impl Example {
    /// The places of `ids` that the loss is taken at. The first token has nothing before it to be predicted from.
    pub(crate) fn predicted(&self) -> Range<usize> {
        self.loss_from.clamp(1, self.ids.len())..self.ids.len()
    }
}

/// Which examples each optimizer step sees.
#[derive(Debug, Clone)]
pub(crate) struct Order<'a> {
    examples: &'a [Example],
    window: usize,
    micro: usize,
    shuffle: Option<u64>,
    bucket: bool,
}

impl<'a> Order<'a> {
    pub(crate) fn new(examples: &'a [Example], config: &TrainConfig) -> Self {
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
    pub(crate) fn window(&self, epoch: &[usize], step: usize) -> Vec<MicroBatch> {
        let start = step * self.window;
        let mut chosen = epoch[start..(start + self.window).min(epoch.len())].to_vec();
        if self.bucket {
            // Within the window only, so that bucketing changes how rows are padded, not which rows a step sees.
            chosen.sort_by_key(|&at| self.examples[at].ids.len());
        }
        chosen.chunks(self.micro).map(|part| MicroBatch::new(part.iter().map(|&at| &self.examples[at]))).collect()
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
    use proptest::prelude::*;

    fn examples(lengths: &[usize]) -> Vec<Example> {
        let one = |(at, &len): (usize, &usize)| Example { ids: vec![at as u32; len], loss_from: 0 };
        lengths.iter().enumerate().map(one).collect()
    }

    #[test]
    fn inputs_lose_their_last_token_and_targets_follow_their_places() {
        let examples = [Example { ids: vec![1, 2, 3, 4], loss_from: 2 }, Example { ids: vec![5, 6], loss_from: 0 }];
        let batch = MicroBatch::new(examples.iter());
        assert_eq!(batch.rows, [vec![1, 2, 3], vec![5]]);
        assert_eq!(batch.places, [1, 2, 3]);
        assert_eq!(batch.targets, [3, 4, 6]);
    }

    #[test]
    fn bucketing_keeps_each_window_and_shortens_padding() {
        let examples = examples(&[9, 2, 8, 3, 5, 5]);
        let config =
            TrainConfig { micro_batch: 2, accumulation: 2, shuffle: false, bucket: true, ..Default::default() };
        let order = Order::new(&examples, &config);
        let lengths = |step| {
            let window = order.window(&order.epoch(0), step);
            window.iter().map(|batch| batch.rows.iter().map(|row| row.len() + 1).collect()).collect::<Vec<Vec<_>>>()
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
                .map(|batch| batch.rows.len())
                .sum();
            prop_assert_eq!(rows, count);
        }
    }
}
