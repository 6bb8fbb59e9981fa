//! `finetune`: a model learns pairs of prompt and completion, through low-rank adapters or with its own weights.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{
    CausalLm, ModelError, ModelFiles, Parameterized, Tokenizer,
    generate::end_of_text,
    lora, peft,
    train::{Example, Trained},
};
use serde_json::Value;

use crate::{
    device::{self, DEVICE},
    records::{self, Pair},
    runtime::{base_digest, base_files, failed, load, numerics, on_cpus},
    training::{self, Evaluate, VALIDATION, Watch, fit, learn},
};

pub(crate) use self::params::{Params, Preset, Rank, Targets};

mod params;

/// The kind.
pub(crate) struct Finetune;

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

#[cfg(test)]
mod tests;
