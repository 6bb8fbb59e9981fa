//! Which examples are learned from, and which are held out.

use palinode_engine::{context::Context, stage::StageError};
use palinode_models::{rng, train::Example};

/// Cuts examples to the model's context, and says how many were cut. One that has nothing left to learn from is left
/// out, and counted too. `of` is put before the names of what is counted: `validation_`, or nothing.
pub(crate) fn fit(ctx: &Context<'_>, mut examples: Vec<Example>, context: usize, of: &str) -> Vec<Example> {
    // The last token is predicted and never read, so one more than the context fits.
    let longest = context + 1;
    let cut = examples.iter().filter(|example| example.ids.len() > longest).count();
    examples.iter_mut().for_each(|example| example.ids.truncate(longest));
    let before = examples.len();
    examples.retain(|example| example.ids.len() > example.loss_from.max(1));
    let left_out = before - examples.len();
    ctx.summary(&format!("{of}examples_cut"), cut);
    ctx.summary(&format!("{of}examples_left_out"), left_out);
    if cut > 0 {
        ctx.warn(format!("{cut} of {before} examples are longer than the model's context of {context} and were cut"));
    }
    if left_out > 0 {
        ctx.warn(format!("{left_out} of {before} examples have no token to learn from and were left out"));
    }
    examples
}

/// What is learned from, and what is evaluated on.
pub(crate) struct Examples<S> {
    pub(crate) train: Vec<S>,
    pub(crate) validation: Vec<S>,
}

/// First word of the numbers by which examples are held out.
const HELD_OUT: u64 = 0x6865_6c64;

impl<S> Examples<S> {
    /// All are learned from.
    pub(crate) fn all(train: Vec<S>) -> Self {
        Examples { train, validation: Vec::new() }
    }

    /// Holds out a share of the examples, rounded, at least one. Which, depends on their number alone, not on a seed: runs
    /// that differ in it are evaluated on the same.
    pub(crate) fn held_out(examples: Vec<S>, share: f64) -> Result<Self, StageError> {
        let count = examples.len();
        let held = ((share * count as f64).round() as usize).max(1);
        if held >= count {
            return Err(StageError::failed(format!(
                "{held} of {count} examples are to be held out (`evaluate.share` is {share}): none is left to learn from"
            )));
        }
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&at| rng::fold(HELD_OUT, &[at as u64]));
        let mut is_held = vec![false; count];
        order[..held].iter().for_each(|&at| is_held[at] = true);
        let mut parts = Examples::all(Vec::with_capacity(count - held));
        for (example, held) in examples.into_iter().zip(is_held) {
            if held { parts.validation.push(example) } else { parts.train.push(example) }
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_held_out_and_always_the_same() {
        let parts = |share| Examples::held_out((0..40).collect::<Vec<u32>>(), share);
        let quarter = parts(0.25).unwrap();
        assert_eq!((quarter.train.len(), quarter.validation.len()), (30, 10));
        assert_eq!(quarter.validation, parts(0.25).unwrap().validation);
        let mut all = [quarter.train.clone(), quarter.validation.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
        // A larger share holds out what a smaller does, and more.
        let half = parts(0.5).unwrap();
        assert!(quarter.validation.iter().all(|example| half.validation.contains(example)));
        assert!(quarter.train.windows(2).all(|pair| pair[0] < pair[1]), "in order");
        assert_eq!(parts(0.0001).unwrap().validation.len(), 1);
        let message = parts(0.99).err().unwrap().to_string();
        assert_eq!(
            message,
            "40 of 40 examples are to be held out (`evaluate.share` is 0.99): none is left to learn from"
        );
    }
}
