//! `finetune.classifier`: a language model becomes a classifier of texts and learns its classes, through low-rank
//! adapters or with its own weights.

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{
    Family, SequenceClassifier, Tokenizer,
    lora::{self, LoraConfig, LoraInit},
    peft,
    train::{self, Decay, Labelled, Length, TrainConfig, Trained},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Encoder, classes, config, predict, tell_accuracy};
use crate::{
    device::{self, DEVICE, DeviceParam},
    finetune::{Preset, Rank, Targets, tokenizer_files, warn_of_oversized},
    records::{self, DATASET, Example},
    runtime::{base_digest, failed, model_files, numerics, on_cpus},
    training::{self, Examples, Precision, Schedule, VALIDATION, Watch, learn},
};

/// The kind.
pub(crate) struct FinetuneClassifier;

/// `with` of `finetune.classifier`. The defaults are the paper's.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The rank of the adapters, or `full`: all weights learn, without adapters. The head always learns as a whole.
    rank: Rank,
    /// With `rank: full`, which weights learn: `all`, or only the head and those that adapters would change (`lora`).
    #[serde(default, skip_serializing_if = "training::is_default")]
    targets: Targets,
    /// Where adapters go and how they begin. `paper-text`: every linear layer, A normal, alpha = rank.
    /// `peft-default`: what PEFT does unasked, attention's projections only, A uniform, alpha = 8.
    #[serde(default)]
    preset: Preset,
    /// Linear layers to adapt by name (`c_attn`, `q_proj`), instead of the preset's.
    #[serde(default)]
    modules: Option<Vec<String>>,
    /// The adapters' output is scaled by alpha / rank; instead of the preset's.
    #[serde(default)]
    alpha: Option<f64>,
    /// Standard deviation of A's first values, instead of the preset's.
    #[serde(default)]
    init_std: Option<f64>,
    /// Probability with which an input of an adapter is dropped while training.
    #[serde(default)]
    dropout: f64,
    /// The classes in the order of their numbers; by default the labels of the training examples, sorted.
    #[serde(default)]
    labels: Option<Vec<String>>,
    /// How often the loss of a class counts. `none`: once. `balanced`: as often as makes all classes weigh the same.
    #[serde(default)]
    class_weights: ClassWeights,
    /// Highest learning rate.
    #[serde(default = "learning_rate")]
    learning_rate: f64,
    /// Passes over the examples. By default the paper's: 5, and 1 for OPT.
    #[serde(default)]
    epochs: Option<usize>,
    /// Texts that go through the model at once.
    #[serde(default = "batch_size")]
    batch_size: usize,
    /// Batches in an optimizer step.
    #[serde(default = "one")]
    accumulation: usize,
    /// Steps of linear warm-up.
    #[serde(default)]
    warmup: usize,
    /// The learning rate after warm-up.
    #[serde(default)]
    schedule: Schedule,
    /// Decoupled weight decay of matrices.
    #[serde(default = "weight_decay")]
    weight_decay: f64,
    /// Gradients longer than this are scaled down to it.
    #[serde(default = "training::clip")]
    clip: f64,
    /// Which weights are the result: those after the `last` epoch, or those of the `best` one, by the loss on the
    /// validation part.
    #[serde(default)]
    keep: training::Keep,
    /// Stop when so many epochs in a row were no better on the validation part than the best before them.
    #[serde(default)]
    patience: Option<usize>,
    /// Most tokens of a text: the rest is cut off. By default as many as the model reads.
    #[serde(default)]
    max_length: Option<usize>,
    /// What matrix products are computed in.
    #[serde(default, skip_serializing_if = "training::is_default")]
    precision: Precision,
    /// Also write the curve as an event file for TensorBoard.
    #[serde(default, skip_serializing_if = "training::is_default")]
    tensorboard: bool,
    /// Minutes between checkpoints, from which a run that was broken off goes on; 0: after each step.
    #[serde(default = "training::checkpoint_minutes")]
    checkpoint_minutes: f64,
    /// Seeds the head, the adapters' first values, dropout, and the order of the examples.
    #[serde(default)]
    seed: u64,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    #[serde(default)]
    device: DeviceParam,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ClassWeights {
    #[default]
    None,
    Balanced,
}

pub(crate) fn learning_rate() -> f64 {
    2e-5
}

pub(crate) fn batch_size() -> usize {
    16
}

pub(crate) fn weight_decay() -> f64 {
    0.25
}

fn one() -> usize {
    1
}

impl Kind for FinetuneClassifier {
    type Params = Params;
    const NAME: &'static str = "finetune.classifier";
    const ABOUT: &'static str = "Finetunes a model to classify texts, with adapters of some rank or in full.";
    const REVISION: u32 = 1;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = &["checkpoint_minutes", DEVICE];

    fn inputs() -> Vec<InputPort> {
        let validation = "examples to evaluate on after each epoch; an empty part is none";
        vec![
            InputPort::one("model", PortType::Model, "where it begins: GPT-2, OPT, Llama or BERT"),
            InputPort::one("data", PortType::Dataset, "the training part"),
            InputPort::one(VALIDATION, PortType::Dataset, validation).optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let model = "a whole classifier; or adapter_config.json, adapter_model.safetensors (the head is in it) and the \
                     model it began with in base/";
        vec![
            OutputPort::new("model", PortType::Model, model),
            OutputPort::new("curve", PortType::Metrics, "metrics.jsonl: loss and learning rate of each step"),
        ]
    }

    fn loads(job: &Job) -> Option<String> {
        base_digest(job)
    }

    fn numerics_of(params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        numerics(params)
    }

    fn gpus(params: &BTreeMap<String, Value>) -> usize {
        device::gpus(params)
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let sizes = [
            ("rank", if let Rank::Low(rank) = params.rank { rank } else { 1 }),
            ("epochs", params.epochs.unwrap_or(1)),
            ("batch_size", params.batch_size),
            ("accumulation", params.accumulation),
            ("patience", params.patience.unwrap_or(1)),
        ];
        let mut problems = training::at_least_one(&sizes);
        problems.extend(params.device.problem());
        problems.extend(training::positive("learning_rate", params.learning_rate));
        problems.extend(training::positive("clip", params.clip));
        problems.extend(params.alpha.and_then(|alpha| training::positive("alpha", alpha)));
        problems.extend(params.init_std.and_then(|std| training::positive("init_std", std)));
        problems.extend(training::not_negative("weight_decay", params.weight_decay));
        problems.extend(training::not_negative("checkpoint_minutes", params.checkpoint_minutes));
        if !(0.0..1.0).contains(&params.dropout) {
            let message = format!("{} is not a probability below 1", params.dropout);
            problems.push(ParamProblem::new("dropout", message));
        }
        if params.max_length.is_some_and(|most| most < 2) {
            problems.push(ParamProblem::new("max_length", "give at least 2"));
        }
        if params.modules.as_ref().is_some_and(Vec::is_empty) {
            problems.push(ParamProblem::new("modules", "the list is empty").hint("leave it out for the preset's"));
        }
        if let Some(labels) = &params.labels {
            let distinct: BTreeSet<&String> = labels.iter().collect();
            if labels.len() < 2 || distinct.len() < labels.len() {
                problems.push(ParamProblem::new("labels", "give two or more different classes"));
            }
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let examples: Vec<Example> = records::rows(ctx.input("data")?, DATASET)?;
        let validation: Vec<Example> =
            ctx.optional(VALIDATION)?.map(|input| records::rows(input, DATASET)).transpose()?.unwrap_or_default();
        if validation.is_empty() && (params.keep == training::Keep::Best || params.patience.is_some()) {
            return Err(StageError::failed(
                "there is no validation part to find the best epoch on: link the input `validation`, or leave out \
                 `keep: best` and `patience`",
            ));
        }
        let labels = params.classes(&examples)?;
        on_cpus(ctx, || params.tune(ctx, labels, &examples, &validation))
    }
}

impl Params {
    /// The classes, each with an example to learn it from.
    fn classes(&self, examples: &[Example]) -> Result<Vec<String>, StageError> {
        let there: BTreeSet<&String> = examples.iter().map(|example| &example.label).collect();
        let labels = self.labels.clone().unwrap_or_else(|| there.iter().map(|&label| label.clone()).collect());
        if labels.len() < 2 {
            let have = labels.first().map_or("there is no training example".to_owned(), |only| {
                format!("all {} training examples are of the class `{only}`", examples.len())
            });
            return Err(StageError::failed(format!("{have}: there is nothing to tell apart")));
        }
        match labels.iter().find(|label| !there.contains(label)) {
            Some(label) => Err(StageError::failed(format!("no training example is of the class `{label}`"))),
            None => Ok(labels),
        }
    }

    fn lora(&self, family: Family, new: Vec<String>) -> LoraConfig {
        // Full finetuning asks only where adapters would go.
        let rank = if let Rank::Low(rank) = self.rank { rank } else { 1 };
        let preset = self.preset.config(family, rank);
        LoraConfig {
            alpha: self.alpha.unwrap_or(preset.alpha),
            dropout: self.dropout,
            targets: self.modules.clone().map_or(preset.targets, lora::Targets::Names),
            init: self.init_std.map_or(preset.init, LoraInit::Gaussian),
            modules_to_save: new,
            ..preset
        }
    }

    fn train(&self, trained: Trained, family: Family, examples: usize, validated: bool) -> TrainConfig {
        let paper = if family == Family::Opt { 1 } else { 5 };
        let evaluate = train::Evaluate {
            every: examples.div_ceil(self.batch_size * self.accumulation).max(1),
            patience: self.patience,
            keep: match self.keep {
                training::Keep::Last => train::Keep::Last,
                training::Keep::Best => train::Keep::Best,
            },
        };
        TrainConfig {
            length: Length::Epochs(self.epochs.unwrap_or(paper)),
            micro_batch: self.batch_size,
            accumulation: self.accumulation,
            rate: self.learning_rate,
            warmup: self.warmup,
            decay: Decay::from(self.schedule),
            weight_decay: self.weight_decay,
            clip: Some(self.clip),
            trained,
            precision: self.precision.into(),
            evaluate: validated.then_some(evaluate),
            seed: self.seed,
            ..TrainConfig::default()
        }
    }

    /// How often the loss of each class counts: a mean of 1 over the examples.
    fn weights(&self, numbers: &[u32], classes: usize) -> Vec<f32> {
        let mut counts = vec![0usize; classes];
        numbers.iter().for_each(|&number| counts[number as usize] += 1);
        let weight = |&count: &usize| match self.class_weights {
            ClassWeights::None => 1.0,
            ClassWeights::Balanced => numbers.len() as f32 / (classes * count.max(1)) as f32,
        };
        counts.iter().map(weight).collect()
    }

    fn tune(
        &self,
        ctx: &Context<'_>,
        labels: Vec<String>,
        examples: &[Example],
        validation: &[Example],
    ) -> Result<(), StageError> {
        let files = model_files(ctx.input("model")?);
        if files.get(peft::CONFIG).is_some() {
            let message = "the model has adapters: begin with the model that it was made of, or with one that was \
                           finetuned in full";
            return Err(StageError::failed(message));
        }
        let numbers = classes(&labels, examples, "training")?;
        let validation_numbers = classes(&labels, validation, "validation")?;
        let tokenizer = Tokenizer::load(&files).map_err(failed)?;
        let plain = config(&files)?;
        let mut model = SequenceClassifier::with_new_head(&files, labels.clone(), self.seed, &device::open(ctx)?)
            .map_err(failed)?;
        tokenizer.check(model.config().vocab_size).map_err(failed)?;

        let weights = self.weights(&numbers, labels.len());
        let mut encoder = Encoder::new(&tokenizer, model.config(), self.max_length);
        let mut encode = |of: &str, examples: &[Example], numbers: &[u32], weights: Option<&[f32]>| {
            encoder.cut = 0;
            let one = |(example, &label): (&Example, &u32)| {
                let weight = weights.map_or(1.0, |weights| weights[label as usize]);
                Ok(Labelled { ids: encoder.encode(example)?, types: Vec::new(), label, weight })
            };
            let labelled = examples.iter().zip(numbers).map(one).collect::<Result<Vec<_>, StageError>>()?;
            encoder.tell(ctx, of, examples.len());
            Ok::<_, StageError>(labelled)
        };
        let labelled = Examples {
            train: encode("", examples, &numbers, Some(&weights))?,
            validation: encode("validation_", validation, &validation_numbers, None)?,
        };
        ctx.summary("classes", json!(labels));
        if self.class_weights == ClassWeights::Balanced {
            let weights: BTreeMap<&String, f32> = labels.iter().zip(weights).collect();
            ctx.summary("class_weights", json!(weights));
        }

        let family = model.config().family;
        let lora = self.lora(family, SequenceClassifier::new_modules(&files).map_err(failed)?);
        let watch = Watch::new(self.tensorboard, self.checkpoint_minutes);
        let train = |trained| self.train(trained, family, labelled.train.len(), !validation.is_empty());
        let output = ctx.output("model")?;
        let model = match self.rank {
            Rank::Low(_) => {
                lora::attach(&mut model, &lora, self.seed).map_err(failed)?;
                warn_of_oversized(ctx, &model);
                let (model, _) = learn(ctx, model, &labelled, &train(Trained::Adapters), &watch)?;
                peft::save_adapter(&model, &lora, "base", output.dir()).map_err(failed)?;
                // The base's files as they are, but a config that names the classes, as transformers wants it.
                let mut base = ctx.input("model")?.clone();
                base.files.remove(CONFIG);
                output.include(peft::BASE, &base);
                let folder = output.dir().join(peft::BASE);
                std::fs::create_dir_all(&folder).map_err(StageError::io(&folder))?;
                let named = palinode_models::ModelConfig { labels, ..plain };
                output.write(&format!("{}{CONFIG}", peft::BASE), named.render())?;
                model
            }
            Rank::Full => {
                let trained = match self.targets {
                    Targets::All => Trained::All,
                    Targets::Lora => Trained::Weights(lora.targets),
                };
                let (model, _) = learn(ctx, model, &labelled, &train(trained), &watch)?;
                model.save(output.dir()).map_err(failed)?;
                output.include("", &tokenizer_files(ctx)?);
                model
            }
        };
        if !validation.is_empty() {
            let ids: Vec<Vec<u32>> = labelled.validation.into_iter().map(|one| one.ids).collect();
            tell_accuracy(ctx, "validation_", &predict(ctx, &model, validation, &ids, self.batch_size)?);
        }
        Ok(())
    }
}

const CONFIG: &str = "config.json";
