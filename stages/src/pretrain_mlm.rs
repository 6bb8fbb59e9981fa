//! `pretrain.mlm`: a BERT from scratch, by guessing tokens that were taken out.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{
    DropoutRates, Family, MaskedLm, ModelConfig, Tokenizer,
    train::{Decay, Length, MaskedText, Masking, TrainConfig},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    device::{self, DEVICE, DeviceParam},
    records::{self, Text},
    runtime::{failed, model_files, numerics, on_cpus},
    training::{self, Adam, Evaluate, ModelDropout, Precision, Schedule, VALIDATION, Watch, learn},
};

/// The kind.
pub(crate) struct PretrainMlm;

/// `with` of `pretrain.mlm`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The model's shape: a BERT's.
    architecture: Architecture,
    /// Optimizer steps.
    steps: usize,
    /// The share of a text's tokens that is guessed, rounded, at least one: 80% of them are masked, 10% become another
    /// token, 10% stay.
    #[serde(default = "masked")]
    masked: f64,
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
    /// How much of the model's activations is dropped while it learns: `none`, `config` (BERT's usual 0.1), or a rate.
    #[serde(default, skip_serializing_if = "training::is_default")]
    model_dropout: ModelDropout,
    /// Evaluate while training, on examples that are not learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evaluate: Option<Evaluate>,
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
    /// Seeds the first weights, what is taken out, dropout, and the order of the texts.
    #[serde(default)]
    seed: u64,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    #[serde(default)]
    device: DeviceParam,
}

/// The shape of a BERT.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Architecture {
    /// Blocks.
    layers: usize,
    /// Width of the residual stream.
    width: usize,
    /// Attention heads.
    heads: usize,
    /// Most tokens of a text, `[CLS]` and `[SEP]` among them.
    context: usize,
    /// Width inside the MLP, by default 4 times `width`.
    #[serde(default)]
    inner: Option<usize>,
    /// Standard deviation of the first weights. BERT's 0.02 is meant for widths near 1,000; a model much narrower wants
    /// about `1 / sqrt(width)`.
    #[serde(default = "initializer_range")]
    initializer_range: f64,
}

fn initializer_range() -> f64 {
    0.02
}

fn learning_rate() -> f64 {
    1e-3
}

fn masked() -> f64 {
    0.15
}

impl Params {
    fn config(&self, vocab_size: usize) -> ModelConfig {
        let Architecture { layers, width, heads, context, inner, initializer_range } = self.architecture;
        let inner = inner.unwrap_or(width.saturating_mul(4));
        let dropout =
            self.model_dropout.rates(DropoutRates::usual(Family::Bert), |rate| DropoutRates::of(Family::Bert, rate));
        ModelConfig {
            initializer_range,
            dropout,
            ..ModelConfig::bert(vocab_size, context, width, layers, heads, inner)
        }
    }
}

impl Kind for PretrainMlm {
    type Params = Params;
    const NAME: &'static str = "pretrain.mlm";
    const ABOUT: &'static str = "Trains a BERT from scratch, by guessing masked tokens.";
    const REVISION: u32 = 1;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = &["recompute", "checkpoint_minutes", DEVICE];

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("dataset", PortType::Dataset, "the texts; each is one example"),
            InputPort::one(
                "tokenizer",
                PortType::Tokenizer,
                "becomes part of the model; with a mask token, as `tokenizer.train` makes it of `model: wordpiece`",
            ),
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
        if !(params.masked > 0.0 && params.masked < 1.0) {
            let problem = ParamProblem::new("masked", format!("{} is not a share", params.masked));
            problems.push(problem.hint("give a number between 0 and 1"));
        }
        problems.extend(training::positive("learning_rate", params.learning_rate));
        problems.extend(training::positive("clip", params.clip));
        problems.extend(training::not_negative("weight_decay", params.weight_decay));
        problems.extend(params.adamw.problems());
        problems.extend(params.model_dropout.problem());
        problems.extend(training::not_negative("checkpoint_minutes", params.checkpoint_minutes));
        problems.extend(params.evaluate.iter().flat_map(Evaluate::problems));
        let std = params.architecture.initializer_range;
        if !(std > 0.0 && std.is_finite()) {
            problems.push(ParamProblem::new("architecture", "`initializer_range` must be greater than 0"));
        }
        if let Err(error) = params.config(1).check() {
            problems.push(ParamProblem::new("architecture", error.to_string()));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let tokenizer_files = ctx.input("tokenizer")?;
        let tokenizer = Tokenizer::load(&model_files(tokenizer_files)).map_err(failed)?;
        let Some(mask) = tokenizer.special().mask else {
            return Err(StageError::failed(
                "the tokenizer has no mask token (`[MASK]`): make one by `tokenizer.train` with `model: wordpiece`",
            ));
        };
        let config = ModelConfig { pad: tokenizer.special().pad, ..params.config(tokenizer.vocab_size()) };
        let texts =
            Texts { ctx, tokenizer: &tokenizer, masking: Masking { share: params.masked, mask }, config: &config };
        let learned = texts.read(ctx.input("dataset")?, "")?;
        let validation = match ctx.optional(VALIDATION)? {
            Some(input) => Some(texts.read(input, "validation_")?),
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
            clip: Some(params.clip),
            model_dropout: config.dropout,
            precision: params.precision.into(),
            recompute: params.recompute,
            evaluate: params.evaluate.as_ref().map(Evaluate::config),
            seed: params.seed,
            ..TrainConfig::default()
        };
        let model = on_cpus(ctx, || {
            let model = MaskedLm::random(config.clone(), params.seed, &device::open(ctx)?).map_err(failed)?;
            Ok(learn(ctx, model, &examples, &train, &watch)?.0)
        })?;
        let output = ctx.output("model")?;
        model.save(output.dir()).map_err(failed)?;
        output.include("", tokenizer_files);
        Ok(())
    }
}

/// Makes examples of texts.
struct Texts<'a> {
    ctx: &'a Context<'a>,
    tokenizer: &'a Tokenizer,
    masking: Masking,
    config: &'a ModelConfig,
}

impl Texts<'_> {
    /// Cut to the context, what stands behind a text kept; those with nothing to guess are left out. Both are counted.
    /// `of` is put before the names of what is counted.
    fn read(&self, input: &palinode_engine::job::InputFiles, of: &str) -> Result<Vec<MaskedText>, StageError> {
        let rows: Vec<Text> = records::rows(input, records::DATASET)?;
        let context = self.config.context;
        let special = self.tokenizer.special();
        let around = [special.cls, special.sep, special.pad, special.mask];
        let (mut cut, mut examples) = (0, Vec::with_capacity(rows.len()));
        for (number, row) in rows.iter().enumerate() {
            let mut ids = self.tokenizer.encode(&row.text, true).map_err(failed)?;
            if ids.len() > context {
                cut += 1;
                let last = ids.last().copied().filter(|&last| Some(last) == special.sep);
                ids.truncate(context);
                if let (Some(end), Some(last)) = (ids.last_mut(), last) {
                    *end = last;
                }
            }
            let places: Vec<usize> = (0..ids.len()).filter(|&at| !around.contains(&Some(ids[at]))).collect();
            if !places.is_empty() {
                examples.push(MaskedText { ids, places, number: number as u64, masking: self.masking });
            }
        }
        let left_out = rows.len() - examples.len();
        self.ctx.summary(&format!("{of}examples_cut"), cut);
        self.ctx.summary(&format!("{of}examples_left_out"), left_out);
        let all = rows.len();
        if cut > 0 {
            self.ctx
                .warn(format!("{cut} of {all} texts are longer than the model's context of {context} and were cut"));
        }
        if left_out > 0 {
            self.ctx.warn(format!("{left_out} of {all} texts have no token to guess and were left out"));
        }
        Ok(examples)
    }
}

#[cfg(test)]
mod tests {
    use palinode_models::ModelFiles;
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, Done, problems};

    fn texts() -> Vec<Value> {
        let of = |who: &str, what: &str| json!({ "text": format!("The {who} of the town are always {what}.") });
        [("bakers", "tardy"), ("smiths", "calm"), ("tailors", "late"), ("nurses", "kind")].map(|(a, b)| of(a, b)).into()
    }

    fn tokenizer(with: Value) -> Done {
        Bench::new().rows("dataset", records::DATASET, &texts()).run::<crate::tokenizer_train::Train>(with).unwrap()
    }

    fn run(with: Value, tokens: Value, cpus: usize) -> Result<Done, StageError> {
        let mut params = json!({
            "architecture": { "layers": 1, "width": 16, "heads": 2, "context": 24, "initializer_range": 0.2 },
            "steps": 300, "batch_size": 4, "learning_rate": 0.01,
        });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        let tokenizer = tokenizer(tokens);
        let bench = Bench::new().rows("dataset", records::DATASET, &texts()).cpus(cpus);
        bench.input("tokenizer", tokenizer.outputs["tokenizer"].clone()).run::<PretrainMlm>(params)
    }

    fn trained(with: Value, cpus: usize) -> Done {
        run(with, json!({ "model": "wordpiece", "vocab_size": 90 }), cpus).unwrap()
    }

    #[test]
    fn a_bert_learns_its_corpus_and_opens_again() {
        let tokenizer = tokenizer(json!({ "model": "wordpiece", "vocab_size": 90 }));
        let bench = Bench::new().rows("dataset", records::DATASET, &texts());
        let params = json!({
            "architecture": { "layers": 1, "width": 16, "heads": 2, "context": 24, "initializer_range": 0.2 },
            "steps": 300, "batch_size": 4, "learning_rate": 0.01, "model_dropout": 0.05,
            "evaluate": { "every": 100 },
        });
        let bench = bench.rows(VALIDATION, records::DATASET, &texts());
        let done = bench.input("tokenizer", tokenizer.outputs["tokenizer"].clone()).run::<PretrainMlm>(params).unwrap();
        let loss = |key: &str| done.summary[key].as_f64().unwrap();
        assert!(loss("validation_loss") < loss("first_loss") / 2.0, "{:?}", done.summary);
        let files: ModelFiles = model_files(&done.outputs["model"]);
        let model = MaskedLm::load(&files, &palinode_models::Device::flex()).unwrap();
        assert_eq!(model.config().architecture(), "BertForMaskedLM");
        assert_eq!(model.config().dropout, DropoutRates::of(Family::Bert, 0.05));
        let tokenizer = Tokenizer::load(&files).unwrap();
        tokenizer.check(model.config().vocab_size).unwrap();
        // It guesses what it saw.
        let ids = tokenizer.encode("the bakers of the town are always tardy.", true).unwrap();
        let at = ids.iter().position(|&id| id == tokenizer.encode("of", false).unwrap()[0]).unwrap();
        let mut masked = ids.clone();
        masked[at] = tokenizer.special().mask.unwrap();
        let logits = model.forward_rows(&palinode_models::Batch::single(&masked).unwrap()).unwrap();
        let logits = palinode_models::model::values(logits);
        let row = &logits[at * model.config().vocab_size..][..model.config().vocab_size];
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(best as u32, ids[at]);
    }

    #[test]
    fn threads_change_nothing_and_the_seed_does() {
        let digest = |with: Value| trained(with, 1).digest();
        let one = digest(json!({ "steps": 5, "model_dropout": "config" }));
        assert_eq!(one, trained(json!({ "steps": 5, "model_dropout": "config" }), 2).digest());
        assert_ne!(one, digest(json!({ "steps": 5 })));
        assert_ne!(digest(json!({ "steps": 5 })), digest(json!({ "steps": 5, "seed": 1 })));
    }

    #[test]
    fn what_can_not_be_trained_is_told() {
        insta::assert_snapshot!(run(json!({}), json!({ "model": "word" }), 1).err().unwrap(), @"the tokenizer has no mask token (`[MASK]`): make one by `tokenizer.train` with `model: wordpiece`");
        let architecture = json!({ "layers": 1, "width": 6, "heads": 4, "context": 8, "initializer_range": 0.0 });
        let with = json!({
            "architecture": architecture, "steps": 0, "masked": 1, "model_dropout": 1.5,
            "adamw": { "beta1": 1, "eps": 0 },
        });
        insta::assert_snapshot!(problems::<PretrainMlm>(with), @r"
        steps: 0 is too few, give at least 1
        masked: 1 is not a share (hint: give a number between 0 and 1)
        adamw.beta1: 1 is not a number from 0 to below 1
        adamw.eps: 0 is not a positive number
        model_dropout: 1.5 is not a probability below 1
        architecture: `initializer_range` must be greater than 0
        architecture: config.json: `num_attention_heads` is 4, expected a divisor of the hidden size
        ");
        let with = json!({ "architecture": { "layers": 1, "width": 8, "heads": 4, "context": 8 }, "steps": 1, "model_dropout": "half" });
        insta::assert_snapshot!(problems::<PretrainMlm>(with), @r#"model_dropout: invalid value: string "half", expected `none`, `config` or a probability (0.1)"#);
        let done =
            trained(json!({ "steps": 2, "architecture": { "layers": 1, "width": 8, "heads": 2, "context": 5 } }), 1);
        assert_eq!((&done.summary["examples_cut"], &done.summary["examples_left_out"]), (&json!(4), &json!(0)));
    }

    #[test]
    fn bytes_are_those_of_this_revision() {
        insta::assert_snapshot!(trained(json!({ "steps": 3 }), 1).digest(), @r"
        curve 2bd2909cad2b
        model 74bea58bbfb1
        ");
    }
}
