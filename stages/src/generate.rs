//! `generate`: a model continues prompts.

mod lengths;

use std::{collections::BTreeMap, fmt};

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{Beams, EarlyStopping, GenerateOptions, ModelError, Sampling, generate::end_of_text};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use lengths::OnLongPrompt;

use crate::{
    device::{self, DEVICE, DeviceParam},
    random,
    records::{self, Completion, Finish, Prompt, Split},
    runtime::{base_digest, base_files, failed, load, numerics, on_cpus},
    share,
    training::{self, at_least_one, positive},
};

/// The kind.
pub(crate) struct Generate;

/// `with` of `generate`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Continuations of each prompt.
    n: usize,
    /// Most tokens of a continuation.
    max_new_tokens: usize,
    /// Draw tokens by their probability; else take the most probable one (then `n` is 1, and the seed says nothing).
    do_sample: bool,
    /// Divides the logits before drawing.
    temperature: f64,
    /// Draw from the k most probable tokens.
    top_k: Option<usize>,
    /// Draw from the most probable tokens that reach this probability together.
    top_p: Option<f64>,
    /// Draw from the tokens that have at least this part of the most probable one's probability.
    min_p: Option<f64>,
    /// Makes tokens that came up before less likely, if above 1; those of the prompt count.
    repetition_penalty: Option<f64>,
    /// Beam search: as many continuations of a prompt are followed at once, and the `n` best are told. Without drawing.
    num_beams: usize,
    /// Beams are ranked by the sum of their log-probabilities over their length to this power: above 0 for longer ones.
    length_penalty: f64,
    /// When a beam search that could go on ends: `true` as soon as `num_beams` are finished, `false` when the best one
    /// that goes on looks no better than the worst of them, `never` when none can become better.
    early_stopping: Early,
    /// Texts that end a continuation, even within a token; they are not part of it.
    stop: Vec<String>,
    /// Of prompts that are longer than the model's context: `error` refuses them; `truncate_left` leaves out the beginning
    /// of those that leave no room for `max_new_tokens` (but for the token that begins a text), and counts them.
    #[serde(skip_serializing_if = "training::is_default")]
    on_long_prompt: OnLongPrompt,
    /// Tell the log-probability of each token, by the model's own distribution (before temperature, cuts and penalty).
    logprobs: bool,
    /// Continue only the prompts of these splits (`validation`, `test`); by default all.
    splits: Vec<Split>,
    /// Seeds the draws, which depend on seed, prompt, sample and place alone.
    seed: u64,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    device: DeviceParam,
    /// Most continuations made at once. Costs memory and saves time; the completions are the same for any.
    batch_size: usize,
}

/// transformers' `early_stopping`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Early {
    #[default]
    False,
    True,
    Never,
}

impl Serialize for Early {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Early::False => serializer.serialize_bool(false),
            Early::True => serializer.serialize_bool(true),
            Early::Never => serializer.serialize_str("never"),
        }
    }
}

// By hand: an untagged enum can't say what it expected.
impl<'de> Deserialize<'de> for Early {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Early;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or `never`")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Early, E> {
                Ok(if value { Early::True } else { Early::False })
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Early, E> {
                match value {
                    "never" => Ok(Early::Never),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Early {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Early".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": [true, false, "never"] })
    }
}

impl Default for Params {
    fn default() -> Self {
        Params {
            n: 1,
            device: DeviceParam::default(),
            max_new_tokens: 20,
            do_sample: true,
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: Early::False,
            stop: Vec::new(),
            on_long_prompt: OnLongPrompt::Error,
            logprobs: false,
            splits: Vec::new(),
            seed: 0,
            batch_size: 64,
        }
    }
}

impl Kind for Generate {
    type Params = Params;
    const NAME: &'static str = "generate";
    const ABOUT: &'static str = "Lets a model continue prompts.";
    const REVISION: u32 = 1;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = &["batch_size", DEVICE];

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("model", PortType::Model, "who continues"),
            InputPort::one("prompts", PortType::Prompts, "what is continued"),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "completions.jsonl: one continuation a line, in the order of the prompts";
        vec![OutputPort::new("completions", PortType::Completions, about)]
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
            ("n", params.n),
            ("max_new_tokens", params.max_new_tokens),
            ("top_k", params.top_k.unwrap_or(1)),
            ("num_beams", params.num_beams),
            ("batch_size", params.batch_size),
        ];
        let mut problems = at_least_one(&sizes);
        problems.extend(params.device.problem());
        problems.extend(
            positive("temperature", params.temperature).map(|problem| problem.hint("for no draw: `do_sample: false`")),
        );
        if let Some(top_p) = params.top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
            problems.push(ParamProblem::new("top_p", format!("{top_p} is not above 0 and at most 1")));
        }
        problems.extend(params.min_p.and_then(|min_p| share("min_p", min_p)));
        problems.extend(params.repetition_penalty.and_then(|penalty| positive("repetition_penalty", penalty)));
        if !params.length_penalty.is_finite() {
            problems.push(ParamProblem::new("length_penalty", format!("{} is not a number", params.length_penalty)));
        }
        if params.stop.iter().any(String::is_empty) {
            problems.push(ParamProblem::new("stop", "an empty text would end every continuation"));
        }
        let beams = params.num_beams > 1;
        let early = params.early_stopping != Early::False;
        let idle_without_beams = [("length_penalty", params.length_penalty != 1.0), ("early_stopping", early)];
        let idle_without_draws = [
            ("temperature", params.temperature != 1.0),
            ("top_k", params.top_k.is_some()),
            ("top_p", params.top_p.is_some()),
            ("min_p", params.min_p.is_some()),
        ];
        let idle = |fields: &[(&str, bool)], why: &str| {
            let set = fields.iter().filter(|(_, set)| *set);
            set.map(|(field, _)| ParamProblem::new(field, format!("says nothing {why}"))).collect::<Vec<_>>()
        };
        if !beams {
            problems.extend(idle(&idle_without_beams, "without beams (`num_beams` above 1)"));
        }
        match (params.do_sample, beams) {
            (true, true) => {
                let problem = ParamProblem::new("num_beams", "beam search doesn't draw");
                problems.push(problem.hint("add `do_sample: false`, or drop `num_beams`"));
            }
            (true, false) => {}
            (false, true) if params.n > params.num_beams => {
                let message = format!("{} beams can't give {} continuations", params.num_beams, params.n);
                problems.push(ParamProblem::new("n", message).hint("raise `num_beams`"));
            }
            (false, false) if params.n > 1 => {
                let message = format!("without drawing all {} continuations would be the same", params.n);
                problems.push(ParamProblem::new("n", message).hint("drop `do_sample: false`, or `n`"));
            }
            (false, _) => {}
        }
        if !params.do_sample {
            problems.extend(idle(&idle_without_draws, "with `do_sample: false`"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let prompts = prompts(&params, ctx)?;
        let completions = on_cpus(ctx, || complete(&params, &prompts, ctx))?;
        let finished = |finish: Finish| completions.iter().filter(|completion| completion.finish == finish).count();
        ctx.summary("prompts", prompts.len());
        ctx.summary("completions", completions.len());
        ctx.summary("tokens", completions.iter().map(|completion| completion.tokens).sum::<usize>());
        ctx.summary("ended_by_the_model", finished(Finish::Eos));
        ctx.summary("ended_by_a_stop_text", finished(Finish::Stop));
        ctx.summary("ended_by_length", finished(Finish::Length));
        let empty = completions.iter().filter(|completion| completion.text.trim().is_empty()).count();
        ctx.summary("empty", empty);
        ctx.output("completions")?.write_jsonl(records::COMPLETIONS, &completions)
    }
}

fn prompts(params: &Params, ctx: &Context<'_>) -> Result<Vec<Prompt>, StageError> {
    let mut prompts: Vec<Prompt> = records::rows(ctx.input("prompts")?, records::PROMPTS)?;
    if !params.splits.is_empty() {
        if let Some(prompt) = prompts.iter().find(|prompt| prompt.split.is_none()) {
            let message = format!("`splits` is given, but the prompt `{}` is in none", prompt.id);
            return Err(StageError::failed(message));
        }
        prompts.retain(|prompt| prompt.split.is_some_and(|split| params.splits.contains(&split)));
    }
    if prompts.is_empty() {
        return Err(StageError::failed("there is no prompt to continue"));
    }
    Ok(prompts)
}

fn complete(params: &Params, prompts: &[Prompt], ctx: &Context<'_>) -> Result<Vec<Completion>, StageError> {
    let (files, model, tokenizer) = load(ctx)?;
    let start = |prompt: &Prompt| {
        let mut start = palinode_models::Prompt::text(&prompt.text, &tokenizer)?;
        start.key = random::key(&[&prompt.id]);
        Ok(start)
    };
    let mut starts: Vec<_> = prompts.iter().map(start).collect::<Result<_, ModelError>>().map_err(failed)?;
    let lengths = (model.config().context, params.max_new_tokens);
    let cut = params.on_long_prompt.fit(ctx, prompts, &mut starts, lengths, tokenizer.special().bos)?;
    let options = GenerateOptions {
        max_new_tokens: params.max_new_tokens,
        samples: params.n,
        stop: params.stop.clone(),
        eos: end_of_text(&base_files(&files), model.config(), &tokenizer).map_err(failed)?,
        sampling: Sampling {
            temperature: if params.do_sample { params.temperature } else { 0.0 },
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty.filter(|&penalty| penalty != 1.0),
        },
        beams: (params.num_beams > 1).then_some(Beams {
            beams: params.num_beams,
            length_penalty: params.length_penalty,
            early_stopping: match params.early_stopping {
                Early::False => EarlyStopping::Heuristic,
                Early::True => EarlyStopping::AtOnce,
                Early::Never => EarlyStopping::Never,
            },
        }),
        logprobs: params.logprobs,
        seed: params.seed,
        batch_size: params.batch_size,
        layout: None,
    };
    let progress = |done: usize, total: usize| ctx.progress(done, total, "completion").is_ok();
    let made = palinode_models::generate(&model, &tokenizer, &starts, &options, progress).map_err(failed)?;
    let full = made.iter().filter(|completion| completion.context_full).count();
    ctx.summary("cut_by_the_context", full);
    if full > 0 {
        ctx.warn(format!("{full} completions have fewer than `max_new_tokens` tokens: the model's context is full"));
    }
    let row = |made: palinode_models::Completion| {
        let finish = match made.finish {
            palinode_models::Finish::Eos => Finish::Eos,
            palinode_models::Finish::Stop => Finish::Stop,
            palinode_models::Finish::Length => Finish::Length,
        };
        Completion {
            prompt: prompts[made.prompt].clone(),
            sample: made.sample as u32,
            text: made.text,
            tokens: made.tokens.len() - usize::from(finish == Finish::Eos),
            finish,
            context_full: made.context_full,
            prompt_tokens_cut: cut[made.prompt],
            logprobs: made.logprobs,
            score: made.score,
        }
    };
    Ok(made.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests;
