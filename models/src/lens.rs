//! The logit lens (nostalgebraist 2020): what the model would say if it stopped after some block.

use crate::error::Result;
use crate::layers::Batch;
use crate::model::{CausalLm, values};

/// What the lens shows at one layer and position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LensPoint {
    /// The most probable next token, the lowest id among equals.
    pub top1: u32,
    /// Entropy of the distribution, in nats.
    pub entropy: f64,
    /// Probability of the most probable token.
    pub max_probability: f64,
}

/// `layers + 1` depths, each with one point per token of the batch (row after row; padding included).
#[derive(Debug, Clone, PartialEq)]
pub struct LogitLens {
    /// By depth: before each block, and behind the last.
    pub depths: Vec<Vec<LensPoint>>,
}

/// Rows unembedded at a time: all logits of a long text would not fit.
const ROWS: usize = 256;

impl LogitLens {
    /// Runs a batch and looks at each depth of its residual stream.
    pub fn read(model: &CausalLm, batch: &Batch) -> Result<Self> {
        let depths = model.hidden(batch)?.into_iter().map(|hidden| {
            let [rows, _] = hidden.dims();
            let chunks = (0..rows).step_by(ROWS).flat_map(|start| {
                let logits = model.unembed(hidden.clone().narrow(0, start, ROWS.min(rows - start)));
                values(logits).chunks(model.config().vocab_size).map(point).collect::<Vec<_>>()
            });
            chunks.collect()
        });
        Ok(LogitLens { depths: depths.collect() })
    }
}

/// Top-1, entropy and largest probability of one row of logits; sums in f64, in order of ids.
pub fn point(logits: &[f32]) -> LensPoint {
    let mut top1 = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[top1] {
            top1 = id;
        }
    }
    let most = f64::from(logits[top1]);
    let (mut total, mut weighted) = (0.0, 0.0);
    for &logit in logits {
        let shifted = f64::from(logit) - most;
        let weight = libm::exp(shifted);
        total += weight;
        weighted += if weight > 0.0 { weight * shifted } else { 0.0 };
    }
    LensPoint { top1: top1 as u32, entropy: libm::log(total) - weighted / total, max_probability: 1.0 / total }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distributions() {
        let uniform = point(&[3.0; 8]);
        assert_eq!(uniform.top1, 0);
        assert!((uniform.entropy - 8f64.ln()).abs() < 1e-12 && (uniform.max_probability - 0.125).abs() < 1e-12);
        let sure = point(&[0.0, 1e4, f32::NEG_INFINITY]);
        assert_eq!((sure.top1, sure.entropy, sure.max_probability), (1, 0.0, 1.0));
    }
}
