//! The training loop.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::evaluation::{check_examples, evaluate_in, standing, targets};
use super::optimizer::Optimizer;
use super::order::Order;
use super::select::{finish, select};
use super::state::Progress;
use super::values::{Values, learned, replaced};
use super::{
    Evaluation, Keep, Length, LossPass, Precision, Reduction, Schedule, StepReport, TrainConfig, TrainError,
    TrainReport, TrainState, Trainable, Trained,
};
use crate::layers::DropoutKey;
use crate::lora::{delta_norms, norm_of};
use crate::parameterized::Parameterized;

/// What a run learns from, and what it is evaluated on.
#[derive(Debug)]
pub struct Data<'a, S> {
    /// What it learns from.
    pub train: &'a [S],
    /// What [`TrainConfig::evaluate`] evaluates on; not looked at without it.
    pub validation: &'a [S],
}

impl<S> Clone for Data<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Data<'_, S> {}

/// What a run does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Go,
    /// It hands over its state and goes on.
    Save,
    /// It hands over its state and ends with [`TrainError::Cancelled`].
    SaveAndStop,
    /// It ends with [`TrainError::Cancelled`].
    Stop,
}

/// Hears how a run goes, and says whether it goes on.
pub trait Observer {
    /// A step of `total` is done.
    fn step(&mut self, step: &StepReport, total: usize) -> Next;

    /// An evaluation is done.
    fn evaluated(&mut self, _evaluation: &Evaluation) {}

    /// Keeps the state of the run: [`train_from`] it comes to the same bytes as if it had gone on.
    ///
    /// # Errors
    /// In words; the run ends with them.
    fn save(&mut self, _state: &TrainState) -> Result<(), String> {
        Ok(())
    }
}

/// Trains a model. `progress` is told each step and the number of all steps, and may stop the run.
///
/// # Errors
/// See [`TrainError`].
pub fn train<M: Trainable>(
    model: M,
    examples: &[M::Sample],
    config: &TrainConfig,
    progress: impl FnMut(&StepReport, usize) -> ControlFlow<()>,
) -> Result<(M, TrainReport), TrainError> {
    struct Told<F>(F);
    impl<F: FnMut(&StepReport, usize) -> ControlFlow<()>> Observer for Told<F> {
        fn step(&mut self, step: &StepReport, total: usize) -> Next {
            if (self.0)(step, total).is_break() { Next::Stop } else { Next::Go }
        }
    }
    train_from(model, Data { train: examples, validation: &[] }, config, None, &mut Told(progress))
}

/// Trains a model from a state that a run with the same model, data and config was in; from the beginning without one.
///
/// # Errors
/// See [`TrainError`].
pub fn train_from<M: Trainable>(
    model: M,
    data: Data<'_, M::Sample>,
    config: &TrainConfig,
    state: Option<TrainState>,
    observer: &mut impl Observer,
) -> Result<(M, TrainReport), TrainError> {
    config.check()?;
    check_examples(data.train)?;
    if config.evaluate.is_some() {
        check_examples(data.validation)?;
    }
    // A handle on the weights before training; only weights that change are ever copied.
    let start = model.clone();
    let mut run = Run::new(model, data, config, state)?;
    while run.progress.steps.len() < run.schedule.total && !run.is_stopped() {
        let (next, done) = run.step()?;
        run = next;
        if let Some(evaluation) = run.evaluate(done.step + 1)? {
            observer.evaluated(&evaluation);
        }
        let next = observer.step(&done, run.schedule.total);
        let last = done.step + 1 == run.schedule.total;
        if matches!(next, Next::Save | Next::SaveAndStop) && !last {
            observer.save(&run.state()).map_err(TrainError::Save)?;
        }
        if next == Next::Stop || next == Next::SaveAndStop && !last {
            return Err(TrainError::Cancelled { step: done.step });
        }
    }
    Ok(run.finish(start))
}

/// A run between two steps.
struct Run<'a, M: Trainable> {
    data: Data<'a, M::Sample>,
    config: &'a TrainConfig,
    order: Order<'a, M::Sample>,
    /// The order of examples of an epoch, and its number.
    epoch: Option<(usize, Vec<usize>)>,
    schedule: Schedule,
    model: M,
    optimizer: Optimizer,
    progress: Progress,
    best: Option<Values>,
}

impl<'a, M: Trainable> Run<'a, M> {
    fn new(
        model: M,
        data: Data<'a, M::Sample>,
        config: &'a TrainConfig,
        state: Option<TrainState>,
    ) -> Result<Self, TrainError> {
        let order = Order::new(data.train, config);
        let total = match config.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => epochs * order.steps_per_epoch(),
        };
        let schedule = Schedule { peak: config.rate, warmup: config.warmup, total, decay: config.decay };
        let model = select(model, &config.trained, config.precision)?;
        let decay = |dims| if dims > 1 || config.decay_vectors { config.weight_decay } else { 0.0 };
        let optimizer = Optimizer::new(&model, config.adamw, decay);
        let progress = Progress::default();
        let run = Run { data, config, order, epoch: None, schedule, model, optimizer, progress, best: None };
        match state {
            Some(state) => run.resumed(state),
            None => Ok(run),
        }
    }

    fn resumed(mut self, state: TrainState) -> Result<Self, TrainError> {
        let sizes = |values: &Values| values.iter().map(|(name, values)| (name.clone(), values.len())).collect();
        let learns = self.model.parameters().into_iter().filter(|parameter| parameter.trained);
        let expected: BTreeMap<String, usize> =
            learns.map(|parameter| (parameter.name, parameter.shape.iter().product())).collect();
        let mut found: Vec<BTreeMap<String, usize>> = vec![sizes(&state.weights)];
        found.extend(state.best.as_ref().map(sizes));
        let of_moments = |[first, second]: &[Vec<f32>; 2]| [first.len(), second.len()];
        let moments = state
            .moments
            .iter()
            .all(|(name, both)| expected.get(name).is_some_and(|&size| of_moments(both) == [size; 2]));
        if found.iter().any(|found| *found != expected) || !moments || state.steps() > self.schedule.total {
            return Err(TrainError::Foreign);
        }
        self.model = replaced(self.model, &state.weights);
        let device = self.model.device().without_autodiff();
        self.optimizer.restore(state.steps(), state.moments, &device);
        self.progress = state.progress;
        self.best = state.best;
        Ok(self)
    }

    /// One optimizer step.
    fn step(mut self) -> Result<(Self, StepReport), TrainError> {
        let config = self.config;
        let step = self.progress.steps.len();
        let (number, at) = (step / self.order.steps_per_epoch(), step % self.order.steps_per_epoch());
        if self.epoch.as_ref().is_none_or(|(epoch, _)| *epoch != number) {
            self.epoch = Some((number, self.order.epoch(number)));
        }
        let epoch = self.epoch.as_ref().map_or(&[][..], |(_, order)| order);
        let window = self.order.window(epoch, at);
        let tokens = window.iter().map(|rows| targets(rows)).sum();
        let mut loss = 0.0;
        for rows in &window {
            let denominator = match config.reduction {
                Reduction::Tokens => tokens,
                Reduction::MicroBatches => targets(rows) * window.len(),
            };
            let pass = LossPass {
                denominator: denominator as f64,
                dropout: Some(DropoutKey {
                    seed: config.seed,
                    step: self.progress.passes,
                    rates: config.model_dropout,
                }),
                precision: config.precision,
                packing: config.packing,
                recompute: config.recompute,
                logits: config.logits,
            };
            let (model, optimizer) = (&self.model, &mut self.optimizer);
            loss += model.backward(rows, &pass, &mut |gradients| optimizer.gather(model, gradients))?;
            optimizer.end_pass();
            self.progress.passes += 1;
            self.progress.examples += rows.len();
        }
        let (rate, gradient_norm) = (self.schedule.rate(step), self.optimizer.gradient_norm());
        for (what, value) in [("loss", loss), ("norm of the gradient", gradient_norm)] {
            if !value.is_finite() {
                return Err(TrainError::NotFinite { what, value, step, rate });
            }
        }
        // Given away meanwhile: held twice, weights could not be written in place.
        self.model = self.optimizer.step(self.model, rate, gradient_norm, config.clip);
        let done = StepReport { step, loss, rate, gradient_norm, tokens };
        self.progress.tokens += tokens;
        self.progress.steps.push(done);
        Ok((self, done))
    }

    /// Evaluates after `steps` steps, if it is time to.
    fn evaluate(&mut self, steps: usize) -> Result<Option<Evaluation>, TrainError> {
        let Some(evaluate) = &self.config.evaluate else { return Ok(None) };
        if !steps.is_multiple_of(evaluate.every) && steps != self.schedule.total {
            return Ok(None);
        }
        // Without what training would have it record.
        let plain = finish(self.model.clone());
        let loss = evaluate_in(&plain, self.data.validation, self.config.micro_batch, self.config.precision)?;
        drop(plain);
        if !loss.is_finite() {
            let (what, step) = ("loss of the evaluation", steps - 1);
            return Err(TrainError::NotFinite { what, value: loss, step, rate: self.schedule.rate(step) });
        }
        let evaluation = Evaluation { steps, loss };
        self.progress.evaluations.push(evaluation);
        let (since, _) = standing(&self.progress.evaluations);
        if evaluate.keep == Keep::Best && since == 0 {
            self.best = Some(learned(&self.model));
        }
        Ok(Some(evaluation))
    }

    /// Whether its patience is at an end.
    fn is_stopped(&self) -> bool {
        let patience = self.config.evaluate.as_ref().and_then(|evaluate| evaluate.patience);
        patience.is_some_and(|patience| {
            let (since, best) = standing(&self.progress.evaluations);
            best.is_some() && since >= patience
        })
    }

    fn state(&self) -> TrainState {
        TrainState {
            progress: self.progress.clone(),
            weights: learned(&self.model),
            moments: self.optimizer.moments(),
            best: self.best.clone(),
        }
    }

    /// The result, made of the weights that learned and of the others of `start`.
    fn finish(mut self, start: M) -> (M, TrainReport) {
        let stopped_early = self.is_stopped() && self.progress.steps.len() < self.schedule.total;
        let (since, best) = standing(&self.progress.evaluations);
        let mut kept = None;
        if let Some(values) = self.best.take().filter(|_| since > 0) {
            self.model = replaced(self.model, &values);
            kept = best;
        }
        let learned = self.model.parameters().into_iter().filter(|parameter| parameter.trained).collect::<Vec<_>>();
        let model = match self.config.precision {
            Precision::F32 => finish(self.model),
            // Those that don't learn were rounded.
            Precision::Bf16 => replaced(finish(start.clone()), &self::learned(&self.model)),
        };
        let delta_norms = match &self.config.trained {
            Trained::Adapters => {
                let of = |(path, adapter): (&String, &crate::layers::LoraAdapter)| {
                    (format!("{path}.weight"), adapter.norm())
                };
                let mut norms: BTreeMap<String, f64> = Parameterized::adapters(&model).iter().map(of).collect();
                if learned.iter().any(|parameter| !crate::lora::is_adapter(&parameter.name)) {
                    let beside = delta_norms(&start, &model).into_iter();
                    norms.extend(beside.filter(|(name, _)| learned.iter().any(|parameter| parameter.name == *name)));
                }
                norms
            }
            _ => delta_norms(&start, &model),
        };
        let base_norm = norm_of(&start, |name| delta_norms.contains_key(name));
        let report = TrainReport {
            effective_batch: self.config.micro_batch * self.config.accumulation,
            examples: self.progress.examples,
            tokens: self.progress.tokens,
            trained_parameters: learned.iter().map(|parameter| parameter.shape.iter().product::<usize>()).sum(),
            steps: self.progress.steps,
            evaluations: self.progress.evaluations,
            best: kept,
            stopped_early,
            delta_norm: delta_norms.values().map(|norm| norm * norm).sum::<f64>().sqrt(),
            delta_norms,
            base_norm,
        };
        (model, report)
    }
}
