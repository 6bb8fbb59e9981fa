//! Evaluation on held-out examples, and what follows from it: early stopping, the best weights.

use super::{Evaluation, LossPass, Precision, Sample, TrainError, Trainable};

/// Evaluation while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evaluate {
    /// After every so many optimizer steps, and after the last.
    pub every: usize,
    /// Stop when so many evaluations in a row were no better than the best before them.
    pub patience: Option<usize>,
    /// Which weights are the result.
    pub keep: Keep,
}

/// Which weights are the result of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Those after the last step.
    #[default]
    Last,
    /// Those with the lowest loss in an evaluation; of equals, the first.
    Best,
}

/// Mean loss in nats of a model on examples, each target weighing the same; `batch` examples go through it at once.
///
/// # Errors
/// If there are none, one has no target or doesn't fit the model, or `batch` is 0.
pub fn evaluate<M: Trainable>(model: &M, examples: &[M::Sample], batch: usize) -> Result<f64, TrainError> {
    evaluate_in(model, examples, batch, Precision::F32)
}

pub(super) fn evaluate_in<M: Trainable>(
    model: &M,
    examples: &[M::Sample],
    batch: usize,
    precision: Precision,
) -> Result<f64, TrainError> {
    check_examples(examples)?;
    if batch == 0 {
        return Err(TrainError::Value { field: "micro_batch", value: 0.0, expected: "at least 1" });
    }
    let rows: Vec<&M::Sample> = examples.iter().collect();
    let pass = LossPass { precision, ..LossPass::plain() };
    let mut loss = 0.0;
    for rows in rows.chunks(batch) {
        loss += f64::from(model.loss(rows, &pass)?.into_scalar::<f32>());
    }
    Ok(loss / targets(&rows) as f64)
}

/// How many evaluations at the end of `all` were no better than the best before them; and the best.
pub(super) fn standing(all: &[Evaluation]) -> (usize, Option<Evaluation>) {
    let mut best: Option<(usize, Evaluation)> = None;
    for (at, one) in all.iter().enumerate() {
        if best.is_none_or(|(_, best)| one.loss < best.loss) {
            best = Some((at, *one));
        }
    }
    match best {
        Some((at, best)) => (all.len() - 1 - at, Some(best)),
        None => (0, None),
    }
}

pub(super) fn check_examples<S: Sample>(examples: &[S]) -> Result<(), TrainError> {
    if examples.is_empty() {
        return Err(TrainError::NoExamples);
    }
    match examples.iter().position(|example| example.targets() == 0) {
        Some(example) => Err(TrainError::NoTargets { example, tokens: examples[example].tokens() }),
        None => Ok(()),
    }
}

pub(super) fn targets<S: Sample>(rows: &[&S]) -> usize {
    rows.iter().map(|row| row.targets()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_first_of_equals() {
        let stand = |losses: &[f64]| {
            let all: Vec<_> = losses.iter().enumerate().map(|(steps, &loss)| Evaluation { steps, loss }).collect();
            let (since, best) = standing(&all);
            (since, best.map(|best| best.steps))
        };
        assert_eq!(stand(&[]), (0, None));
        assert_eq!(stand(&[3.0]), (0, Some(0)));
        assert_eq!(stand(&[3.0, 2.0, 2.0, 2.5]), (2, Some(1)));
        assert_eq!(stand(&[3.0, 4.0, 1.0]), (0, Some(2)));
    }
}
