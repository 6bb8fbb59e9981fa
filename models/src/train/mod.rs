//! Training: one loop for pretraining, full finetuning and LoRA. Same examples, same config, same bytes, on any
//! number of threads.
//!
//! | file | what for |
//! |---|---|
//! | `config` | how to train |
//! | `batch` | order of examples, micro-batches, targets |
//! | `schedule` | learning rate by step |
//! | `loss` | cross-entropy and its gradient in one pass |
//! | `adamw`, `optimizer` | the update of one tensor, and of a model |

mod adamw;
mod batch;
mod config;
mod loss;
mod optimizer;
mod schedule;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::module::{ModuleMapper, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use adamw::AdamW;
pub use config::{Length, Reduction, TrainConfig, Trained};
pub use schedule::{Decay, Schedule};

use crate::error::ModelError;
use crate::layers::{Batch, DropoutKey, ops};
use crate::lora::{LoraError, delta_norms, has_adapters, is_adapter};
use crate::model::CausalLm;
use batch::{MicroBatch, Order};
use optimizer::Optimizer;

/// A text to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The loss is taken on the tokens from this place on: the length of the prompt, or 0 for all tokens.
    pub loss_from: usize,
}

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Counted from 0.
    pub step: usize,
    /// Loss in nats per token, before the step.
    pub loss: f64,
    /// Learning rate of the step.
    pub rate: f64,
    /// Norm of the gradient, before clipping.
    pub gradient_norm: f64,
    /// Tokens that the loss was taken on.
    pub tokens: usize,
}

/// What a training run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Examples per full optimizer step.
    pub effective_batch: usize,
    /// Examples seen, repeats counted.
    pub examples: usize,
    /// Tokens that losses were taken on, repeats counted.
    pub tokens: usize,
    /// Values that were trained.
    pub trained_parameters: usize,
    /// Each optimizer step.
    pub steps: Vec<StepReport>,
    /// Frobenius norm of the change of each weight that changed; for an adapted layer that of `scale * A B`.
    pub delta_norms: BTreeMap<String, f64>,
    /// All of them together.
    pub delta_norm: f64,
}

/// An error of a training run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Nothing to learn from.
    #[error("there are no examples to train on")]
    NoExamples,
    /// An example without a token to predict.
    #[error("example {example} has no token to predict: {length} tokens, loss from token {loss_from} on")]
    NoTargets {
        /// Which, counted from 0.
        example: usize,
        /// Its tokens.
        length: usize,
        /// Where its loss begins.
        loss_from: usize,
    },
    /// A value that can't be trained with.
    #[error("training's {field} is {value}, expected {expected}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// Adapters are to be trained, and the model has none.
    #[error("the model has no adapters to train")]
    NoAdapters,
    /// Targets that the model doesn't have.
    #[error(transparent)]
    Targets(#[from] LoraError),
    /// A loss or gradient that is no number.
    #[error("the {what} became {value} at step {step} (learning rate {rate:e}): try a lower rate or clipping")]
    NotFinite {
        /// `loss` or `norm of the gradient`.
        what: &'static str,
        /// NaN or infinity.
        value: f64,
        /// Counted from 0.
        step: usize,
        /// The rate of that step.
        rate: f64,
    },
    /// The caller asked to stop.
    #[error("training was cancelled after step {step}")]
    Cancelled {
        /// The last one done, counted from 0.
        step: usize,
    },
    /// An example that the model can't take in.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Trains a model. `progress` is told each step and the number of all steps, and may stop the run.
pub fn train(
    model: CausalLm,
    examples: &[Example],
    config: &TrainConfig,
    mut progress: impl FnMut(&StepReport, usize) -> ControlFlow<()>,
) -> Result<(CausalLm, TrainReport), TrainError> {
    check(examples, config)?;
    // A handle on the weights before training; only weights that change are ever copied.
    let base = (config.trained != Trained::Adapters).then(|| model.clone());
    let mut model = select(model, &config.trained)?;
    let order = Order::new(examples, config);
    let per_epoch = order.steps_per_epoch();
    let total = match config.length {
        Length::Steps(steps) => steps,
        Length::Epochs(epochs) => epochs * per_epoch,
    };
    let schedule = Schedule { peak: config.rate, warmup: config.warmup, total, decay: config.decay };
    let decay = |dims| if dims > 1 || config.decay_vectors { config.weight_decay } else { 0.0 };
    let mut optimizer = Optimizer::new(&model, config.adamw, decay);
    let trained = model.parameters().into_iter().filter(|parameter| parameter.trained);
    let mut report = TrainReport {
        effective_batch: config.micro_batch * config.accumulation,
        examples: 0,
        tokens: 0,
        trained_parameters: trained.map(|parameter| parameter.shape.iter().product::<usize>()).sum(),
        steps: Vec::with_capacity(total),
        delta_norms: BTreeMap::new(),
        delta_norm: 0.0,
    };
    let mut epoch = Vec::new();
    let mut passes = 0;
    for step in 0..total {
        if step % per_epoch == 0 {
            epoch = order.epoch(step / per_epoch);
        }
        let window = order.window(&epoch, step % per_epoch);
        let tokens = window.iter().map(|batch| batch.targets.len()).sum();
        let mut loss = 0.0;
        for batch in &window {
            let denominator = match config.reduction {
                Reduction::Tokens => tokens,
                Reduction::MicroBatches => batch.targets.len() * window.len(),
            };
            let key = DropoutKey { seed: config.seed, step: passes };
            let part = batch_loss(&model, batch, denominator as f64, key)?;
            loss += f64::from(part.clone().into_scalar::<f32>());
            optimizer.gather(&model, part.backward());
            passes += 1;
            report.examples += batch.rows.len();
        }
        let (rate, gradient_norm) = (schedule.rate(step), optimizer.gradient_norm());
        for (what, value) in [("loss", loss), ("norm of the gradient", gradient_norm)] {
            if !value.is_finite() {
                return Err(TrainError::NotFinite { what, value, step, rate });
            }
        }
        model = optimizer.step(model, rate, gradient_norm, config.clip);
        let done = StepReport { step, loss, rate, gradient_norm, tokens };
        report.tokens += tokens;
        report.steps.push(done);
        if progress(&done, total).is_break() {
            return Err(TrainError::Cancelled { step });
        }
    }
    let model = model.map(&mut Finish);
    report.delta_norms = match base {
        Some(base) => delta_norms(&base, &model),
        None => model.adapters().iter().map(|(path, adapter)| (format!("{path}.weight"), adapter.norm())).collect(),
    };
    report.delta_norm = report.delta_norms.values().map(|norm| norm * norm).sum::<f64>().sqrt();
    Ok((model, report))
}

/// Mean loss in nats of a model on examples, each token weighing the same.
pub fn evaluate(model: &CausalLm, examples: &[Example], batch: usize) -> Result<f64, TrainError> {
    let config = TrainConfig { micro_batch: batch, shuffle: false, ..TrainConfig::default() };
    check(examples, &config)?;
    let order = Order::new(examples, &config);
    let all: Vec<usize> = (0..examples.len()).collect();
    let tokens: usize = examples.iter().map(|example| example.predicted().len()).sum();
    let mut loss = 0.0;
    for step in 0..order.steps_per_epoch() {
        for batch in order.window(&all, step) {
            let sum = loss_of(&model.forward_places(&batch, None)?, &batch, 1.0);
            loss += f64::from(sum.into_scalar::<f32>());
        }
    }
    Ok(loss / tokens as f64)
}

fn batch_loss(
    model: &CausalLm,
    batch: &MicroBatch,
    denominator: f64,
    key: DropoutKey,
) -> Result<Tensor<1>, ModelError> {
    Ok(loss_of(&model.forward_places(batch, Some(key))?, batch, denominator))
}

fn loss_of(logits: &Tensor<2>, batch: &MicroBatch, denominator: f64) -> Tensor<1> {
    loss::cross_entropy(logits.clone(), &batch.targets, denominator)
}

impl CausalLm {
    /// Logits at the places of a batch whose successors are predicted; no others are computed.
    fn forward_places(&self, batch: &MicroBatch, key: Option<DropoutKey>) -> Result<Tensor<2>, ModelError> {
        let mut input = Batch::right_padded(&batch.rows, 0)?;
        if let Some(key) = key {
            input = input.with_dropout(key);
        }
        let [rows, seq] = input.dims();
        let Some(last) = self.hidden(&input)?.pop() else { return Err(ModelError::EmptyBatch) };
        let last = if batch.places.len() == rows * seq {
            last
        } else {
            let places = batch.places.iter().map(|&place| place as i32).collect();
            let device = last.device();
            last.select(0, ops::ints(places, [batch.places.len()], &device))
        };
        Ok(self.unembed(last))
    }
}

fn check(examples: &[Example], config: &TrainConfig) -> Result<(), TrainError> {
    if examples.is_empty() {
        return Err(TrainError::NoExamples);
    }
    if let Some(example) = examples.iter().position(|example| example.predicted().is_empty()) {
        let Example { ids, loss_from } = &examples[example];
        return Err(TrainError::NoTargets { example, length: ids.len(), loss_from: *loss_from });
    }
    let (Length::Steps(length) | Length::Epochs(length)) = config.length;
    for (field, value) in
        [("length", length), ("micro_batch", config.micro_batch), ("accumulation", config.accumulation)]
    {
        if value == 0 {
            return Err(TrainError::Value { field, value: 0.0, expected: "at least 1" });
        }
    }
    for (field, value) in [("rate", config.rate), ("weight_decay", config.weight_decay)] {
        if !(value.is_finite() && value >= 0.0) {
            return Err(TrainError::Value { field, value, expected: "a number from 0 up" });
        }
    }
    match config.clip {
        Some(value) if value.is_nan() || value <= 0.0 => {
            Err(TrainError::Value { field: "clip", value, expected: "a positive number" })
        }
        _ => Ok(()),
    }
}

/// Lets gradients flow to the parameters that learn; the others stay plain constants, which cost nothing.
fn select(model: CausalLm, trained: &Trained) -> Result<CausalLm, TrainError> {
    let names: Box<dyn Fn(&str) -> bool> = match trained {
        Trained::All => Box::new(|_| true),
        Trained::Adapters if !has_adapters(&model) => return Err(TrainError::NoAdapters),
        Trained::Adapters => {
            let beside = model.clone();
            Box::new(move |name| is_adapter(name) || beside.is_saved(name))
        }
        Trained::Weights(targets) => {
            let names: Vec<String> =
                targets.resolve(&model)?.into_iter().map(|path| format!("{path}.weight")).collect();
            Box::new(move |name| names.iter().any(|target| target == name))
        }
    };
    Ok(model.map(&mut Select { path: Vec::new(), names }))
}

struct Select {
    path: Vec<String>,
    names: Box<dyn Fn(&str) -> bool>,
}

impl ModuleMapper for Select {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = (self.names)(&self.path.join("."));
        param.map(|tensor| {
            let plain = tensor.inner();
            if trained { plain.autodiff().require_grad() } else { plain }
        })
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

/// Leaves plain tensors behind: nothing that uses the model afterwards pays for gradients.
struct Finish;

impl ModuleMapper for Finish {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(Tensor::inner)
    }
}
