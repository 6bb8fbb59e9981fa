//! `finetune.instruction`: a language model learns to answer which class a text is of. The loss is taken on the answer
//! only.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{Family, Tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Instruction;
use crate::{
    classifier::finetune::{batch_size, learning_rate, weight_decay},
    device::{self, DEVICE, DeviceParam},
    finetune::{self, Finetune, Preset, Rank, tune},
    records::{self, DATASET, Example, Pair},
    runtime::{base_digest, failed, load, numerics, on_cpus},
    training::{self, Evaluate, Precision, Schedule, VALIDATION},
};

/// The kind.
pub(crate) struct FinetuneInstruction;

/// `with` of `finetune.instruction`. The defaults are the paper's.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// How a text is asked about.
    instruction: Instruction,
    /// The rank of the adapters, or `full`: all weights learn, without adapters.
    rank: Rank,
    /// Where adapters go and how they begin. `paper-text`: every linear layer, A normal, alpha = rank.
    /// `peft-default`: what PEFT does unasked, attention's projections only, A uniform, alpha = 8.
    #[serde(default)]
    preset: Preset,
    /// The adapters' output is scaled by alpha / rank; instead of the preset's.
    #[serde(default)]
    alpha: Option<f64>,
    /// Probability with which an input of an adapter is dropped while training.
    #[serde(default)]
    dropout: f64,
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
    /// Evaluate while training, on the input `validation` or on examples that are held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evaluate: Option<Evaluate>,
    /// Let several texts share a row of at most so many tokens, kept apart by attention masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packing: Option<usize>,
    /// What matrix products are computed in.
    #[serde(default, skip_serializing_if = "training::is_default")]
    precision: Precision,
    /// Keep only what goes into each block, and compute the rest again when it is needed: less memory for a third more
    /// time, and the same result.
    #[serde(default)]
    recompute: bool,
    /// Minutes between checkpoints, from which a run that was broken off goes on; 0: after each step.
    #[serde(default = "training::checkpoint_minutes")]
    checkpoint_minutes: f64,
    /// Seeds the adapters' first values, dropout, and the order of the examples.
    #[serde(default)]
    seed: u64,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    #[serde(default)]
    device: DeviceParam,
}

fn one() -> usize {
    1
}

impl Params {
    /// As `finetune` has it.
    fn tuning(&self, epochs: usize) -> finetune::Params {
        finetune::Params {
            rank: self.rank,
            targets: finetune::Targets::All,
            preset: self.preset,
            modules: None,
            scaling: Default::default(),
            adamw: Default::default(),
            model_dropout: Default::default(),
            alpha: self.alpha,
            init_std: None,
            dropout: self.dropout,
            learning_rate: self.learning_rate,
            steps: None,
            epochs: Some(epochs),
            batch_size: self.batch_size,
            accumulation: self.accumulation,
            warmup: self.warmup,
            schedule: self.schedule,
            weight_decay: self.weight_decay,
            clip: self.clip,
            end_of_text: true,
            evaluate: self.evaluate.clone(),
            packing: self.packing,
            precision: self.precision,
            recompute: self.recompute,
            tensorboard: false,
            checkpoint_minutes: self.checkpoint_minutes,
            seed: self.seed,
            device: self.device.clone(),
        }
    }

    /// What is learned of each example.
    fn pairs(
        &self,
        ctx: &Context<'_>,
        examples: &[Example],
        tokenizer: &Tokenizer,
        context: usize,
        of: &str,
    ) -> Result<Vec<Pair>, StageError> {
        self.instruction.check(examples)?;
        let mut longest = 0;
        for (_, answer) in self.instruction.answers() {
            // One more for the end of text.
            longest = longest.max(tokenizer.encode(&answer, false).map_err(failed)?.len() + 1);
        }
        let room = context.saturating_sub(longest);
        let mut cut = 0;
        let mut pair = |example: &Example| {
            let (prompt, was_cut) = self.instruction.fitted(&example.text, tokenizer, room)?;
            cut += usize::from(was_cut);
            let completion = self.instruction.answer(&example.label).unwrap_or_default();
            Ok(Pair { prompt, completion, source: example.id.clone() })
        };
        let pairs = examples.iter().map(&mut pair).collect::<Result<Vec<_>, StageError>>()?;
        ctx.summary(&format!("{of}texts_cut"), cut);
        if cut > 0 {
            let count = examples.len();
            ctx.warn(format!(
                "{cut} of {count} texts are longer than the model's context leaves room for and were cut"
            ));
        }
        Ok(pairs)
    }
}

impl Kind for FinetuneInstruction {
    type Params = Params;
    const NAME: &'static str = "finetune.instruction";
    const ABOUT: &'static str = "Finetunes a model to answer which class a text is of; loss on the answer only.";
    const REVISION: u32 = 1;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = &["recompute", "checkpoint_minutes", DEVICE];

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("model", PortType::Model, "a language model to begin with"),
            InputPort::one("data", PortType::Dataset, "the training part"),
            InputPort::one(VALIDATION, PortType::Dataset, "examples to evaluate on while training").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        Finetune::outputs()
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
        let mut tuning = params.tuning(params.epochs.unwrap_or(1));
        tuning.steps = None;
        let mut problems = Finetune::check(&tuning);
        problems.extend(params.instruction.problems());
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let examples: Vec<Example> = records::rows(ctx.input("data")?, DATASET)?;
        if examples.is_empty() {
            return Err(StageError::failed("there is no training example: the part at the input `data` is empty"));
        }
        let validation: Option<Vec<Example>> =
            ctx.optional(VALIDATION)?.map(|input| records::rows(input, DATASET)).transpose()?;
        on_cpus(ctx, || {
            let base = load(ctx)?;
            let (context, family) = (base.1.config().context, base.1.config().family);
            let pairs = params.pairs(ctx, &examples, &base.2, context, "")?;
            let validation =
                validation.map(|examples| params.pairs(ctx, &examples, &base.2, context, "validation_")).transpose()?;
            let paper = if family == Family::Opt { 1 } else { 5 };
            let tuning = params.tuning(params.epochs.unwrap_or(paper));
            tune(ctx, &tuning, base, &pairs, validation.as_deref())
        })
    }
}
