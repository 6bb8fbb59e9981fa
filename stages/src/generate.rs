//! `generate`: a model continues prompts.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{GenerateOptions, ModelError, Sampling, generate::end_of_text};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    random,
    records::{self, Completion, Finish, Prompt, Split},
    runtime::{base_digest, base_files, failed, load, numerics, on_cpus},
    training::{at_least_one, positive},
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
    /// Texts that end a continuation; they are not part of it.
    stop: Vec<String>,
    /// Continue only the prompts of these splits (`validation`, `test`); by default all.
    splits: Vec<Split>,
    /// Seeds the draws, which depend on seed, prompt, sample and place alone.
    seed: u64,
    /// Most continuations made at once. Costs memory and saves time; the completions are the same for any.
    batch_size: usize,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            n: 1,
            max_new_tokens: 20,
            do_sample: true,
            temperature: 1.0,
            top_k: None,
            top_p: None,
            stop: Vec::new(),
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
    const UNKEYED: &'static [&'static str] = &["batch_size"];

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

    fn numerics() -> BTreeMap<String, Value> {
        numerics()
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let sizes = [
            ("n", params.n),
            ("max_new_tokens", params.max_new_tokens),
            ("top_k", params.top_k.unwrap_or(1)),
            ("batch_size", params.batch_size),
        ];
        let mut problems = at_least_one(&sizes);
        problems.extend(
            positive("temperature", params.temperature).map(|problem| problem.hint("for no draw: `do_sample: false`")),
        );
        if let Some(top_p) = params.top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
            problems.push(ParamProblem::new("top_p", format!("{top_p} is not above 0 and at most 1")));
        }
        if params.stop.iter().any(String::is_empty) {
            problems.push(ParamProblem::new("stop", "an empty text would end every continuation"));
        }
        if !params.do_sample {
            if params.n > 1 {
                let message = format!("without drawing all {} continuations would be the same", params.n);
                problems.push(ParamProblem::new("n", message).hint("drop `do_sample: false`, or `n`"));
            }
            let set = [
                ("temperature", params.temperature != 1.0),
                ("top_k", params.top_k.is_some()),
                ("top_p", params.top_p.is_some()),
            ];
            let idle = set.into_iter().filter(|(_, set)| *set);
            problems.extend(idle.map(|(field, _)| ParamProblem::new(field, "says nothing with `do_sample: false`")));
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
    let starts: Vec<_> = prompts.iter().map(start).collect::<Result<_, ModelError>>().map_err(failed)?;
    let options = GenerateOptions {
        max_new_tokens: params.max_new_tokens,
        samples: params.n,
        stop: params.stop.clone(),
        eos: end_of_text(&base_files(&files), model.config(), &tokenizer).map_err(failed)?,
        sampling: Sampling {
            temperature: if params.do_sample { params.temperature } else { 0.0 },
            top_k: params.top_k,
            top_p: params.top_p,
            ..Sampling::greedy()
        },
        seed: params.seed,
        batch_size: params.batch_size,
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
        assert_eq!(Of::<Generate>::NEW.unkeyed(), ["batch_size"]);
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
