//! Choosing the next token from logits. Each choice is keyed by seed, prompt, sample and place in the text, so it
//! does not depend on what else is in the batch.

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

    /// A token for logits `[vocab]`; `so_far` is prompt and continuation. `None` if the logits hold a NaN.
    pub fn choose(&self, logits: &[f32], so_far: &[u32], key: SampleKey) -> Option<u32> {
        if logits.is_empty() || logits.iter().any(|logit| logit.is_nan()) {
            return None;
        }
        let mut scores: Vec<f64>;
        match self.repetition_penalty {
            None if self.temperature <= 0.0 => return argmax(logits.iter().copied()),
            None => scores = logits.iter().copied().map(f64::from).collect(),
            Some(penalty) => {
                scores = logits.iter().copied().map(f64::from).collect();
                penalize(&mut scores, so_far, penalty);
            }
        }
        if self.temperature <= 0.0 {
            return argmax(scores);
        }
        scores.iter_mut().for_each(|score| *score /= self.temperature);
        let candidates = self.candidates(&scores);
        Some(draw(&candidates, Stream::new(key.seed, &[TOKEN, key.prompt, key.sample, key.token]).uniform_f64()))
    }

    /// What is left to draw from: ids with weights, the most probable first, the lower id first among equals.
    fn candidates(&self, scores: &[f64]) -> Vec<(u32, f64)> {
        let mut order: Vec<(u32, f64)> = (0..).zip(scores.iter().copied()).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if let Some(last) = self.top_k.and_then(|k| order.get(k.max(1) - 1)).map(|&(_, score)| score) {
            order.retain(|&(_, score)| score >= last);
        }
        let most = order[0].1;
        order.iter_mut().for_each(|(_, score)| *score = libm::exp(*score - most));
        if let Some(top_p) = self.top_p.filter(|&top_p| top_p < 1.0) {
            let total: f64 = order.iter().map(|&(_, weight)| weight).sum();
            let (mut tail, mut kept) = (0.0, order.len());
            while kept > 1 && (tail + order[kept - 1].1) / total <= 1.0 - top_p {
                tail += order[kept - 1].1;
                kept -= 1;
            }
            order.truncate(kept);
        }
        if let Some(min_p) = self.min_p {
            let mut place = 0;
            order.retain(|&(_, weight)| {
                place += 1;
                place == 1 || weight >= min_p
            });
        }
        order
    }
}

fn penalize(scores: &mut [f64], so_far: &[u32], penalty: f64) {
    let mut seen: Vec<u32> = so_far.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
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

/// Inverts the cumulative distribution at `uniform`.
fn draw(candidates: &[(u32, f64)], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
    let mut left = uniform * total;
    for &(id, weight) in candidates {
        if left < weight {
            return id;
        }
        left -= weight;
    }
    candidates[candidates.len() - 1].0
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SampleKey = SampleKey { seed: 1, prompt: 2, sample: 3, token: 4 };

    fn ids(sampling: Sampling, logits: &[f64]) -> Vec<u32> {
        sampling.candidates(logits).iter().map(|&(id, _)| id).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals_and_refuses_nan() {
        let greedy = Sampling::greedy();
        assert_eq!(greedy.choose(&[0.0, 2.0, 2.0], &[], KEY), Some(1));
        assert_eq!(greedy.choose(&[0.0, f32::NAN], &[], KEY), None);
        let penalized = Sampling { repetition_penalty: Some(2.0), ..greedy };
        assert_eq!(penalized.choose(&[1.0, 1.5, 0.0], &[1, 1], KEY), Some(0));
    }

    #[test]
    fn filters_keep_what_transformers_keeps() {
        let warm = Sampling { temperature: 1.0, ..Sampling::greedy() };
        let logits = [0.5f64, 0.25, 0.125, 0.125].map(f64::ln);
        assert_eq!(ids(warm, &logits), [0, 1, 2, 3]);
        assert_eq!(ids(Sampling { top_k: Some(3), ..warm }, &logits), [0, 1, 2, 3], "ties with the third stay");
        assert_eq!(ids(Sampling { top_k: Some(1), ..warm }, &logits), [0]);
        assert_eq!(ids(Sampling { top_p: Some(0.6), ..warm }, &logits), [0, 1]);
        assert_eq!(ids(Sampling { top_p: Some(0.1), ..warm }, &logits), [0]);
        assert_eq!(ids(Sampling { min_p: Some(0.4), ..warm }, &logits), [0, 1]);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_key() {
        let warm = Sampling { temperature: 1.0, ..Sampling::greedy() };
        let logits = [0.7f32.ln(), 0.3f32.ln()];
        let draws = |seed| -> Vec<u32> {
            (0..4000).map(|token| warm.choose(&logits, &[], SampleKey { seed, token, ..KEY }).unwrap()).collect()
        };
        let share = draws(1).iter().filter(|&&id| id == 0).count() as f64 / 4000.0;
        assert!((share - 0.7).abs() < 0.03, "{share}");
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }
}
