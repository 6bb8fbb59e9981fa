//! `pretrain`: a model from scratch.

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{
    CausalLm, DropoutRates, ModelConfig, Tokenizer,
    train::{Decay, Example, Length, TrainConfig, Trained},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::{
    device::{self, DEVICE, DeviceParam},
    records::{self, Text},
    runtime::{failed, model_files, numerics, on_cpus},
    training::{self, Adam, Evaluate, ModelDropout, Precision, Schedule, VALIDATION, Watch, fit, learn},
};

/// The kind.
pub(crate) struct Pretrain;

/// `with` of `pretrain`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The model's shape.
    architecture: Architecture,
    /// Optimizer steps.
    steps: usize,
    /// Texts in a step.
    #[serde(default = "training::batch_size")]
    batch_size: usize,
    /// Highest learning rate.
    #[serde(default = "learning_rate")]
    learning_rate: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    warmup: usize,
    /// The learning rate after warm-up.
    #[serde(default)]
    schedule: Schedule,
    /// Decoupled weight decay of matrices.
    #[serde(default)]
    weight_decay: f64,
    /// The optimizer's other numbers.
    #[serde(default, skip_serializing_if = "training::is_default")]
    adamw: Adam,
    /// Gradients longer than this are scaled down to it.
    #[serde(default = "training::clip")]
    clip: f64,
    /// How much of the model's activations is dropped while it learns: `none`, `config` (the family's usual rates), or a rate
    /// in place of the config's.
    #[serde(default, skip_serializing_if = "training::is_default")]
    model_dropout: ModelDropout,
    /// Evaluate while training, on examples that are not learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evaluate: Option<Evaluate>,
    /// Let several texts share a row of at most so many tokens, kept apart by attention masks: less padding where their
    /// lengths differ much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packing: Option<usize>,
    /// What matrix products are computed in.
    #[serde(default, skip_serializing_if = "training::is_default")]
    precision: Precision,
    /// Keep only what goes into each block, and compute the rest again when it is needed: less memory for a third more
    /// time, and the same result.
    #[serde(default)]
    recompute: bool,
    /// Also write the curve as an event file for TensorBoard.
    #[serde(default, skip_serializing_if = "training::is_default")]
    tensorboard: bool,
    /// Minutes between checkpoints, from which a run that was broken off goes on; 0: after each step.
    #[serde(default = "training::checkpoint_minutes")]
    checkpoint_minutes: f64,
    /// Seeds the first weights and the order of the texts.
    #[serde(default)]
    seed: u64,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    #[serde(default)]
    device: DeviceParam,
}

/// The shape of a model.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Architecture {
    /// `gpt2`, `llama` or `opt`.
    family: Family,
    /// Blocks.
    layers: usize,
    /// Width of the residual stream.
    width: usize,
    /// Attention heads.
    heads: usize,
    /// Most tokens of a text.
    context: usize,
    /// Heads of keys and values (llama), by default as many as `heads`.
    #[serde(default)]
    kv_heads: Option<usize>,
    /// Width inside the MLP, by default 4 times `width`.
    #[serde(default)]
    inner: Option<usize>,
    /// Standard deviation of the first weights. GPT-2's 0.02 is meant for widths near 1,000; a model much narrower
    /// starts off too small to find what attention is for, and wants about `1 / sqrt(width)`.
    #[serde(default = "initializer_range")]
    initializer_range: f64,
    /// Whether the unembedding is the embedding; by default as the family has it.
    #[serde(default)]
    tied: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Family {
    Gpt2,
    Llama,
    Opt,
}

fn initializer_range() -> f64 {
    0.02
}

fn learning_rate() -> f64 {
    1e-3
}

impl Architecture {
    fn config(&self, vocab_size: usize) -> ModelConfig {
        let Architecture { layers, width, heads, context, .. } = *self;
        let inner = self.inner.unwrap_or(4 * width);
        let shape = match self.family {
            Family::Gpt2 => ModelConfig::gpt2(vocab_size, context, width, layers, heads),
            Family::Llama => ModelConfig::llama(vocab_size, context, width, layers, heads, inner),
            Family::Opt => ModelConfig::opt(vocab_size, context, width, layers, heads, inner),
        };
        ModelConfig {
            inner,
            kv_heads: self.kv_heads.unwrap_or(heads),
            initializer_range: self.initializer_range,
            tied: self.tied.unwrap_or(shape.tied),
            ..shape
        }
    }
}

impl Kind for Pretrain {
    type Params = Params;
    const NAME: &'static str = "pretrain";
    const ABOUT: &'static str = "Trains a model from scratch.";
    const REVISION: u32 = 1;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = &["recompute", "checkpoint_minutes", DEVICE];

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("dataset", PortType::Dataset, "the texts; each is one example"),
            InputPort::one("tokenizer", PortType::Tokenizer, "becomes part of the model"),
            InputPort::one(VALIDATION, PortType::Dataset, "texts to evaluate on while training").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![
            OutputPort::new("model", PortType::Model, "config.json, model.safetensors and the tokenizer"),
            OutputPort::new("curve", PortType::Metrics, "metrics.jsonl: loss and learning rate of each step"),
        ]
    }

    fn numerics_of(params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        numerics(params)
    }

    fn gpus(params: &BTreeMap<String, Value>) -> usize {
        device::gpus(params)
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = training::at_least_one(&[("steps", params.steps), ("batch_size", params.batch_size)]);
        problems.extend(params.device.problem());
        problems.extend(training::positive("learning_rate", params.learning_rate));
        problems.extend(training::positive("clip", params.clip));
        if !(params.architecture.initializer_range > 0.0 && params.architecture.initializer_range.is_finite()) {
            problems.push(ParamProblem::new("architecture", "`initializer_range` must be greater than 0"));
        }
        problems.extend(training::not_negative("weight_decay", params.weight_decay));
        problems.extend(params.adamw.problems());
        problems.extend(params.model_dropout.problem());
        problems.extend(training::at_least_one(&[("packing", params.packing.unwrap_or(1))]));
        problems.extend(training::not_negative("checkpoint_minutes", params.checkpoint_minutes));
        problems.extend(params.evaluate.iter().flat_map(Evaluate::problems));
        if params.architecture.family != Family::Llama && params.architecture.kv_heads.is_some() {
            let family = if params.architecture.family == Family::Opt { "an opt" } else { "a gpt2" };
            let message = format!("{family} has no heads of keys and values of its own");
            let problem = ParamProblem::new("architecture", message);
            problems.push(problem.hint("drop `kv_heads`"));
        }
        if let Err(error) = params.architecture.config(1).check() {
            problems.push(ParamProblem::new("architecture", error.to_string()));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let tokenizer_files = ctx.input("tokenizer")?;
        let tokenizer = Tokenizer::load(&model_files(tokenizer_files)).map_err(failed)?;
        let special = tokenizer.special();
        let encode = |row: &Text| -> Result<Example, StageError> {
            let mut ids = tokenizer.encode(&row.text, true).map_err(failed)?;
            ids.extend(special.eos);
            Ok(Example { ids, loss_from: 0 })
        };
        let read = |input| -> Result<Vec<Example>, StageError> {
            let texts: Vec<Text> = records::rows(input, records::DATASET)?;
            texts.iter().map(encode).collect()
        };
        let config = ModelConfig {
            bos: special.bos,
            eos: special.eos.into_iter().collect(),
            pad: special.pad,
            ..params.architecture.config(tokenizer.vocab_size())
        };
        let of = |rate| DropoutRates::of(config.family, rate);
        let dropout = params.model_dropout.rates(DropoutRates::usual(config.family), of);
        let config = ModelConfig { dropout, ..config };
        let context = config.context;
        let learned = fit(ctx, read(ctx.input("dataset")?)?, context, "");
        let validation = match ctx.optional(VALIDATION)? {
            Some(input) => Some(fit(ctx, read(input)?, context, "validation_")),
            None => None,
        };
        let examples = Evaluate::split(params.evaluate.as_ref(), learned, validation)?;
        let watch = Watch::new(params.tensorboard, params.checkpoint_minutes);
        let train = TrainConfig {
            length: Length::Steps(params.steps),
            micro_batch: params.batch_size,
            rate: params.learning_rate,
            warmup: params.warmup,
            decay: Decay::from(params.schedule),
            adamw: params.adamw.config(),
            weight_decay: params.weight_decay,
            model_dropout: config.dropout,
            clip: Some(params.clip),
            trained: Trained::All,
            packing: params.packing,
            precision: params.precision.into(),
            recompute: params.recompute,
            evaluate: params.evaluate.as_ref().map(Evaluate::config),
            seed: params.seed,
            ..TrainConfig::default()
        };
        let model = on_cpus(ctx, || {
            let model = CausalLm::random(config, params.seed, &device::open(ctx)?).map_err(failed)?;
            Ok(learn(ctx, model, &examples, &train, &watch)?.0)
        })?;
        let output = ctx.output("model")?;
        model.save(output.dir()).map_err(failed)?;
        output.include("", tokenizer_files);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{problems, tiny};

    #[test]
    fn a_model_learns_its_corpus() {
        let done = tiny::pretrained(json!({}));
        let (first, last) =
            (done.summary["first_loss"].as_f64().unwrap(), done.summary["final_loss"].as_f64().unwrap());
        assert!(last < first / 3.0, "{first} {last}");
        let names: Vec<_> = done.outputs["model"].files.keys().cloned().collect();
        assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
        assert_eq!(done.rows::<Value>("curve", records::METRICS).len(), 60);
    }

    #[test]
    fn threads_change_nothing_and_the_seed_does() {
        let digest = |with: Value| tiny::pretrained(with).digest();
        let one = digest(json!({ "steps": 5 }));
        assert_eq!(one, tiny::pretrained_on(json!({ "steps": 5 }), 2).digest());
        assert_ne!(one, digest(json!({ "steps": 5, "seed": 1 })));
    }

    #[test]
    fn each_family_learns_with_and_without_dropout() {
        let run = |family: &str, dropout: Value| {
            let architecture = json!({ "family": family, "layers": 1, "width": 16, "heads": 2, "context": 8 });
            tiny::pretrained(json!({ "architecture": architecture, "model_dropout": dropout }))
        };
        for family in ["gpt2", "llama", "opt"] {
            let (plain, dropped) = (run(family, json!("none")), run(family, json!(0.05)));
            for done in [&plain, &dropped] {
                let loss = |key: &str| done.summary[key].as_f64().unwrap();
                assert!(loss("final_loss") < loss("first_loss") / 2.0, "{family}");
            }
            assert_ne!(plain.digest(), dropped.digest());
            assert_eq!(plain.digest(), run(family, json!(0.0)).digest());
            let config: Value = dropped.json("model", "config.json");
            assert_eq!(config["model_type"], family);
            let rate = if family == "gpt2" { &config["attn_pdrop"] } else { &config["attention_dropout"] };
            assert_eq!(*rate, json!(0.05));
        }
    }

    /// What is left out has no part in the key, and says the same as the usual numbers.
    #[test]
    fn the_optimizers_numbers_count() {
        let digest = |adamw: Value| tiny::pretrained(json!({ "steps": 5, "adamw": adamw })).digest();
        let usual = tiny::pretrained(json!({ "steps": 5 })).digest();
        assert_eq!(usual, digest(json!({ "beta1": 0.9, "beta2": 0.999, "eps": 1e-8 })));
        let others = [json!({ "beta1": 0.5 }), json!({ "beta2": 0.95 }), json!({ "eps": 1e-3 })];
        assert!(others.into_iter().all(|adamw| digest(adamw) != usual));
    }

    #[test]
    fn shapes_that_can_not_be_built_are_told() {
        let architecture =
            json!({ "family": "gpt2", "layers": 1, "width": 6, "heads": 4, "context": 8, "kv_heads": 2 });
        let with = json!({ "architecture": architecture, "steps": 0, "learning_rate": -1 });
        insta::assert_snapshot!(problems::<Pretrain>(with), @r"
        steps: 0 is too few, give at least 1
        learning_rate: -1 is not a positive number
        architecture: a gpt2 has no heads of keys and values of its own (hint: drop `kv_heads`)
        architecture: config.json: `num_attention_heads` is 4, expected a divisor of the hidden size
        ");
    }
}
