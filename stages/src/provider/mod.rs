//! Whom kinds ask: our own models, or any server that speaks OpenAI's protocol. Both give the same: for each prompt its
//! continuations, and how probable "yes" and "no" are as the first thing said.
//!
//! | file | what for |
//! |---|---|
//! | `template` | prompts with gaps, and the prompts of the study |
//! | `own` | a model at the input port `model` |
//! | `openai` | requests and answers of a server |
//! | `remote` | sending them: many at once, again where it failed, never twice what is stored |

mod openai;
mod own;
pub(crate) mod remote;
pub(crate) mod template;

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    stage::{Determinism, ParamProblem, StageError},
};
use serde_json::Value;

pub(crate) use self::{
    openai::{ServerParams, key_of},
    template::Filled,
};
use crate::{device, records::Finish, runtime::numerics};

/// Fields of a kind that asks that can't change what is answered. What a server answers is filed under its model's name:
/// an address is a place.
pub(crate) const UNKEYED: &[&str] = &[
    "batch_size",
    "device",
    "server.base_url",
    "server.api_key_env",
    "server.concurrency",
    "server.retries",
    "server.backoff",
    "server.timeout",
    "server.max_requests_per_minute",
];

const BOTH: &str = "answers come from `server` and from the input `model`: give one";
const NOBODY: &str = "nobody is there to answer: give `server`, or link the input `model`";

/// Whether there is exactly one who is asked.
pub(crate) fn check_links(server: Option<&ServerParams>, linked: &[&str]) -> Vec<ParamProblem> {
    match (server, linked.contains(&"model")) {
        (Some(_), true) => vec![ParamProblem::new("server", BOTH)],
        (None, false) => vec![ParamProblem::of_all(NOBODY)],
        _ => Vec::new(),
    }
}

/// How to answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Generation {
    /// Most tokens of an answer; 0 for none, only scores.
    pub(crate) max_new_tokens: usize,
    /// 0 takes the most probable token each time.
    pub(crate) temperature: f64,
    pub(crate) top_p: Option<f64>,
    pub(crate) seed: u64,
    /// Answers to each prompt, each with its own draws.
    pub(crate) samples: usize,
    /// Whether P(yes) and P(no) are wanted.
    pub(crate) scores: bool,
    /// Of own models: prompts that are read at once.
    pub(crate) batch_size: usize,
}

/// A prompt to answer.
pub(crate) struct Ask {
    /// What its draws are keyed by.
    pub(crate) key: String,
    pub(crate) prompt: Filled,
}

/// What came of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    Said(Said),
    /// It can't be answered: too long, or the server refuses to; in words.
    Refused(String),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) finish: Finish,
    /// As the first thing said, if asked for and known.
    pub(crate) scores: Option<YesNo>,
}

/// Probabilities of "yes" and "no", summed over ways to spell them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct YesNo {
    pub(crate) yes: f64,
    pub(crate) no: f64,
}

impl YesNo {
    /// P(yes) among both; none if neither has any probability.
    pub(crate) fn score(self) -> Option<f64> {
        let mass = self.yes + self.no;
        (mass > 0.0).then(|| self.yes / mass)
    }
}

/// The ways to spell a word that are summed over.
fn spellings(word: &str) -> [String; 4] {
    let (first, rest) = word.split_at(1);
    let upper = format!("{}{rest}", first.to_uppercase());
    [format!(" {upper}"), upper.clone(), format!(" {word}"), word.to_owned()]
}

/// Asks the model at the port `model`, or the server; by prompt, then sample.
pub(crate) fn ask(
    ctx: &Context<'_>,
    server: Option<&ServerParams>,
    asks: &[Ask],
    how: &Generation,
) -> Result<Vec<Vec<Reply>>, StageError> {
    let replies = match (server, ctx.optional("model")?) {
        (Some(_), Some(_)) => Err(StageError::failed(BOTH)),
        (None, None) => Err(StageError::failed(NOBODY)),
        (Some(server), None) => openai::ask(ctx, server, asks, how),
        (None, Some(_)) => own::ask(ctx, asks, how),
    }?;
    let refusals: Vec<&String> = replies.iter().flatten().filter_map(refusal).collect();
    if let Some(first) = refusals.first() {
        let (refused, all) = (refusals.len(), asks.len() * how.samples.max(1));
        if refused == all {
            return Err(StageError::failed(format!("not one of {all} prompts could be answered; the first: {first}")));
        }
        ctx.warn(format!("{refused} of {all} prompts could not be answered; the first: {first}"));
    }
    Ok(replies)
}

fn refusal(reply: &Reply) -> Option<&String> {
    match reply {
        Reply::Refused(why) => Some(why),
        Reply::Said(_) => None,
    }
}

/// Whether an instance with these params asks a server.
fn is_remote(params: &BTreeMap<String, Value>) -> bool {
    params.get("server").is_some_and(|server| !server.is_null())
}

/// What an instance with these params promises.
pub(crate) fn determinism_of(params: &BTreeMap<String, Value>) -> Determinism {
    if is_remote(params) { Determinism::Observed } else { Determinism::Bitwise }
}

/// What beside the params can change bytes.
pub(crate) fn numerics_of(params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    if is_remote(params) { BTreeMap::new() } else { numerics(params) }
}

/// How many GPUs an instance with these params takes here.
pub(crate) fn gpus(params: &BTreeMap<String, Value>) -> usize {
    if is_remote(params) { 0 } else { device::gpus(params) }
}

/// What is wrong with the params that kinds that ask share.
pub(crate) fn check(server: Option<&ServerParams>, device: &device::DeviceParam) -> Vec<ParamProblem> {
    match server {
        Some(server) => server.check(),
        None => device.problem().into_iter().collect(),
    }
}
