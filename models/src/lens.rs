//! The logit lens (nostalgebraist 2020): what the model would say if it stopped after some block; with the statistics
//! of the tuned lens's trajectories (Belrose et al., arXiv 2303.08112) by it.

use rayon::prelude::*;

use crate::divergence::{Divergence, divergence, normaliser};
use crate::error::{ModelError, Result};
use crate::layers::Batch;
use crate::model::{Model, Task, values};

/// What the lens shows at one layer and position.
#[derive(Debug, Clone, PartialEq)]
pub struct LensPoint {
    /// The most probable next token, the lowest id among equals.
    pub top1: u32,
    /// Entropy of the distribution, in nats.
    pub entropy: f64,
    /// Probability of the most probable token.
    pub max_probability: f64,
    /// The most probable tokens with their probabilities, as many as were asked for; the lower id first among equals.
    pub top: Vec<(u32, f64)>,
    /// Place here, from 1, of the token that the model says in the end.
    pub final_rank: usize,
    /// From what the model says in the end (`p`) to what it says here (`q`): `kl` is the tuned lens's `forward_kl`.
    pub from_final: Divergence,
}

/// `layers + 1` depths, each with one point per token of the batch (row after row; padding included).
#[derive(Debug, Clone, PartialEq)]
pub struct LogitLens {
    /// By depth: before each block, and behind the last.
    pub depths: Vec<Vec<LensPoint>>,
}

/// Rows unembedded at a time: two blocks `[rows, vocab]` are held, whatever the number of layers and positions.
const ROWS: usize = 64;

impl LogitLens {
    /// Runs a batch and looks at each depth of its residual stream; each point with its `top` most probable tokens.
    pub fn read<T: Task>(model: &Model<T>, batch: &Batch, top: usize) -> Result<Self> {
        let hidden = model.hidden(batch)?;
        let vocab = model.config().vocab_size;
        let last = hidden.last().ok_or(ModelError::EmptyBatch)?;
        let [rows, _] = last.dims();
        let mut depths = vec![Vec::with_capacity(rows); hidden.len()];
        for start in (0..rows).step_by(ROWS) {
            let part = |depth: usize| hidden[depth].clone().narrow(0, start, ROWS.min(rows - start));
            let said = values(model.token_head(part(hidden.len() - 1)));
            for (depth, points) in depths.iter_mut().enumerate() {
                let here = if depth + 1 == hidden.len() { None } else { Some(values(model.token_head(part(depth)))) };
                let here = here.as_deref().unwrap_or(&said);
                let rows: Result<Vec<LensPoint>> = here
                    .par_chunks(vocab)
                    .zip(said.par_chunks(vocab))
                    .map(|(here, said)| point(here, said, top))
                    .collect();
                points.extend(rows?);
            }
        }
        Ok(LogitLens { depths })
    }
}

/// Of one row of logits `[vocab]`, beside the row of the last layer; sums in f64, in order of ids.
///
/// # Errors
/// If either holds what is no number.
pub fn point(logits: &[f32], last: &[f32], top: usize) -> Result<LensPoint> {
    let (most, log_total) = normaliser(logits)?;
    let mut weighted = 0.0;
    for &logit in logits {
        let log = f64::from(logit) - most - log_total;
        let probability = libm::exp(log);
        weighted += if probability > 0.0 { probability * log } else { 0.0 };
    }
    let before = |a: u32, b: u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let top = top.clamp(1, logits.len());
    if top < ids.len() {
        ids.select_nth_unstable_by(top - 1, |&a, &b| before(a, b));
        ids.truncate(top);
    }
    ids.sort_unstable_by(|&a, &b| before(a, b));
    let probability = |id: u32| libm::exp(f64::from(logits[id as usize]) - most - log_total);
    let said = crate::sampling::argmax(last.iter().copied()).unwrap_or(0);
    let ahead = (0..logits.len() as u32).filter(|&id| before(id, said).is_lt()).count();
    Ok(LensPoint {
        top1: ids[0],
        entropy: (-weighted).max(0.0),
        max_probability: probability(ids[0]),
        top: ids.iter().map(|&id| (id, probability(id))).collect(),
        final_rank: ahead + 1,
        from_final: divergence(last, logits)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distributions() {
        let uniform = point(&[3.0; 8], &[3.0; 8], 3).unwrap();
        assert_eq!((uniform.top1, uniform.final_rank), (0, 1));
        assert!((uniform.entropy - 8f64.ln()).abs() < 1e-12 && (uniform.max_probability - 0.125).abs() < 1e-12);
        assert_eq!(uniform.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1, 2]);
        let sure = point(&[0.0, 1e4, f32::NEG_INFINITY], &[2.0, 1.0, 0.0], 9).unwrap();
        assert_eq!((sure.top1, sure.entropy, sure.max_probability), (1, 0.0, 1.0));
        assert_eq!((sure.top.len(), sure.final_rank), (3, 2), "what it says in the end is second here");
        assert!(point(&[f32::NAN, 0.0], &[0.0, 0.0], 1).is_err());
    }
}
