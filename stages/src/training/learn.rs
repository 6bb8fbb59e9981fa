//! A training run as a stage: progress, checkpoints, the curve, what is told.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use palinode_engine::{
    context::{Checkpoints, Context},
    stage::StageError,
};
use palinode_models::train::{
    Data, Evaluation, Next, Observer, StepReport, TrainConfig, TrainError, TrainReport, TrainState, Trainable,
    train_from,
};

use super::{Examples, Watch, tensorboard};
use crate::{
    records::{CurvePoint, METRICS},
    runtime::failed,
};

/// A run of fewer optimizer steps says little of what finetuning can do.
const FEW_STEPS: usize = 20;

/// The file of a checkpoint.
const STATE: &str = "training.safetensors";

/// Trains `model`, says how it went, and writes the output `curve`. A run that was broken off goes on from its
/// checkpoint.
pub(crate) fn learn<M: Trainable>(
    ctx: &Context<'_>,
    model: M,
    examples: &Examples<M::Sample>,
    config: &TrainConfig,
    watch: &Watch,
) -> Result<(M, TrainReport), StageError> {
    let data = Data { train: &examples.train, validation: &examples.validation };
    let checkpoints = ctx.checkpoints();
    let mut keeper = Keeper { ctx, checkpoints, every: watch.checkpoints_every, saved: Instant::now() };
    let trained = match keeper.latest()? {
        None => train_from(model, data, config, None, &mut keeper),
        Some(state) => {
            ctx.note(format!("goes on after step {}, where it was broken off", state.steps()));
            match train_from(model.clone(), data, config, Some(state), &mut keeper) {
                Err(error @ TrainError::Foreign) => {
                    ctx.warn(format!("{error}; it begins anew"));
                    train_from(model, data, config, None, &mut keeper)
                }
                trained => trained,
            }
        }
    };
    let (model, report) = trained.map_err(failed)?;
    tell(ctx, &report, examples);
    let curve = curve(&report);
    let output = ctx.output("curve")?;
    if watch.tensorboard {
        output.write(tensorboard::FILE, tensorboard::events(&curve))?;
    }
    output.write_jsonl(METRICS, curve)?;
    Ok((model, report))
}

/// Reports progress, and keeps checkpoints.
struct Keeper<'a> {
    ctx: &'a Context<'a>,
    checkpoints: Option<Checkpoints>,
    every: Duration,
    saved: Instant,
}

impl Keeper<'_> {
    /// What was kept; one that can't be read is as good as none.
    fn latest(&self) -> Result<Option<TrainState>, StageError> {
        let Some(checkpoints) = &self.checkpoints else { return Ok(None) };
        let Some(folder) = checkpoints.latest()? else { return Ok(None) };
        match TrainState::read(&folder.join(STATE)) {
            Ok(state) => Ok(Some(state)),
            Err(error) => {
                self.ctx.warn(format!("its checkpoint can't be used ({error}); it begins anew"));
                Ok(None)
            }
        }
    }
}

impl Observer for Keeper<'_> {
    fn step(&mut self, step: &StepReport, total: usize) -> Next {
        if self.ctx.progress(step.step + 1, total, "step").is_err() {
            return Next::Stop;
        }
        match &self.checkpoints {
            None => Next::Go,
            Some(_) if self.ctx.is_ending() => Next::SaveAndStop,
            Some(_) if self.saved.elapsed() >= self.every => Next::Save,
            Some(_) => Next::Go,
        }
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        self.ctx.note(format!("after step {}: loss {:.4} on what is held out", evaluation.steps, evaluation.loss));
    }

    fn save(&mut self, state: &TrainState) -> Result<(), String> {
        let Some(checkpoints) = &self.checkpoints else { return Ok(()) };
        let write = |folder: &Path| state.write(&folder.join(STATE)).map_err(failed);
        if let Err(error) = checkpoints.save(write) {
            // The run may well come to its end without.
            self.ctx.warn(format!("no checkpoint could be kept: {error}"));
        }
        self.saved = Instant::now();
        Ok(())
    }
}

fn tell<S>(ctx: &Context<'_>, report: &TrainReport, examples: &Examples<S>) {
    let steps = report.steps.len();
    if steps < FEW_STEPS {
        ctx.warn(format!("only {steps} optimizer steps: fewer than {FEW_STEPS} say little of what training can do"));
    }
    ctx.summary("steps", steps);
    ctx.summary("effective_batch", report.effective_batch);
    ctx.summary("examples", examples.train.len());
    ctx.summary("examples_seen", report.examples);
    ctx.summary("trained_parameters", report.trained_parameters);
    ctx.summary("delta_norm", report.delta_norm);
    ctx.summary("delta_norm_relative", (report.base_norm > 0.0).then(|| report.delta_norm / report.base_norm));
    ctx.summary("first_loss", report.steps.first().map(|step| step.loss));
    ctx.summary("final_loss", report.steps.last().map(|step| step.loss));
    if let Some(last) = report.evaluations.last() {
        ctx.summary("validation_examples", examples.validation.len());
        ctx.summary("validation_loss", report.best.unwrap_or(*last).loss);
        ctx.summary("weights_of_step", report.best.unwrap_or(*last).steps);
        ctx.summary("stopped_early", report.stopped_early);
    }
}

fn curve(report: &TrainReport) -> Vec<CurvePoint> {
    let point = |step: &StepReport| CurvePoint {
        step: step.step + 1,
        loss: step.loss,
        learning_rate: step.rate,
        gradient_norm: step.gradient_norm,
        tokens: step.tokens,
        validation_loss: None,
    };
    let mut curve: Vec<CurvePoint> = report.steps.iter().map(point).collect();
    for evaluation in &report.evaluations {
        if let Some(point) = evaluation.steps.checked_sub(1).and_then(|at| curve.get_mut(at)) {
            point.validation_loss = Some(evaluation.loss);
        }
    }
    curve
}
