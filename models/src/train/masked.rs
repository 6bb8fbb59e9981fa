//! Training of masked language models (Devlin et al. 2019, section 3.1): some tokens of a text are taken out and guessed
//! from those around them. Of the chosen ones, 80% become the mask, 10% a token drawn at random, 10% stay.
//!
//! As in BERT's own `create_pretraining_data.py`, a text gives up a fixed number of tokens, so that it is known how many
//! losses it contributes; which ones is drawn anew in each pass of training, and is always the same in evaluations.

use burn::tensor::{Gradients, Tensor};

use super::tokens::{self, Targets};
use super::{LossPass, Sample, Trainable};
use crate::error::ModelError;
use crate::layers::Batch;
use crate::model::MaskedLm;
use crate::rng::Stream;

/// A text whose tokens are guessed.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskedText {
    /// Its tokens, with what stands around them.
    pub ids: Vec<u32>,
    /// Places of `ids` that may be taken out: not those of `[CLS]` and `[SEP]`.
    pub places: Vec<usize>,
    /// Tells this text's draws from those of the others: its number in the data.
    pub number: u64,
    /// How much is taken out.
    pub masking: Masking,
}

/// How much is taken out of a text, and what stands in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Masking {
    /// The share of a text's tokens, rounded; at least one token.
    pub share: f64,
    /// Id of `[MASK]`.
    pub mask: u32,
}

/// First word of the streams that choose what is taken out.
const MASKS: u64 = 0x6d61_736b;
/// In place of the number of a pass, in evaluations.
const EVALUATION: u64 = u64::MAX;

impl MaskedText {
    /// The text as the model sees it, and the places of the tokens to guess, in order. `pass` numbers the pass of a
    /// training run with this `seed`.
    fn masked(&self, seed: u64, pass: u64, vocab: usize) -> (Vec<u32>, Vec<usize>) {
        let mut stream = Stream::new(seed, &[MASKS, pass, self.number]);
        let mut below = |count: usize| ((stream.uniform_f64() * count as f64) as usize).min(count - 1);
        let mut chosen = self.places.clone();
        let count = self.targets();
        // Fisher and Yates, as far as needed.
        for at in 0..count {
            let other = at + below(chosen.len() - at);
            chosen.swap(at, other);
        }
        chosen.truncate(count);
        chosen.sort_unstable();
        let mut ids = self.ids.clone();
        for &place in &chosen {
            match below(10) {
                0..=7 => ids[place] = self.masking.mask,
                8 => ids[place] = below(vocab) as u32,
                _ => {}
            }
        }
        (ids, chosen)
    }
}

impl Sample for MaskedText {
    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn targets(&self) -> usize {
        let share = self.masking.share.clamp(0.0, 1.0) * self.places.len() as f64;
        (share.round() as usize).max(1).min(self.places.len())
    }
}

impl Trainable for MaskedLm {
    type Sample = MaskedText;

    /// Texts never share a row.
    fn loss(&self, rows: &[&MaskedText], pass: &LossPass) -> Result<Tensor<1>, ModelError> {
        let (batch, targets) = self.taken_out(rows, pass)?;
        tokens::loss(self, &batch, &targets, pass)
    }

    fn backward(
        &self,
        rows: &[&MaskedText],
        pass: &LossPass,
        gather: &mut dyn FnMut(Gradients),
    ) -> Result<f64, ModelError> {
        let (batch, targets) = self.taken_out(rows, pass)?;
        tokens::backward(self, &batch, &targets, pass, gather)
    }
}

impl MaskedLm {
    fn taken_out(&self, rows: &[&MaskedText], pass: &LossPass) -> Result<(Batch, Targets), ModelError> {
        let (seed, number) = pass.dropout.map_or((0, EVALUATION), |key| (key.seed, key.step));
        let vocab = self.config().vocab_size;
        let width = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let mut targets = Targets::default();
        let mut seen = Vec::with_capacity(rows.len());
        for (row, text) in rows.iter().enumerate() {
            if text.ids.is_empty() || text.places.iter().any(|&place| place >= text.ids.len()) {
                return Err(ModelError::EmptyBatch);
            }
            if let Some(&id) = text.ids.iter().find(|&&id| id as usize >= vocab) {
                return Err(ModelError::TokenId { id, vocab });
            }
            let (ids, chosen) = text.masked(seed, number, vocab);
            targets.ids.extend(chosen.iter().map(|&place| text.ids[place]));
            targets.places.extend(chosen.into_iter().map(|place| row * width + place));
            seen.push(ids);
        }
        let pad = self.config().pad.unwrap_or(0);
        let batch = Batch::right_padded(&seen, pad)?.with_precision(pass.precision);
        let batch = match pass.dropout {
            Some(key) => batch.with_dropout(key),
            None => batch,
        };
        Ok((batch, targets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tokens: usize, number: u64) -> MaskedText {
        let ids = (0..tokens as u32 + 2).map(|at| 10 + at % 80).collect();
        MaskedText { ids, places: (1..=tokens).collect(), number, masking: Masking { share: 0.15, mask: 4 } }
    }

    #[test]
    fn a_fixed_share_is_taken_out_most_of_it_masked() {
        assert_eq!([1, 3, 10, 20, 100].map(|tokens| text(tokens, 0).targets()), [1, 1, 2, 3, 15]);
        assert_eq!(MaskedText { places: Vec::new(), ..text(3, 0) }.targets(), 0);
        let (mut masked, mut random, mut kept) = (0, 0, 0);
        for number in 0..400 {
            let text = text(100, number);
            let (ids, chosen) = text.masked(1, 2, 100);
            assert_eq!(chosen.len(), 15);
            assert!(
                chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen.iter().all(|at| text.places.contains(at))
            );
            for (at, (seen, id)) in ids.iter().zip(&text.ids).enumerate() {
                match (chosen.contains(&at), *seen) {
                    (false, seen) => assert_eq!(seen, *id),
                    (true, 4) => masked += 1,
                    (true, seen) if seen == *id => kept += 1,
                    (true, _) => random += 1,
                }
            }
        }
        let share = |count: i32| f64::from(count) / 6000.0;
        assert!((share(masked) - 0.8).abs() < 0.02, "{masked}");
        assert!((share(random) - 0.1).abs() < 0.015 && (share(kept) - 0.1).abs() < 0.015, "{random} {kept}");
    }

    #[test]
    fn draws_follow_seed_pass_and_text_alone() {
        let draw = |seed, pass, number| text(40, number).masked(seed, pass, 100);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)] {
            assert_ne!(draw(1, 2, 3), other);
        }
    }
}
