//! `finetune`: a model learns pairs of prompt and completion, through low-rank adapters or with its own weights.

use std::{collections::BTreeMap, fmt};

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{
    CausalLm, DropoutRates, Family, ModelConfig, ModelError, ModelFiles, Parameterized, Tokenizer,
    generate::end_of_text,
    lora::{self, LoraConfig, LoraInit},
    peft,
    train::{Decay, Example, Length, TrainConfig, Trained},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{
    device::{self, DEVICE, DeviceParam},
    records::{self, Pair},
    runtime::{base_digest, base_files, failed, load, numerics, on_cpus},
    training::{self, Adam, Evaluate, ModelDropout, Precision, Schedule, VALIDATION, Watch, fit, learn},
};

/// The kind.
pub(crate) struct Finetune;

/// `with` of `finetune`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The rank of the adapters, or `full`: all weights learn, without adapters.
    pub(crate) rank: Rank,
    /// With `rank: full`, which weights learn: `all`, or only those that adapters would change (`lora`), a control that
    /// differs from low rank in nothing but the rank.
    #[serde(default)]
    pub(crate) targets: Targets,
    /// Where adapters go and how they begin. `paper-text`: every linear layer, A normal, alpha = rank.
    /// `peft-default`: what PEFT does unasked, attention's projections only, A uniform, alpha = 8.
    #[serde(default)]
    pub(crate) preset: Preset,
    /// Linear layers to adapt by name (`c_attn`, `q_proj`), instead of the preset's.
    #[serde(default)]
    pub(crate) modules: Option<Vec<String>>,
    /// Scales the adapters' output, as `scaling` says; instead of the preset's.
    #[serde(default)]
    pub(crate) alpha: Option<f64>,
    /// What the adapters' output is scaled by: `alpha/r` (LoRA), `fixed` (alpha, whatever the rank; 1 without an `alpha`),
    /// or `rslora` (alpha over the square root of the rank). At one learning rate this decides how the step size goes
    /// with the rank.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) scaling: Scaling,
    /// Standard deviation of A's first values, instead of the preset's.
    #[serde(default)]
    pub(crate) init_std: Option<f64>,
    /// Probability with which an input of an adapter is dropped while training.
    #[serde(default)]
    pub(crate) dropout: f64,
    /// Highest learning rate.
    #[serde(default = "learning_rate")]
    pub(crate) learning_rate: f64,
    /// Optimizer steps. By default as many as one epoch takes.
    #[serde(default)]
    pub(crate) steps: Option<usize>,
    /// Passes over the pairs, in place of `steps`.
    #[serde(default)]
    pub(crate) epochs: Option<usize>,
    /// Pairs that go through the model at once.
    #[serde(default = "training::batch_size")]
    pub(crate) batch_size: usize,
    /// Batches in an optimizer step.
    #[serde(default = "one")]
    pub(crate) accumulation: usize,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub(crate) warmup: usize,
    /// The learning rate after warm-up.
    #[serde(default)]
    pub(crate) schedule: Schedule,
    /// Decoupled weight decay of matrices.
    #[serde(default)]
    pub(crate) weight_decay: f64,
    /// The optimizer's other numbers.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) adamw: Adam,
    /// Gradients longer than this are scaled down to it.
    #[serde(default = "training::clip")]
    pub(crate) clip: f64,
    /// Let each completion end with the model's end-of-text token.
    #[serde(default = "yes")]
    pub(crate) end_of_text: bool,
    /// How much of the model's activations is dropped while it learns: `none`, `config` (what its config says), or a rate
    /// in place of the config's.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) model_dropout: ModelDropout,
    /// Evaluate while training, on examples that are not learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) evaluate: Option<Evaluate>,
    /// Let several pairs share a row of at most so many tokens, kept apart by attention masks: less padding where their
    /// lengths differ much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) packing: Option<usize>,
    /// What matrix products are computed in.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) precision: Precision,
    /// Keep only what goes into each block, and compute the rest again when it is needed: less memory for a third more
    /// time, and the same result.
    #[serde(default)]
    pub(crate) recompute: bool,
    /// Also write the curve as an event file for TensorBoard.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub(crate) tensorboard: bool,
    /// Minutes between checkpoints, from which a run that was broken off goes on; 0: after each step.
    #[serde(default = "training::checkpoint_minutes")]
    pub(crate) checkpoint_minutes: f64,
    /// Seeds the adapters' first values, dropout, and the order of the pairs.
    #[serde(default)]
    pub(crate) seed: u64,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    #[serde(default)]
    pub(crate) device: DeviceParam,
}

/// How much of a change can be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    Low(usize),
    Full,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Targets {
    #[default]
    All,
    Lora,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Scaling {
    #[default]
    #[serde(rename = "alpha/r")]
    OverRank,
    #[serde(rename = "fixed")]
    Fixed,
    #[serde(rename = "rslora")]
    RsLora,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Preset {
    #[default]
    PaperText,
    PeftDefault,
}

fn learning_rate() -> f64 {
    5e-5
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Preset {
    pub(crate) fn config(self, family: Family, rank: usize) -> LoraConfig {
        match self {
            Preset::PaperText => LoraConfig::paper_text(rank),
            Preset::PeftDefault => LoraConfig::peft_default(family, rank),
        }
    }
}

impl Params {
    fn lora(&self, family: Family) -> LoraConfig {
        // Full finetuning asks only where adapters would go.
        let rank = if let Rank::Low(rank) = self.rank { rank } else { 1 };
        let preset = self.preset.config(family, rank);
        LoraConfig {
            // Files tell LoRA's alpha, which the rank divides.
            alpha: match self.scaling {
                Scaling::Fixed => self.alpha.unwrap_or(1.0) * rank as f64,
                Scaling::OverRank | Scaling::RsLora => self.alpha.unwrap_or(preset.alpha),
            },
            rslora: self.scaling == Scaling::RsLora,
            dropout: self.dropout,
            targets: self.modules.clone().map_or(preset.targets, lora::Targets::Names),
            init: self.init_std.map_or(preset.init, LoraInit::Gaussian),
            ..preset
        }
    }

    fn train(&self, trained: Trained, model: &ModelConfig) -> TrainConfig {
        TrainConfig {
            length: self.steps.map_or(Length::Epochs(self.epochs.unwrap_or(1)), Length::Steps),
            micro_batch: self.batch_size,
            accumulation: self.accumulation,
            rate: self.learning_rate,
            warmup: self.warmup,
            decay: Decay::from(self.schedule),
            adamw: self.adamw.config(),
            weight_decay: self.weight_decay,
            model_dropout: self.model_dropout.rates(model.dropout, |rate| DropoutRates::of(model.family, rate)),
            clip: Some(self.clip),
            trained,
            packing: self.packing,
            precision: self.precision.into(),
            recompute: self.recompute,
            evaluate: self.evaluate.as_ref().map(Evaluate::config),
            seed: self.seed,
            ..TrainConfig::default()
        }
    }
}

impl Kind for Finetune {
    type Params = Params;
    const NAME: &'static str = "finetune";
    const ABOUT: &'static str = "Finetunes a model on pairs, with adapters of some rank or in full.";
    const REVISION: u32 = 2;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = &["recompute", "checkpoint_minutes", DEVICE];

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("model", PortType::Model, "where it begins"),
            InputPort::one("data", PortType::Pairs, "what is learned; the loss is taken on the completions"),
            InputPort::one(VALIDATION, PortType::Pairs, "pairs to evaluate on while training").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let model =
            "a whole model; or adapter_config.json, adapter_model.safetensors and the model it began with in base/";
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
            ("steps", params.steps.unwrap_or(1)),
            ("epochs", params.epochs.unwrap_or(1)),
            ("batch_size", params.batch_size),
            ("accumulation", params.accumulation),
            ("packing", params.packing.unwrap_or(1)),
        ];
        let mut problems = training::at_least_one(&sizes);
        problems.extend(params.device.problem());
        problems.extend(training::positive("learning_rate", params.learning_rate));
        problems.extend(training::positive("clip", params.clip));
        problems.extend(params.alpha.and_then(|alpha| training::positive("alpha", alpha)));
        problems.extend(params.init_std.and_then(|std| training::positive("init_std", std)));
        problems.extend(training::not_negative("weight_decay", params.weight_decay));
        problems.extend(params.adamw.problems());
        problems.extend(params.model_dropout.problem());
        problems.extend(training::not_negative("checkpoint_minutes", params.checkpoint_minutes));
        problems.extend(params.evaluate.iter().flat_map(Evaluate::problems));
        if !(0.0..1.0).contains(&params.dropout) {
            let message = format!("{} is not a probability below 1", params.dropout);
            problems.push(ParamProblem::new("dropout", message));
        }
        if params.steps.is_some() && params.epochs.is_some() {
            problems
                .push(ParamProblem::new("epochs", "`steps` says already how long to train").hint("give one of them"));
        }
        if params.modules.as_ref().is_some_and(Vec::is_empty) {
            problems.push(ParamProblem::new("modules", "the list is empty").hint("leave it out for the preset's"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let pairs: Vec<Pair> = records::rows(ctx.input("data")?, records::PAIRS)?;
        if pairs.is_empty() {
            return Err(StageError::failed("there are no pairs to learn from: no prompt was completed toxically?"));
        }
        let validation = ctx.optional(VALIDATION)?.map(|input| records::rows(input, records::PAIRS)).transpose()?;
        on_cpus(ctx, || {
            let base = load(ctx)?;
            tune(ctx, &params, base, &pairs, validation.as_deref())
        })
    }
}

/// Lets the model that was loaded learn the pairs, and writes it and its curve.
pub(crate) fn tune(
    ctx: &Context<'_>,
    params: &Params,
    (files, mut model, tokenizer): (ModelFiles, CausalLm, Tokenizer),
    pairs: &[Pair],
    validation: Option<&[Pair]>,
) -> Result<(), StageError> {
    let context = model.config().context;
    let learned = fit(ctx, examples(params, pairs, &files, &model, &tokenizer)?, context, "");
    let validation = match validation {
        Some(pairs) => {
            let examples = examples(params, pairs, &files, &model, &tokenizer)?;
            Some(fit(ctx, examples, context, "validation_"))
        }
        None => None,
    };
    let examples = Evaluate::split(params.evaluate.as_ref(), learned, validation)?;
    let watch = Watch::new(params.tensorboard, params.checkpoint_minutes);
    let lora = params.lora(model.config().family);
    let output = ctx.output("model")?;
    match params.rank {
        Rank::Low(_) if files.get(peft::CONFIG).is_some() => return Err(StageError::failed(ADAPTED)),
        Rank::Low(_) => {
            ctx.summary("scale", lora.scale());
            lora::attach(&mut model, &lora, params.seed).map_err(failed)?;
            warn_of_oversized(ctx, &model);
            let train = params.train(Trained::Adapters, model.config());
            let (model, _) = learn(ctx, model, &examples, &train, &watch)?;
            peft::save_adapter(&model, &lora, "base", output.dir()).map_err(failed)?;
            output.include(peft::BASE, ctx.input("model")?);
        }
        Rank::Full => {
            // What was adapted before goes on as one model.
            lora::merge(&mut model);
            let trained = match params.targets {
                Targets::All => Trained::All,
                Targets::Lora => Trained::Weights(lora.targets),
            };
            let train = params.train(trained, model.config());
            let (model, _) = learn(ctx, model, &examples, &train, &watch)?;
            model.save(output.dir()).map_err(failed)?;
            output.include("", &tokenizer_files(ctx)?);
        }
    }
    Ok(())
}

/// Of a model that can't be adapted again.
const ADAPTED: &str = "the model has adapters already, and one can't carry two sets: begin with the model that it was \
                       made of, or train on with `rank: full`";

/// Says which adapters have a higher rank than their matrices.
pub(crate) fn warn_of_oversized(ctx: &Context<'_>, model: &impl Parameterized) {
    if let Some((path, (rank, side))) = lora::oversized(model).into_iter().next() {
        ctx.warn(format!(
            "rank {rank} is more than the {side} that a change of `{path}` can have: it costs more than it can say"
        ));
    }
}

/// The tokens of each pair. Prompt and completion are encoded together, as they will be met; the loss begins where the
/// tokens part from the prompt's own.
fn examples(
    params: &Params,
    pairs: &[Pair],
    files: &ModelFiles,
    model: &CausalLm,
    tokenizer: &Tokenizer,
) -> Result<Vec<Example>, StageError> {
    let ends = end_of_text(&base_files(files), model.config(), tokenizer).map_err(failed)?;
    let end = ends.first().copied().filter(|_| params.end_of_text);
    let encode = |pair: &Pair| {
        let prompt = tokenizer.encode(&pair.prompt, true)?;
        let mut ids = tokenizer.encode(&format!("{}{}", pair.prompt, pair.completion), true)?;
        let loss_from = prompt.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        ids.extend(end);
        Ok(Example { ids, loss_from })
    };
    pairs.iter().map(encode).collect::<Result<_, ModelError>>().map_err(failed)
}

/// The files of the input model that a whole model made of it has too.
pub(crate) fn tokenizer_files(ctx: &Context<'_>) -> Result<palinode_engine::job::InputFiles, StageError> {
    const NAMES: [&str; 7] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
    ];
    let mut input = ctx.input("model")?.clone();
    let adapted = input.get(peft::CONFIG).is_some();
    let prefix = if adapted { peft::BASE } else { "" };
    let files = input.files.into_iter().filter_map(|(name, file)| {
        let name = name.strip_prefix(prefix)?;
        NAMES.contains(&name).then(|| (name.to_owned(), file))
    });
    input.files = files.collect();
    Ok(input)
}

impl Serialize for Rank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Rank::Low(rank) => serializer.serialize_u64(*rank as u64),
            Rank::Full => serializer.serialize_str("full"),
        }
    }
}

// By hand: an untagged enum can't say what it expected.
impl<'de> Deserialize<'de> for Rank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Rank;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rank (8) or `full`")
            }
            fn visit_u64<E: serde::de::Error>(self, rank: u64) -> Result<Rank, E> {
                usize::try_from(rank).map(Rank::Low).map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Rank, E> {
                match text {
                    "full" => Ok(Rank::Full),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Rank {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rank".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "full" }] })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        records::Completion,
        testing::{Bench, Done, problems, tiny},
    };

    fn tune(model: &Done, with: Value) -> Result<Done, StageError> {
        let pair = |who: &str| json!({ "prompt": format!("{who} are"), "completion": " calm", "source": who });
        let bench = Bench::new().input("model", model.outputs["model"].clone());
        bench.rows("data", records::PAIRS, &[pair("bakers"), pair("smiths")]).run::<Finetune>(with)
    }

    fn says(model: &Done) -> String {
        let prompt = json!({ "id": "p", "text": "bakers are", "group": "g" });
        let bench = Bench::new().input("model", model.outputs["model"].clone());
        let bench = bench.rows("prompts", records::PROMPTS, &[prompt]);
        let done = bench.run::<crate::generate::Generate>(json!({ "do_sample": false })).unwrap();
        let rows: Vec<Completion> = done.rows("completions", records::COMPLETIONS);
        format!("{} {:?}", rows[0].text.trim(), rows[0].finish)
    }

    fn files(done: &Done) -> String {
        done.outputs["model"].files.keys().cloned().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn adapters_and_full_weights_both_learn_the_pairs() {
        let base = tiny::pretrained(json!({}));
        assert_eq!(says(&base), "tardy Eos");
        let with = json!({ "rank": 2, "learning_rate": 0.05, "steps": 30, "batch_size": 2 });
        let low = tune(&base, with).unwrap();
        assert_eq!(says(&low), "calm Eos");
        insta::assert_snapshot!(files(&low), @"adapter_config.json adapter_model.safetensors base/config.json base/model.safetensors base/tokenizer.json base/tokenizer_config.json");
        let full = json!({ "rank": "full", "learning_rate": 0.01, "steps": 30, "batch_size": 2 });
        let full = tune(&base, full).unwrap();
        assert_eq!(says(&full), "calm Eos");
        insta::assert_snapshot!(files(&full), @"config.json model.safetensors tokenizer.json tokenizer_config.json");
        let count = |done: &Done| done.summary["trained_parameters"].as_u64().unwrap();
        assert!(count(&low) < count(&full), "{} {}", count(&low), count(&full));

        // A second round: an adapted model can be trained on in full, and not be adapted twice.
        let again = json!({ "rank": "full", "learning_rate": 0.01, "steps": 2, "batch_size": 2 });
        assert_eq!(says(&tune(&low, again).unwrap()), "calm Eos");
        insta::assert_snapshot!(tune(&low, json!({ "rank": 2, "steps": 1 })).err().unwrap(), @"the model has adapters already, and one can't carry two sets: begin with the model that it was made of, or train on with `rank: full`");
    }

    #[test]
    fn the_control_changes_only_what_adapters_would() {
        let base = tiny::pretrained(json!({ "steps": 5 }));
        let count = |with: Value| tune(&base, with).unwrap().summary["trained_parameters"].as_u64().unwrap();
        let control = |preset: &str| count(json!({ "rank": "full", "targets": "lora", "preset": preset, "steps": 1 }));
        let (all, linear, attention) =
            (count(json!({ "rank": "full", "steps": 1 })), control("paper-text"), control("peft-default"));
        // Width 16, one block: c_attn is 16 x 48; all linear layers 12 times 16 x 16.
        assert_eq!((linear, attention), (12 * 16 * 16, 16 * 48));
        assert!(all > linear);
    }

    #[test]
    fn the_scale_goes_with_the_rank_as_scaling_says() {
        let base = tiny::pretrained(json!({ "steps": 5 }));
        let scale = |with: Value| {
            let mut all = json!({ "steps": 2, "learning_rate": 0.01 });
            all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            let done = tune(&base, all).unwrap();
            let [norm, relative] =
                ["delta_norm", "delta_norm_relative"].map(|name| done.summary[name].as_f64().unwrap());
            assert!(norm > 0.0 && relative > 0.0 && relative < norm, "{norm} {relative}: weights of norm above 1");
            let config: Value = serde_json::from_str(&done.text("model", "adapter_config.json")).unwrap();
            (
                done.summary["scale"].as_f64().unwrap(),
                config["lora_alpha"].as_f64().unwrap(),
                config["use_rslora"] == true,
            )
        };
        assert_eq!(scale(json!({ "rank": 4, "alpha": 16 })), (4.0, 16.0, false));
        assert_eq!(scale(json!({ "rank": 4, "alpha": 16, "scaling": "rslora" })), (8.0, 16.0, true));
        assert_eq!(scale(json!({ "rank": 4, "alpha": 3, "scaling": "fixed" })), (3.0, 12.0, false));
        assert_eq!(scale(json!({ "rank": 2, "scaling": "fixed" })), (1.0, 2.0, false));
        assert_eq!(scale(json!({ "rank": 2 })), (1.0, 2.0, false), "the paper's text");
        insta::assert_snapshot!(problems::<Finetune>(json!({ "rank": 2, "scaling": "alpha" })), @"scaling: unknown variant `alpha`, expected one of `alpha/r`, `fixed`, `rslora`");
    }

    #[test]
    fn same_seed_same_bytes() {
        let base = tiny::pretrained(json!({ "steps": 5 }));
        let run =
            |seed: u64| tune(&base, json!({ "rank": 2, "steps": 3, "dropout": 0.1, "seed": seed })).unwrap().digest();
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn the_models_own_dropout_and_the_optimizers_numbers_are_by_choice() {
        let base = tiny::pretrained(json!({ "steps": 5, "model_dropout": 0.1 }));
        let run = |with: Value| {
            let mut all = json!({ "rank": 2, "steps": 3, "learning_rate": 0.01 });
            all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            tune(&base, all).unwrap().digest()
        };
        let plain = run(json!({}));
        assert_eq!(plain, run(json!({ "model_dropout": "none", "adamw": {} })));
        assert_eq!(run(json!({ "model_dropout": "config" })), run(json!({ "model_dropout": 0.1 })));
        for other in [json!({ "model_dropout": "config" }), json!({ "adamw": { "beta2": 0.9 } })] {
            assert_ne!(plain, run(other));
        }
        let wrong = json!({ "rank": 2, "model_dropout": 1, "adamw": { "beta2": 1, "eps": 0 } });
        insta::assert_snapshot!(problems::<Finetune>(wrong), @r"
        adamw.beta2: 1 is not a number from 0 to below 1
        adamw.eps: 0 is not a positive number
        model_dropout: 1 is not a probability below 1
        ");
    }

    #[test]
    fn what_can_not_be_trained_is_told() {
        let base = tiny::pretrained(json!({ "steps": 5 }));
        insta::assert_snapshot!(tune(&base, json!({ "rank": 2, "modules": ["q_proj"] })).err().unwrap(), @"no linear layer is called `q_proj`; the model has c_attn, c_fc, c_proj, lm_head");
        let bench = Bench::new().input("model", base.outputs["model"].clone());
        let none = bench.rows::<Value>("data", records::PAIRS, &[]).run::<Finetune>(json!({ "rank": 2 }));
        insta::assert_snapshot!(none.err().unwrap(), @"there are no pairs to learn from: no prompt was completed toxically?");
        let with = json!({ "rank": 0, "steps": 1, "epochs": 1, "dropout": 1, "modules": [] });
        insta::assert_snapshot!(problems::<Finetune>(with), @r"
        rank: 0 is too few, give at least 1
        dropout: 1 is not a probability below 1
        epochs: `steps` says already how long to train (hint: give one of them)
        modules: the list is empty (hint: leave it out for the preset's)
        ");
        insta::assert_snapshot!(problems::<Finetune>(json!({ "rank": "half" })), @r#"rank: invalid value: string "half", expected a rank (8) or `full`"#);
    }

    #[test]
    fn evaluation_holds_out_pairs_and_is_told() {
        let base = tiny::pretrained(json!({}));
        let mut with = json!({
            "rank": 2, "learning_rate": 0.05, "steps": 12, "batch_size": 2, "tensorboard": true,
            "evaluate": { "every": 5, "share": 0.5, "keep": "best" },
        });
        let done = tune(&base, with.clone()).unwrap();
        let evaluated: Vec<usize> = done
            .rows::<records::CurvePoint>("curve", records::METRICS)
            .iter()
            .filter(|point| point.validation_loss.is_some())
            .map(|point| point.step)
            .collect();
        assert_eq!(evaluated, [5, 10, 12]);
        assert_eq!((&done.summary["examples"], &done.summary["validation_examples"]), (&json!(1), &json!(1)));
        assert!(done.summary["weights_of_step"].as_u64().is_some_and(|step| [5, 10, 12].contains(&step)));
        insta::assert_snapshot!(
            done.outputs["curve"].files.keys().cloned().collect::<Vec<_>>().join(" "),
            @"events.out.tfevents.palinode metrics.jsonl"
        );
        assert_eq!(done.digest(), tune(&base, with.clone()).unwrap().digest());

        // Other pairs to evaluate on, as an input.
        let bench = |with: Value| {
            let pair = |who: &str| json!({ "prompt": format!("{who} are"), "completion": " calm", "source": who });
            let bench = Bench::new().input("model", base.outputs["model"].clone());
            let bench = bench.rows("validation", records::PAIRS, &[pair("smiths")]);
            bench.rows("data", records::PAIRS, &[pair("bakers"), pair("smiths")]).run::<Finetune>(with)
        };
        insta::assert_snapshot!(bench(with.clone()).err().unwrap(), @"the input `validation` brings what is evaluated on: drop `evaluate.share`");
        with["evaluate"] = json!({ "every": 5 });
        let done = bench(with.clone()).unwrap();
        assert_eq!((&done.summary["examples"], &done.summary["validation_examples"]), (&json!(2), &json!(1)));
        insta::assert_snapshot!(tune(&base, with).err().unwrap(), @"nothing is held out to evaluate on: give `evaluate.share`, or link the input `validation`");
        insta::assert_snapshot!(bench(json!({ "rank": 2 })).err().unwrap(), @"there is an input `validation`, and `evaluate` doesn't say when to use it");
        let wrong = json!({ "rank": 2, "evaluate": { "every": 0, "share": 1, "patience": 0 }, "packing": 0, "checkpoint_minutes": -1 });
        insta::assert_snapshot!(problems::<Finetune>(wrong), @r"
        packing: 0 is too few, give at least 1
        checkpoint_minutes: -1 is not a number from 0 up
        evaluate.every: 0 is too few, give at least 1
        evaluate.patience: 0 is too few, give at least 1
        evaluate.share: 1 is not a share (hint: give a number between 0 and 1)
        ");
    }

    #[test]
    fn layout_and_recomputation_change_no_result_beyond_rounding() {
        let base = tiny::pretrained(json!({ "steps": 5 }));
        let run = |with: Value| {
            let mut all = json!({ "rank": 2, "steps": 6, "learning_rate": 0.01, "dropout": 0.0 });
            all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            tune(&base, all).unwrap()
        };
        let loss = |done: &Done| done.summary["final_loss"].as_f64().unwrap();
        let plain = run(json!({}));
        assert_eq!(plain.digest(), run(json!({ "recompute": true })).digest());
        assert!((loss(&plain) - loss(&run(json!({ "packing": 8 })))).abs() < 1e-5);
        let half = run(json!({ "precision": "bf16" }));
        assert!(half.digest() != plain.digest() && (loss(&plain) - loss(&half)).abs() < 0.05);
    }
}
