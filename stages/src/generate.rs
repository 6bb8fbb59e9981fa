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
mod tests {
    use palinode_engine::stage::{Of, StageKind as _};
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, Done, problems, tiny};

    fn run(model: &Done, with: Value, cpus: usize) -> Result<Done, StageError> {
        let prompts = ["bakers are", "smiths are", "smiths", "bakers are always"].map(|text| {
            json!({ "id": text, "text": text, "group": "g", "split": if text == "smiths" { "test" } else { "validation" } })
        });
        let bench = Bench::new().input("model", model.outputs["model"].clone()).cpus(cpus);
        bench.rows("prompts", records::PROMPTS, &prompts).run::<Generate>(with)
    }

    #[test]
    fn a_model_says_what_it_learned() {
        let model = tiny::pretrained(json!({}));
        let with = json!({ "do_sample": false, "max_new_tokens": 4, "splits": ["validation"] });
        let rows: Vec<Completion> = run(&model, with, 1).unwrap().rows("completions", records::COMPLETIONS);
        let lines: Vec<_> =
            rows.iter().map(|row| format!("{}|{} {:?}", row.prompt.text, row.text, row.finish)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        bakers are| tardy Eos
        smiths are| calm Eos
        bakers are always| tardy Eos
        ");
    }

    #[test]
    fn batch_and_threads_change_nothing() {
        let model = tiny::pretrained(json!({ "steps": 5 }));
        let bytes = |batch: usize, cpus: usize| {
            let with = json!({ "n": 5, "max_new_tokens": 6, "batch_size": batch, "seed": 3 });
            run(&model, with, cpus).unwrap().text("completions", records::COMPLETIONS)
        };
        let one = bytes(1, 1);
        for (batch, cpus) in [(3, 1), (16, 2)] {
            assert_eq!(bytes(batch, cpus), one);
        }
        let other = json!({ "n": 5, "max_new_tokens": 6, "seed": 4 });
        assert_ne!(run(&model, other, 1).unwrap().text("completions", records::COMPLETIONS), one);
        assert_eq!(Of::<Generate>::NEW.unkeyed(), ["batch_size", "device"]);
    }

    #[test]
    fn a_completion_does_not_depend_on_other_prompts() {
        let model = tiny::pretrained(json!({ "steps": 5 }));
        let rows = |with: Value| -> Vec<Completion> {
            run(&model, with, 1).unwrap().rows("completions", records::COMPLETIONS)
        };
        let all = rows(json!({}));
        let some = rows(json!({ "splits": ["test"] }));
        assert!(some.len() == 1 && all.contains(&some[0]));
    }

    #[test]
    fn beams_are_told_with_their_scores_and_logprobs() {
        let model = tiny::pretrained(json!({ "steps": 5 }));
        let with = json!({ "do_sample": false, "num_beams": 3, "n": 2, "max_new_tokens": 3, "logprobs": true });
        let rows: Vec<Completion> = run(&model, with, 1).unwrap().rows("completions", records::COMPLETIONS);
        assert_eq!(rows.len(), 8);
        for pair in rows.chunks(2) {
            assert_eq!((pair[0].sample, pair[1].sample, pair[0].prompt.id == pair[1].prompt.id), (0, 1, true));
            assert!(pair[0].score >= pair[1].score);
            for row in pair {
                let logprobs = row.logprobs.as_ref().unwrap();
                assert_eq!(logprobs.len(), row.tokens + usize::from(row.finish == Finish::Eos));
                let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
                assert!((mean - row.score.unwrap()).abs() < 1e-9, "length_penalty is 1");
            }
        }
        let plain = run(&model, json!({ "max_new_tokens": 3 }), 1).unwrap().text("completions", records::COMPLETIONS);
        for field in ["logprobs", "score", "context_full", "prompt_tokens_cut"] {
            assert!(!plain.contains(field), "{field} is told only where there is something to tell");
        }
    }

    #[test]
    fn the_end_of_the_context_is_told() {
        let model = tiny::pretrained(json!({ "steps": 5 }));
        let words = ["bakers"; 64].join(" ");
        let prompts = |text: &str| [json!({ "id": "it", "text": text, "group": "g" })];
        let bench = |text: &str| {
            let bench = Bench::new().input("model", model.outputs["model"].clone());
            bench.rows("prompts", records::PROMPTS, &prompts(text))
        };
        let done = bench("bakers are").run::<Generate>(json!({ "max_new_tokens": 500, "seed": 1, "min_p": 0.0 }));
        let rows: Vec<Completion> = done.unwrap().rows("completions", records::COMPLETIONS);
        assert_eq!(rows[0].context_full, rows[0].finish == Finish::Length);
        let error = {
            let long = json!({ "id": words.clone(), "text": words.clone(), "group": "g" });
            let bench = Bench::new().input("model", model.outputs["model"].clone());
            bench.rows("prompts", records::PROMPTS, &[long]).run::<Generate>(json!({})).err().unwrap().to_string()
        };
        assert!(error.len() < 300, "{error}");
        let error = bench(&words).run::<Generate>(json!({})).err().unwrap().to_string();
        assert!(error.starts_with("1 of 1 prompts have more tokens than the model's context of "), "{error}");
        let hint = "shorten or drop them, or take `on_long_prompt: truncate_left`";
        assert!(error.ends_with(&format!(": `it` (65); {hint}")), "{error}");
    }

    #[test]
    fn the_beginning_of_long_prompts_is_left_out_by_choice() {
        let model = tiny::pretrained(json!({}));
        let words = format!("{} smiths are", ["bakers are always"; 20].join(" "));
        let prompts = [("long", words.as_str()), ("short", "smiths are")]
            .map(|(id, text)| json!({ "id": id, "text": text, "group": "g" }));
        let run = |with: Value| {
            let bench = Bench::new().input("model", model.outputs["model"].clone());
            bench.rows("prompts", records::PROMPTS, &prompts).run::<Generate>(with).unwrap()
        };
        let with = json!({ "do_sample": false, "max_new_tokens": 3, "on_long_prompt": "truncate_left" });
        let done = run(with);
        let rows: Vec<Completion> = done.rows("completions", records::COMPLETIONS);
        // 63 tokens, of which the context of 8 has room for 5 beside three new ones.
        assert_eq!((rows[0].prompt_tokens_cut, rows[1].prompt_tokens_cut), (58, 0));
        assert_eq!((&done.summary["prompts_truncated"], &done.summary["prompt_tokens_cut"]), (&json!(1), &json!(58)));
        assert!(!rows[0].context_full && rows[1].text == " calm", "{rows:?}");
        assert_eq!(rows[0].prompt.text, words);
        assert_eq!(done.summary["cut_by_the_context"], 0);
        // More new tokens than there is room for: as many as fit.
        let done = run(json!({ "do_sample": false, "max_new_tokens": 50, "on_long_prompt": "truncate_left" }));
        assert_eq!(done.rows::<Completion>("completions", records::COMPLETIONS)[0].prompt_tokens_cut, 61);
    }

    #[test]
    fn settings_of_beams_that_contradict_are_told() {
        let with = json!({ "num_beams": 2, "n": 3, "do_sample": false, "min_p": 2, "repetition_penalty": -1 });
        insta::assert_snapshot!(problems::<Generate>(with), @r"
        min_p: 2 is not a share (hint: give a number from 0 to 1)
        repetition_penalty: -1 is not a positive number
        n: 2 beams can't give 3 continuations (hint: raise `num_beams`)
        min_p: says nothing with `do_sample: false`
        ");
        let with = json!({ "num_beams": 0, "length_penalty": 2, "early_stopping": "never" });
        insta::assert_snapshot!(problems::<Generate>(with), @r"
        num_beams: 0 is too few, give at least 1
        length_penalty: says nothing without beams (`num_beams` above 1)
        early_stopping: says nothing without beams (`num_beams` above 1)
        ");
        insta::assert_snapshot!(problems::<Generate>(json!({ "num_beams": 4 })), @"num_beams: beam search doesn't draw (hint: add `do_sample: false`, or drop `num_beams`)");
        insta::assert_snapshot!(problems::<Generate>(json!({ "early_stopping": "now" })), @r#"early_stopping: invalid value: string "now", expected true, false or `never`"#);
    }

    #[test]
    fn settings_that_contradict_are_told() {
        let with = json!({ "do_sample": false, "n": 3, "top_k": 0, "top_p": 2, "temperature": 0, "stop": [""] });
        insta::assert_snapshot!(problems::<Generate>(with), @r"
        top_k: 0 is too few, give at least 1
        temperature: 0 is not a positive number (hint: for no draw: `do_sample: false`)
        top_p: 2 is not above 0 and at most 1
        stop: an empty text would end every continuation
        n: without drawing all 3 continuations would be the same (hint: drop `do_sample: false`, or `n`)
        temperature: says nothing with `do_sample: false`
        top_k: says nothing with `do_sample: false`
        top_p: says nothing with `do_sample: false`
        ");
    }
}
