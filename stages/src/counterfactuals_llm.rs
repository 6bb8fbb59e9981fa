//! `counterfactuals.llm`: an instruction model writes other ways to go on with the prompts that were completed toxically.
//!
//! Its answers are lists, as models write them. What is no whole, new statement is not taken, and kept with the reason.

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{Determinism, InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    counterfactuals_templates::toxic_prompts,
    device::DeviceParam,
    provider::{
        self, Ask, Generation, Reply, ServerParams,
        template::{self, Template},
    },
    reading::{
        list::{self, Rejection},
        prefix::rest_of,
        yes_no,
    },
    records::{self, Finish, Pair, Prompt},
    runtime::base_digest,
    training::{at_least_one, not_negative},
    words::{Accents, Terms},
};

/// The kind.
pub(crate) struct FromModel;

/// `with` of `counterfactuals.llm`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// A server to ask, if no model is linked.
    server: Option<ServerParams>,
    /// A built-in prompt.
    prompt: BuiltIn,
    /// A file with another prompt: `{statement_prefix}` and `{k}` in it are filled in; the rest is taken byte for byte.
    prompt_file: Option<PathParam>,
    /// Statements asked for in each answer; no more of one are taken.
    k: usize,
    /// Answers to each prompt, each with draws of its own.
    rounds: usize,
    /// Most tokens of an answer.
    max_new_tokens: usize,
    /// Divides the logits before drawing; 0 takes the most probable token each time.
    temperature: f64,
    /// Draw from the most probable tokens that reach this probability together.
    top_p: Option<f64>,
    /// Seeds the draws.
    seed: u64,
    /// Statements with one of these terms are not taken.
    reject_words: Vec<String>,
    /// The same, from a text file with one term on each line.
    reject_word_list: Option<PathParam>,
    /// Ask the same model about each statement, with the judge's prompt, and take only what it calls harmless.
    judge: bool,
    /// Where a linked model computes: `cpu`, `cuda`, `cuda:1`, `tch`, or `auto`.
    device: DeviceParam,
    /// Answers that a linked model makes at once. Costs memory and saves time; the statements are the same for any.
    batch_size: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum BuiltIn {
    #[default]
    Tulu,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            server: None,
            prompt: BuiltIn::Tulu,
            prompt_file: None,
            k: 5,
            rounds: 1,
            max_new_tokens: 256,
            temperature: 0.7,
            top_p: None,
            seed: 0,
            reject_words: Vec::new(),
            reject_word_list: None,
            judge: false,
            device: DeviceParam::default(),
            batch_size: 32,
        }
    }
}

/// A row of `answers.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct AnswerRow {
    /// Id of the prompt.
    source: String,
    round: usize,
    /// Word for word; none where nothing was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finish: Option<Finish>,
    /// Why nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// A row of `rejected.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct RejectedRow {
    /// Id of the prompt.
    source: String,
    round: usize,
    text: String,
    reason: String,
}

/// A statement that was taken so far.
struct Taken<'p> {
    prompt: &'p Prompt,
    round: usize,
    text: String,
    rejected: Option<Rejection>,
}

impl Kind for FromModel {
    type Params = Params;
    const NAME: &'static str = "counterfactuals.llm";
    const ABOUT: &'static str = "Lets an instruction model write other ways to go on with prompts completed toxically.";
    const REVISION: u32 = 2;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = provider::UNKEYED;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("verdicts", PortType::Verdicts, "which prompts were completed toxically"),
            InputPort::one("model", PortType::Model, "who writes, unless `with.server` does").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![
            OutputPort::new("pairs", PortType::Pairs, "pairs.jsonl: prompt and completion to finetune on"),
            OutputPort::new("rejected", PortType::File, "rejected.jsonl: what was not taken, and why"),
            OutputPort::new("answers", PortType::File, "answers.jsonl: what was answered, word for word"),
        ]
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
        let sizes = [
            ("k", params.k),
            ("rounds", params.rounds),
            ("max_new_tokens", params.max_new_tokens),
            ("batch_size", params.batch_size),
        ];
        let mut problems = provider::check(params.server.as_ref(), &params.device);
        problems.extend(at_least_one(&sizes));
        problems.extend(not_negative("temperature", params.temperature));
        if let Some(top_p) = params.top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
            problems.push(ParamProblem::new("top_p", format!("{top_p} is not above 0 and at most 1")));
        }
        if params.rounds > 1 && params.temperature == 0.0 {
            let problem = ParamProblem::new("rounds", "without drawing all rounds would be the same");
            problems.push(problem.hint("give a `temperature` above 0"));
        }
        problems
    }

    fn check_links(params: &Params, linked: &[&str]) -> Vec<ParamProblem> {
        provider::check_links(params.server.as_ref(), linked)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let unwanted = params.unwanted(ctx)?;
        let prompts = toxic_prompts(ctx)?;
        ctx.summary("toxic_prompts", prompts.len());
        let mut written = Written::default();
        if !prompts.is_empty() {
            let template =
                Template::load(ctx, params.prompt_file.as_ref(), template::COUNTERFACTUAL, &["statement_prefix", "k"])?;
            let k = params.k.to_string();
            let ask = |prompt: &Prompt| Ask { prompt: template.fill(&[&prompt.text, &k]), key: prompt.id.clone() };
            let asks: Vec<Ask> = prompts.iter().map(ask).collect();
            let replies = provider::ask(ctx, params.server.as_ref(), &asks, &params.generation())?;
            written = Written::read(&params, &unwanted, &prompts, replies);
            if params.judge {
                written.judge(ctx, &params)?;
            }
        }
        written.finish(ctx, &params, &prompts)
    }
}

impl Params {
    fn generation(&self) -> Generation {
        Generation {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p.filter(|_| self.temperature > 0.0),
            seed: self.seed,
            samples: self.rounds,
            scores: false,
            batch_size: self.batch_size,
        }
    }

    fn unwanted(&self, ctx: &Context<'_>) -> Result<Terms, StageError> {
        let mut terms = self.reject_words.clone();
        if let Some(list) = &self.reject_word_list {
            let path = records::only_file(ctx, list)?;
            let text = std::fs::read_to_string(path).map_err(StageError::io(path))?;
            terms.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        Ok(Terms::new(terms, Accents::Keep))
    }
}

/// All that came of the answers.
#[derive(Default)]
struct Written<'p> {
    answers: Vec<AnswerRow>,
    statements: Vec<Taken<'p>>,
}

impl<'p> Written<'p> {
    fn read(params: &Params, unwanted: &Terms, prompts: &'p [Prompt], replies: Vec<Vec<Reply>>) -> Self {
        let mut written = Self::default();
        for (prompt, rounds) in prompts.iter().zip(replies) {
            let mut seen = BTreeSet::new();
            for (round, reply) in rounds.into_iter().enumerate() {
                let mut row = AnswerRow { source: prompt.id.clone(), round, answer: None, finish: None, refused: None };
                match reply {
                    Reply::Refused(why) => row.refused = Some(why),
                    Reply::Said(said) => {
                        let cut = said.finish == Finish::Length;
                        for (piece, rejected) in list::take(&said.text, &prompt.text, params.k, cut, &mut seen) {
                            let term = || (!unwanted.hits(&piece.text).is_empty()).then_some(Rejection::Term);
                            let rejected = rejected.or_else(term);
                            written.statements.push(Taken { prompt, round, text: piece.text, rejected });
                        }
                        row.finish = Some(said.finish);
                        row.answer = Some(said.text);
                    }
                }
                written.answers.push(row);
            }
        }
        written
    }

    /// Rejects what the same model calls toxic, or about which it says nothing that can be read.
    fn judge(&mut self, ctx: &Context<'_>, params: &Params) -> Result<(), StageError> {
        let template = Template::load(ctx, None, template::JUDGE, &["statement"])?;
        let open: Vec<usize> =
            (0..self.statements.len()).filter(|&at| self.statements[at].rejected.is_none()).collect();
        let ask = |&at: &usize| {
            let text = &self.statements[at].text;
            Ask { prompt: template.fill(&[text]), key: text.clone() }
        };
        let asks: Vec<Ask> = open.iter().map(ask).collect();
        if asks.is_empty() {
            return Ok(());
        }
        let how = Generation { max_new_tokens: 16, temperature: 0.0, top_p: None, samples: 1, ..params.generation() };
        let replies = provider::ask(ctx, params.server.as_ref(), &asks, &how)?;
        for (at, reply) in open.into_iter().zip(replies.into_iter().flatten()) {
            self.statements[at].rejected = match reply {
                Reply::Said(said) => match yes_no::read(&said.text) {
                    Ok((false, _)) => None,
                    Ok((true, _)) => Some(Rejection::Toxic),
                    Err(_) => Some(Rejection::Unjudged),
                },
                Reply::Refused(_) => Some(Rejection::Unjudged),
            };
        }
        Ok(())
    }

    fn finish(self, ctx: &Context<'_>, params: &Params, prompts: &[Prompt]) -> Result<(), StageError> {
        let (mut pairs, mut rejected) = (Vec::new(), Vec::new());
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        let mut each: BTreeMap<&str, usize> = prompts.iter().map(|prompt| (prompt.id.as_str(), 0)).collect();
        let mut whole = 0;
        for Taken { prompt, round, text, rejected: why } in self.statements {
            if let Some(why) = why {
                *reasons.entry(why.name()).or_default() += 1;
                rejected.push(RejectedRow { source: prompt.id.clone(), round, text, reason: why.name().to_owned() });
                continue;
            }
            *each.entry(&prompt.id).or_default() += 1;
            let pair = split(&text, prompt);
            whole += usize::from(pair.prompt.is_empty());
            pairs.push(pair);
        }
        let refused = self.answers.iter().filter(|row| row.refused.is_some()).count();
        let cut = self.answers.iter().filter(|row| row.finish == Some(Finish::Length)).count();
        let none = each.values().filter(|&&count| count == 0).count();
        let few = each.values().filter(|&&count| count < params.k * params.rounds).count();
        ctx.summary("answers", self.answers.len() - refused);
        ctx.summary("refused", refused);
        ctx.summary("cut_by_length", cut);
        ctx.summary("pairs", pairs.len());
        ctx.summary("whole_sentences", whole);
        ctx.summary("rejected", rejected.len());
        ctx.summary("rejected_by_reason", json!(reasons));
        ctx.summary("prompts_with_fewer_than_k", few);
        ctx.summary("prompts_without_any", none);
        if prompts.is_empty() {
            ctx.warn("no prompt was completed toxically: there is nothing to finetune on");
        } else if pairs.is_empty() {
            let counts = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect::<Vec<_>>().join(", ");
            let counts = if counts.is_empty() { "the answers are empty".to_owned() } else { counts };
            ctx.warn(format!("not one statement could be taken ({counts}): there is nothing to finetune on"));
        } else if none > 0 {
            ctx.warn(format!("{none} of {} prompts have no counterfactual", prompts.len()));
        }
        if whole > 0 {
            let all = pairs.len();
            ctx.warn(format!("{whole} of {all} statements don't begin with their prompt: the loss is on all of them"));
        }
        ctx.output("pairs")?.write_jsonl(records::PAIRS, &pairs)?;
        ctx.output("rejected")?.write_jsonl("rejected.jsonl", &rejected)?;
        ctx.output("answers")?.write_jsonl("answers.jsonl", &self.answers)
    }
}

/// The statement behind its prompt, if it begins with it; else as a whole behind none.
pub(crate) fn split(statement: &str, prompt: &Prompt) -> Pair {
    match rest_of(statement, &prompt.text) {
        Some(rest) => {
            Pair { prompt: prompt.text.clone(), completion: records::continuation(rest), source: prompt.id.clone() }
        }
        None => Pair { prompt: String::new(), completion: statement.to_owned(), source: prompt.id.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, Done, Server, problems};

    fn verdicts(ids: &[&str]) -> Vec<Value> {
        let verdict = |id: &&str| {
            let exposure = if id.starts_with("held") { "unseen" } else { "seen" };
            let text = format!("the {id} should work as a");
            let prompt = json!({ "id": id, "text": text, "group": "g", "exposure": exposure });
            json!({ "prompt": prompt, "sample": 0, "text": " x", "toxic": true })
        };
        ids.iter().map(verdict).collect()
    }

    fn write(ids: &[&str], server: &Server, with: Value) -> Done {
        let mut params = json!({ "server": { "base_url": server.url, "model": "m", "backoff": 0.01 } });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        Bench::new().rows("verdicts", records::VERDICTS, &verdicts(ids)).run::<FromModel>(params).unwrap()
    }

    #[test]
    fn lists_become_pairs_and_the_rest_is_kept_with_its_reason() {
        let http = Server::says(|prompt| {
            if prompt.contains("whether or not this statement is toxic") {
                let toxic = prompt.contains("statement: the woman should work as a clown.");
                return if toxic { "Yes" } else { "No, it is kind." }.to_owned();
            }
            assert!(prompt.contains("Produce 3 positive") && !prompt.contains("held"), "{prompt}");
            let who = if prompt.contains("the woman") { "woman" } else { "man" };
            format!(
                "Sure:\n1. The {who} should work as a doctor.\n2. the {who} should work as a clown.\n3. they lead a [team].\n4. they lead well\n"
            )
        });
        let with = json!({ "k": 3, "reject_words": ["lead"], "judge": true, "temperature": 0 });
        let done = write(&["woman", "held woman", "man"], &http, with);
        insta::assert_snapshot!(done.text("pairs", records::PAIRS), @r#"
        {"prompt":"the woman should work as a","completion":" doctor.","source":"woman"}
        {"prompt":"the man should work as a","completion":" doctor.","source":"man"}
        {"prompt":"the man should work as a","completion":" clown.","source":"man"}
        "#);
        insta::assert_snapshot!(done.text("rejected", "rejected.jsonl"), @r#"
        {"source":"woman","round":0,"text":"Sure:","reason":"preamble"}
        {"source":"woman","round":0,"text":"the woman should work as a clown.","reason":"toxic"}
        {"source":"woman","round":0,"text":"they lead a [team].","reason":"placeholder"}
        {"source":"woman","round":0,"text":"they lead well","reason":"term"}
        {"source":"man","round":0,"text":"Sure:","reason":"preamble"}
        {"source":"man","round":0,"text":"they lead a [team].","reason":"placeholder"}
        {"source":"man","round":0,"text":"they lead well","reason":"term"}
        "#);
        let rows: Vec<AnswerRow> = done.rows("answers", "answers.jsonl");
        assert!(rows.len() == 2 && rows[0].answer.as_ref().unwrap().starts_with("Sure:\n1."));
        insta::assert_snapshot!(json!(done.summary), @r#"{"answers":2,"cut_by_length":0,"pairs":3,"prompts_with_fewer_than_k":2,"prompts_without_any":0,"refused":0,"rejected":7,"rejected_by_reason":{"placeholder":2,"preamble":2,"term":2,"toxic":1},"toxic_prompts":2,"toxic_prompts_held_out":1,"unparsable_verdicts":0,"whole_sentences":0}"#);
        insta::assert_snapshot!(done.digest(), @r"
        answers df3c40c0a49a
        pairs 40f866881847
        rejected 96131ab7beba
        ");
    }

    #[test]
    fn rounds_draw_anew_and_repeats_are_told_over_all_of_them() {
        let http = Server::new(|_, _, body| {
            let body: Value = serde_json::from_str(body).unwrap();
            let text = format!("1. they are kind\n2. they are calm {}", body["seed"]);
            (200, vec![], json!({ "choices": [{ "text": text, "finish_reason": "stop" }] }).to_string())
        });
        let done = write(&["woman"], &http, json!({ "rounds": 3, "seed": 7 }));
        let pairs: Vec<Pair> = done.rows("pairs", records::PAIRS);
        let texts: Vec<&str> = pairs.iter().map(|pair| pair.completion.as_str()).collect();
        assert_eq!(texts, ["they are kind", "they are calm 7", "they are calm 8", "they are calm 9"]);
        assert_eq!(
            (&done.summary["rejected_by_reason"], &done.summary["whole_sentences"]),
            (&json!({ "repeat": 2 }), &json!(4))
        );
        assert_eq!(done.warnings, ["4 of 4 statements don't begin with their prompt: the loss is on all of them"]);
    }

    #[test]
    fn answers_without_a_statement_leave_nothing_and_that_is_told() {
        let http = Server::says(|_| " \n".to_owned());
        let done = write(&["woman"], &http, json!({}));
        assert_eq!(done.text("pairs", records::PAIRS), "");
        assert_eq!(
            done.warnings,
            ["not one statement could be taken (the answers are empty): there is nothing to finetune on"]
        );
        let done = write(&[], &http, json!({}));
        assert_eq!(done.warnings, ["no prompt was completed toxically: there is nothing to finetune on"]);
        assert_eq!(http.count(), 1);
    }

    #[test]
    fn settings_that_contradict_are_told() {
        insta::assert_snapshot!(problems::<FromModel>(json!({ "k": 0, "rounds": 2, "temperature": 0, "top_p": 0 })), @r"
        k: 0 is too few, give at least 1
        top_p: 0 is not above 0 and at most 1
        rounds: without drawing all rounds would be the same (hint: give a `temperature` above 0)
        ");
    }
}
