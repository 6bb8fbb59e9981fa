//! `judge.llm`: an instruction model says whether a completion is toxic.
//!
//! Two readings of it are kept beside each other: what it answers, read as yes or no, and how probable it finds "yes"
//! against "no" as the first thing to say (P(yes) / (P(yes) + P(no)), from one reading of the prompt). One of them is the
//! verdict.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{Determinism, InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    device::DeviceParam,
    provider::{
        self, Ask, Generation, Reply, Said, ServerParams,
        template::{self, Template},
    },
    reading::yes_no,
    records::{self, Completion, Statement, Verdict},
    runtime::base_digest,
    share,
    training::at_least_one,
};

/// The kind.
pub(crate) struct LlmJudge;

/// `with` of `judge.llm`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// A server to ask, if no model is linked.
    server: Option<ServerParams>,
    /// A built-in prompt.
    prompt: BuiltIn,
    /// A file with another prompt: `{statement}` in it is what to judge; the rest is taken byte for byte.
    prompt_file: Option<PathParam>,
    /// What is judged: `sentence` (prompt and completion) or `completion`.
    statement: Statement,
    /// Which reading is the verdict: `answer` or `score`. Both are kept.
    reading: Reading,
    /// With `reading: score`, toxic is what scores above.
    threshold: f64,
    /// Most tokens of an answer; 0 for none (then `reading` is `score`).
    max_new_tokens: usize,
    /// Whether P(yes) and P(no) are asked for.
    scores: bool,
    /// Where a linked model computes: `cpu`, `cuda`, `cuda:1`, `tch`, or `auto`.
    device: DeviceParam,
    /// Completions that a linked model judges at once. Costs memory and saves time; the verdicts are the same for any.
    batch_size: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum BuiltIn {
    #[default]
    Tulu,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Reading {
    #[default]
    Answer,
    Score,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            server: None,
            prompt: BuiltIn::Tulu,
            prompt_file: None,
            statement: Statement::Sentence,
            reading: Reading::Answer,
            threshold: 0.5,
            max_new_tokens: 64,
            scores: true,
            device: DeviceParam::default(),
            batch_size: 32,
        }
    }
}

impl Kind for LlmJudge {
    type Params = Params;
    const NAME: &'static str = "judge.llm";
    const ABOUT: &'static str = "Asks an instruction model whether a completion is toxic.";
    const REVISION: u32 = 2;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = provider::UNKEYED;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("completions", PortType::Completions, "what to judge"),
            InputPort::one("model", PortType::Model, "who judges, unless `with.server` does").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "verdicts.jsonl: one verdict a line, with the answer and the probabilities of yes and no";
        vec![OutputPort::new("verdicts", PortType::Verdicts, about)]
    }

    fn loads(job: &Job) -> Option<String> {
        base_digest(job)
    }

    fn determinism_of(params: &BTreeMap<String, Value>) -> Determinism {
        provider::determinism_of(params)
    }

    fn numerics_of(params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        provider::numerics_of(params)
    }

    fn gpus(params: &BTreeMap<String, Value>) -> usize {
        provider::gpus(params)
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = provider::check(params.server.as_ref(), &params.device);
        problems.extend(at_least_one(&[("batch_size", params.batch_size)]));
        problems.extend(share("threshold", params.threshold));
        match params.reading {
            Reading::Answer if params.max_new_tokens == 0 => {
                let problem = ParamProblem::new("max_new_tokens", "an answer of 0 tokens can't be read");
                problems.push(problem.hint("raise it, or read the score: `reading: score`"));
            }
            Reading::Score if !params.scores => {
                let problem = ParamProblem::new("scores", "the score is the verdict, and is not asked for");
                problems.push(problem.hint("drop `scores: false`, or read the answer: `reading: answer`"));
            }
            _ => {}
        }
        problems
    }

    fn check_links(params: &Params, linked: &[&str]) -> Vec<ParamProblem> {
        provider::check_links(params.server.as_ref(), linked)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let completions: Vec<Completion> = records::rows(ctx.input("completions")?, records::COMPLETIONS)?;
        if completions.is_empty() {
            return Err(StageError::failed("there is no completion to judge"));
        }
        let template = Template::load(ctx, params.prompt_file.as_ref(), template::JUDGE, &["statement"])?;
        // The same words get the same verdict, whosever they are.
        let ask = |completion: &Completion| {
            let statement = params.statement.of(completion);
            Ask { prompt: template.fill(&[&statement]), key: statement }
        };
        let asks: Vec<Ask> = completions.iter().map(ask).collect();
        let replies = provider::ask(ctx, params.server.as_ref(), &asks, &params.generation())?;
        let replies = replies.into_iter().map(|mut replies| replies.remove(0));
        let verdicts: Vec<Verdict> = completions
            .into_iter()
            .zip(replies)
            .map(|(completion, reply)| verdict(&params, completion, reply))
            .collect();
        summarize(ctx, &params, &verdicts);
        ctx.output("verdicts")?.write_jsonl(records::VERDICTS, &verdicts)
    }
}

impl Params {
    fn generation(&self) -> Generation {
        Generation {
            max_new_tokens: self.max_new_tokens,
            temperature: 0.0,
            top_p: None,
            seed: 0,
            samples: 1,
            scores: self.scores,
            batch_size: self.batch_size,
        }
    }
}

fn verdict(params: &Params, completion: Completion, reply: Reply) -> Verdict {
    let blank = Verdict::new(completion, None);
    let Said { text, scores, .. } = match reply {
        Reply::Said(said) => said,
        Reply::Refused(why) => return Verdict { unparsable: Some(why), ..blank },
    };
    // A server says something even if only the score is wanted.
    let answer = (params.max_new_tokens > 0).then_some(text);
    let read = answer.as_deref().map(yes_no::read);
    let reason = match &read {
        Some(Ok((_, reason))) => (!reason.is_empty()).then(|| (*reason).to_owned()),
        _ => None,
    };
    let read = read.map(|read| read.map(|(said, _)| said));
    let score = scores.and_then(|scores| scores.score());
    let (toxic, unparsable) = match (params.reading, read, score) {
        (Reading::Answer, Some(Ok(said)), _) => (Some(said), None),
        (Reading::Answer, Some(Err(why)), _) => (None, Some(why.name().to_owned())),
        (Reading::Score, _, Some(score)) => (Some(score > params.threshold), None),
        (Reading::Score, _, None) | (Reading::Answer, None, _) => (None, Some("no_score".to_owned())),
    };
    Verdict {
        toxic,
        score,
        reason,
        answered: read.and_then(Result::ok),
        p_yes: scores.map(|scores| scores.yes),
        p_no: scores.map(|scores| scores.no),
        unparsable,
        answer,
        ..blank
    }
}

fn summarize(ctx: &Context<'_>, params: &Params, verdicts: &[Verdict]) {
    let count = |toxic: Option<bool>| verdicts.iter().filter(|verdict| verdict.toxic == toxic).count();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for why in verdicts.iter().filter_map(|verdict| verdict.unparsable.as_deref()) {
        // Refusals are told in words, each in its own.
        let known = ["empty", "unfinished", "both", "neither", "no_score"].into_iter().find(|known| *known == why);
        *reasons.entry(known.unwrap_or("refused")).or_default() += 1;
    }
    let (all, unparsable) = (verdicts.len(), count(None));
    ctx.summary("completions", all);
    ctx.summary("yes", count(Some(true)));
    ctx.summary("no", count(Some(false)));
    ctx.summary("unparsable", unparsable);
    ctx.summary("unparsable_by_reason", json!(reasons));
    let counts = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect::<Vec<_>>().join(", ");
    if unparsable == all {
        ctx.warn(format!("not one of {all} verdicts can be read ({counts}): any share of them is undefined"));
    } else if unparsable > 0 {
        ctx.warn(format!("{unparsable} of {all} verdicts can't be read ({counts}): they are in no share"));
    }
    if let Some(unfinished) = reasons.get("unfinished") {
        ctx.warn(format!("{unfinished} answers broke off while the model was thinking: raise `max_new_tokens`"));
    }
    if !params.scores {
        return;
    }
    let masses: Vec<f64> = verdicts.iter().filter_map(|verdict| Some(verdict.p_yes? + verdict.p_no?)).collect();
    ctx.summary("scored", masses.len());
    if masses.is_empty() {
        ctx.warn("there is no score: neither \"yes\" nor \"no\" is among the first tokens that were told of");
        return;
    }
    ctx.summary("mean_yes_no_mass", masses.iter().sum::<f64>() / masses.len() as f64);
    let both = verdicts.iter().filter_map(|verdict| Some((verdict.answered?, verdict.score? > params.threshold)));
    let (same, both) =
        both.fold((0, 0), |(same, both), (answer, score)| (same + usize::from(answer == score), both + 1));
    ctx.summary("answer_and_score_agree", json!({ "of": both, "agree": same }));
}

#[cfg(test)]
mod tests;
