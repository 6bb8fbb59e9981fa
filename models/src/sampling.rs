//! Choosing the next token from logits. Each choice is keyed by seed, prompt, sample and place in the text, so it
//! does not depend on what else is in the batch.

use crate::error::{ModelError, Result};
use crate::rng::Stream;

/// How to choose. The steps are applied in the order of transformers: repetition penalty, temperature, top-k,
/// top-p, min-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 for greedy: the most probable token, the lowest id among equals.
    pub temperature: f64,
    /// Keeps the k most probable tokens, and those as probable as the k-th.
    pub top_k: Option<usize>,
    /// Keeps the most probable tokens that reach this probability together.
    pub top_p: Option<f64>,
    /// Drops tokens less probable than this part of the most probable one.
    pub min_p: Option<f64>,
    /// Makes tokens of the text so far less likely, if above 1.
    pub repetition_penalty: Option<f64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling::greedy()
    }
}

/// Names one choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleKey {
    /// Seed of the run.
    pub seed: u64,
    /// Which prompt.
    pub prompt: u64,
    /// Which of its samples.
    pub sample: u64,
    /// Which token of the continuation.
    pub token: u64,
}

/// First word of the streams that tokens are drawn from.
const TOKEN: u64 = 0x746f_6b65;

impl Sampling {
    /// The most probable token, always.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: None }
    }

    /// Whether tokens are drawn, and not just the most probable one taken.
    pub fn draws(&self) -> bool {
        self.temperature > 0.0
    }

    /// Refuses values that mean nothing.
    pub fn check(&self) -> Result<()> {
        let invalid = |what, value: f64, expected| {
            Err(ModelError::Generation(format!("the {what} is {value}, expected {expected}")))
        };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return invalid("temperature", self.temperature, "0 (greedy) or a positive number");
        }
        match (self.top_k, self.top_p, self.min_p, self.repetition_penalty) {
            (Some(0), ..) => invalid("top-k", 0.0, "at least 1"),
            (_, Some(p), ..) if !(p > 0.0 && p <= 1.0) => invalid("top-p", p, "a probability above 0"),
            (_, _, Some(p), _) if !(0.0..=1.0).contains(&p) => invalid("min-p", p, "a number from 0 to 1"),
            (.., Some(by)) if !(by.is_finite() && by > 0.0) => invalid("repetition penalty", by, "a positive number"),
            _ => Ok(()),
        }
    }

    /// A token for logits `[vocab]`; `so_far` is prompt and continuation.
    ///
    /// A token of logit -inf is never chosen. One of logit +inf is certain (those that are share it evenly).
    pub fn choose(&self, logits: &[f32], so_far: &[u32], key: SampleKey) -> Result<u32> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(ModelError::NotANumber);
        }
        if logits.iter().all(|&logit| logit == f32::NEG_INFINITY) {
            return Err(ModelError::NoToken);
        }
        if !self.draws() && self.repetition_penalty.is_none() {
            return argmax(logits.iter().copied()).ok_or(ModelError::NoToken);
        }
        let mut scores: Vec<f64> = logits.iter().copied().map(f64::from).collect();
        if let Some(penalty) = self.repetition_penalty {
            penalize(&mut scores, so_far, penalty);
        }
        if !self.draws() {
            return argmax(scores).ok_or(ModelError::NoToken);
        }
        let uniform = Stream::new(key.seed, &[TOKEN, key.prompt, key.sample, key.token]).uniform_f64();
        self.candidates(&scores).draw(uniform).ok_or(ModelError::NoToken)
    }

    /// What is left to draw from.
    fn candidates(&self, scores: &[f64]) -> Candidates {
        let mut all: Vec<(u32, f64)> = (0..).zip(scores.iter().copied()).collect();
        if let Some(k) = self.top_k.filter(|&k| k < scores.len()) {
            let mut ranked = scores.to_vec();
            let (_, &mut last, _) = ranked.select_nth_unstable_by(k.max(1) - 1, |a, b| b.total_cmp(a));
            all.retain(|&(_, score)| score >= last);
        }
        let most = all.iter().map(|&(_, score)| score).fold(f64::NEG_INFINITY, f64::max);
        all.iter_mut().for_each(|(_, score)| *score = relative(*score, most, self.temperature));
        let total: f64 = all.iter().map(|&(_, weight)| weight).sum();
        let mut candidates = Candidates { all, ranked: 0, total };
        let (top_p, min_p) = (self.top_p.filter(|&top_p| top_p < 1.0), self.min_p.filter(|&min_p| min_p > 0.0));
        if top_p.is_some() || min_p.is_some() {
            let (mut rank, mut before) = (0, 0.0);
            while let Some((_, weight)) = candidates.get(rank) {
                let beyond_p = top_p.is_some_and(|top_p| (total - before) / total <= 1.0 - top_p);
                if rank > 0 && (beyond_p || min_p.is_some_and(|min_p| weight < min_p)) {
                    break;
                }
                before += weight;
                rank += 1;
            }
            candidates.all.truncate(rank);
            candidates.total = before;
        }
        candidates
    }
}

/// Ids with weights; the most probable first, the lower id first among equals. Put in order only as far as somebody
/// asks: a draw seldom looks beyond the first few of a large vocabulary.
#[derive(Debug)]
struct Candidates {
    all: Vec<(u32, f64)>,
    /// How many of the first are in order.
    ranked: usize,
    total: f64,
}

impl Candidates {
    fn get(&mut self, rank: usize) -> Option<(u32, f64)> {
        const FIRST: usize = 64;
        while rank >= self.ranked && self.ranked < self.all.len() {
            let rest = &mut self.all[self.ranked..];
            let next = self.ranked.max(FIRST).min(rest.len());
            let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
            if next < rest.len() {
                rest.select_nth_unstable_by(next - 1, order);
            }
            rest[..next].sort_unstable_by(order);
            self.ranked += next;
        }
        self.all.get(rank).copied()
    }

    /// Inverts the cumulative distribution at `uniform`, which is in `[0, 1)`.
    fn draw(mut self, uniform: f64) -> Option<u32> {
        let mut left = uniform * self.total;
        let mut last = None;
        for rank in 0.. {
            let Some((id, weight)) = self.get(rank).filter(|&(_, weight)| weight > 0.0) else { break };
            if left < weight {
                return Some(id);
            }
            left -= weight;
            last = Some(id);
        }
        // Sums round: the end of the last one may lie a little before 1.
        last
    }
}

/// The probability of a score, in parts of that of the highest. Only differences are divided, which no temperature
/// makes overflow.
fn relative(score: f64, most: f64, temperature: f64) -> f64 {
    if score == most { 1.0 } else { libm::exp((score - most) / temperature) }
}

/// Divides the positive scores of tokens that came up, and multiplies the negative ones (transformers'
/// `RepetitionPenaltyLogitsProcessor`; Keskar et al. 2019, arXiv 1909.05858).
pub(crate) fn penalize(scores: &mut [f64], so_far: &[u32], penalty: f64) {
    let mut seen: Vec<u32> = so_far.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// `log_softmax` of logits `[vocab]` in nats; sums in f64, in order of ids.
pub fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let (most, log_total) = normaliser(logits);
    logits.iter().map(|&logit| log_relative(logit, most) - log_total).collect()
}

/// One of [`log_probabilities`].
pub fn log_probability(logits: &[f32], id: u32) -> f64 {
    let (most, log_total) = normaliser(logits);
    logits.get(id as usize).map_or(f64::NEG_INFINITY, |&logit| log_relative(logit, most) - log_total)
}

fn normaliser(logits: &[f32]) -> (f64, f64) {
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, &logit| most.max(f64::from(logit)));
    (most, libm::log(logits.iter().map(|&logit| relative(f64::from(logit), most, 1.0)).sum()))
}

fn log_relative(logit: f32, most: f64) -> f64 {
    if f64::from(logit) == most { 0.0 } else { f64::from(logit) - most }
}

/// The index of the largest value, the lowest among equals.
pub fn argmax<T: PartialOrd>(values: impl IntoIterator<Item = T>) -> Option<u32> {
    let mut best: Option<(u32, T)> = None;
    for (at, value) in (0..).zip(values) {
        if best.as_ref().is_none_or(|(_, most)| value > *most) {
            best = Some((at, value));
        }
    }
    best.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SampleKey = SampleKey { seed: 1, prompt: 2, sample: 3, token: 4 };
    const WARM: Sampling =
        Sampling { temperature: 1.0, top_k: None, top_p: None, min_p: None, repetition_penalty: None };

    fn ids(sampling: Sampling, logits: &[f64]) -> Vec<u32> {
        let mut candidates = sampling.candidates(logits);
        (0..).map_while(|rank| candidates.get(rank)).map(|(id, _)| id).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        let greedy = Sampling::greedy();
        assert_eq!(greedy.choose(&[0.0, 2.0, 2.0], &[], KEY).unwrap(), 1);
        let penalized = Sampling { repetition_penalty: Some(2.0), ..greedy };
        assert_eq!(penalized.choose(&[1.0, 1.5, 0.0], &[1, 1], KEY).unwrap(), 0);
        assert_eq!(penalized.choose(&[-1.0, -1.5], &[0, 9], KEY).unwrap(), 1, "negative scores are multiplied");
    }

    #[test]
    fn logits_that_are_no_numbers() {
        const LEAST: f32 = f32::NEG_INFINITY;
        let warm = Sampling { temperature: 0.7, top_k: Some(3), top_p: Some(0.9), min_p: Some(0.1), ..WARM };
        for sampling in [Sampling::greedy(), WARM, warm] {
            let choose = |logits: &[f32]| sampling.choose(logits, &[], KEY);
            assert!(matches!(choose(&[0.0, f32::NAN]), Err(ModelError::NotANumber)));
            assert!(matches!(choose(&[LEAST, LEAST]), Err(ModelError::NoToken)));
            assert!(matches!(choose(&[]), Err(ModelError::NoToken)));
            assert_eq!(choose(&[LEAST, -3.0, LEAST]).unwrap(), 1);
            assert_eq!(choose(&[0.0, f32::INFINITY, 9.0]).unwrap(), 1);
        }
        assert_eq!(log_probability(&[LEAST, 1.0], 0), f64::from(LEAST));
        assert_eq!(log_probability(&[LEAST, 1.0], 1), 0.0);
    }

    #[test]
    fn filters_keep_what_transformers_keeps() {
        let logits = [0.5f64, 0.25, 0.125, 0.125].map(f64::ln);
        assert_eq!(ids(WARM, &logits), [0, 1, 2, 3]);
        assert_eq!(ids(Sampling { top_k: Some(3), ..WARM }, &logits), [0, 1, 2, 3], "ties with the third stay");
        assert_eq!(ids(Sampling { top_k: Some(1), ..WARM }, &logits), [0]);
        assert_eq!(ids(Sampling { top_p: Some(0.6), ..WARM }, &logits), [0, 1]);
        assert_eq!(ids(Sampling { top_p: Some(0.1), ..WARM }, &logits), [0]);
        assert_eq!(ids(Sampling { top_p: Some(0.75), ..WARM }, &logits), [0, 1], "just reached");
        assert_eq!(ids(Sampling { min_p: Some(0.4), ..WARM }, &logits), [0, 1]);
        assert_eq!(ids(Sampling { min_p: Some(0.5), ..WARM }, &logits), [0, 1], "as probable as the bound stays");
        assert_eq!(ids(Sampling { min_p: Some(1.0), ..WARM }, &[0.0; 3]), [0, 1, 2], "equals of the best stay");
        assert_eq!(ids(Sampling { min_p: Some(1.0), ..WARM }, &logits), [0]);
        // Top-p counts in what top-k left over: 0.5 of 0.75 is two thirds.
        assert_eq!(ids(Sampling { top_k: Some(2), top_p: Some(0.65), ..WARM }, &logits), [0]);
        // Temperature comes first: at 2 the first has 0.38.
        assert_eq!(ids(Sampling { temperature: 2.0, top_p: Some(0.45), ..WARM }, &logits), [0, 1]);
    }

    proptest::proptest! {
        /// Against a plain form that sorts everything, as transformers' processors do one after another.
        #[test]
        fn cuts_are_those_of_the_plain_form(
            logits in proptest::collection::vec(-8i8..8, 1..300),
            top_k in proptest::option::of(1usize..40),
            top_p in proptest::option::of(0.01f64..1.0),
            min_p in proptest::option::of(0.0f64..1.0),
            temperature in 0.2f64..3.0,
        ) {
            let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty: None };
            let scores: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) / 3.0).collect();
            let mut plain: Vec<(u32, f64)> = (0..).zip(scores.iter().map(|score| score / temperature)).collect();
            plain.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            if let Some(k) = top_k.filter(|&k| k < plain.len()) {
                let last = plain[k - 1].1;
                plain.retain(|one| one.1 >= last);
            }
            let total: f64 = plain.iter().map(|one| one.1.exp()).sum();
            if let Some(p) = top_p {
                let tail = |at: usize| plain[at..].iter().map(|one| one.1.exp()).sum::<f64>() / total;
                // Sums in another order: a bound within rounding decides either way.
                proptest::prop_assume!((0..plain.len()).all(|at| (tail(at) - (1.0 - p)).abs() > 1e-12));
                let kept = (1..plain.len()).find(|&at| tail(at) <= 1.0 - p).unwrap_or(plain.len());
                plain.truncate(kept);
            }
            if let Some(p) = min_p {
                let best = plain[0].1;
                proptest::prop_assume!(plain.iter().all(|one| ((one.1 - best).exp() - p).abs() > 1e-12));
                plain.retain(|one| (one.1 - best).exp() >= p);
            }
            let plain: Vec<u32> = plain.into_iter().map(|(id, _)| id).collect();
            proptest::prop_assert_eq!(ids(sampling, &scores), plain.clone());
            let logits: Vec<f32> = scores.iter().map(|&score| score as f32).collect();
            for token in 0..20 {
                let drawn = sampling.choose(&logits, &[], SampleKey { token, ..KEY }).unwrap();
                proptest::prop_assert!(plain.contains(&drawn));
            }
        }

        /// A draw is a function of its key and the logits; each word of the key matters.
        #[test]
        fn draws_are_keyed(words in proptest::array::uniform4(0u64..u64::MAX), other in 0usize..4) {
            let [seed, prompt, sample, token] = words;
            let key = SampleKey { seed, prompt, sample, token };
            let uniform = |key: SampleKey| {
                Stream::new(key.seed, &[TOKEN, key.prompt, key.sample, key.token]).uniform_f64()
            };
            let mut words = words;
            words[other] ^= 1;
            let [seed, prompt, sample, token] = words;
            proptest::prop_assert_eq!(uniform(key), uniform(key));
            let changed = SampleKey { seed, prompt, sample, token };
            proptest::prop_assert_ne!(uniform(key), uniform(changed));
            let logits = [0.1f32, 0.2, 0.3, 0.4];
            proptest::prop_assert_eq!(WARM.choose(&logits, &[], key).unwrap(), WARM.choose(&logits, &[7], key).unwrap());
        }
    }

    #[test]
    fn draws_follow_the_distribution_and_the_key() {
        let logits = [0.7f32.ln(), 0.3f32.ln()];
        let draws = |seed| -> Vec<u32> {
            (0..4000).map(|token| WARM.choose(&logits, &[], SampleKey { seed, token, ..KEY }).unwrap()).collect()
        };
        let share = draws(1).iter().filter(|&&id| id == 0).count() as f64 / 4000.0;
        assert!((share - 0.7).abs() < 0.03, "{share}");
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }
}
