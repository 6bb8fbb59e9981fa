//! Learning-rate schedules, the same numbers as `transformers.optimization` gives.

use serde::{Deserialize, Serialize};

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Straight line to 0 at the end (`get_linear_schedule_with_warmup`).
    #[default]
    Linear,
    /// Half a cosine to 0 at the end (`get_cosine_schedule_with_warmup`).
    Cosine,
    /// No decay (`get_constant_schedule_with_warmup`).
    Constant,
}

/// A learning rate as a function of the optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Highest rate, reached at the end of warm-up.
    pub peak: f64,
    /// Optimizer steps of linear warm-up; the first of them has rate 0.
    pub warmup: usize,
    /// Optimizer steps in all.
    pub total: usize,
    /// What follows the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// The rate of optimizer step `step`, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: usize) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1) as f64;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => self.total.saturating_sub(step) as f64 / length,
            Decay::Cosine => {
                let progress = (step - self.warmup) as f64 / length;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(decay: Decay, warmup: usize, total: usize) -> Vec<f64> {
        let schedule = Schedule { peak: 1.0, warmup, total, decay };
        (0..=total).map(|step| (schedule.rate(step) * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn linear_matches_transformers() {
        assert_eq!(rates(Decay::Linear, 2, 10), [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]);
        assert_eq!(rates(Decay::Linear, 0, 4), [1.0, 0.75, 0.5, 0.25, 0.0]);
    }

    #[test]
    fn cosine_and_constant_match_transformers() {
        assert_eq!(rates(Decay::Cosine, 2, 6), [0.0, 0.5, 1.0, 0.853553, 0.5, 0.146447, 0.0]);
        assert_eq!(rates(Decay::Constant, 2, 4), [0.0, 0.5, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn warmup_longer_than_training_never_peaks() {
        assert_eq!(rates(Decay::Linear, 4, 2), [0.0, 0.25, 0.5]);
    }
}
