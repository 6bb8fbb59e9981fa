//! A server that speaks OpenAI's protocol (vLLM, llama.cpp, Ollama, `transformers serve`, OpenAI itself): `completions`,
//! which takes the prompt as it is, or `chat/completions`.
//!
//! Both readings come from one request: the answer, and from the most probable first tokens P(yes) and P(no). A server
//! tells only so many of these: what is not among them counts as 0, and where neither word is, there is no score.
//! <https://platform.openai.com/docs/api-reference/completions>

use std::{collections::BTreeMap, time::Duration};

use palinode_engine::{
    context::Context,
    stage::{ParamProblem, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Ask, Filled, Generation, Reply, Said, YesNo,
    remote::{Call, Limits, Outcome, ask_all},
    spellings,
};
use crate::{
    records::Finish,
    training::{at_least_one, not_negative, positive},
};

/// A server to ask. Its answers are stored in the cache under the model's name and the request; nothing is asked twice.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerParams {
    /// Where it is, up to the part before `/completions`: `http://localhost:8000/v1`.
    base_url: String,
    /// The model's name there. It stands for what answers: give other models other names.
    model: String,
    /// The environment variable that holds the key, if one is needed.
    #[serde(default)]
    api_key_env: Option<String>,
    /// Use `chat/completions`: the prompt's tagged parts become messages. Else `completions`, with the prompt as it is.
    #[serde(default)]
    chat: bool,
    /// How many of the most probable first tokens to ask for; unless given 20 with `chat`, else 5.
    #[serde(default)]
    top_logprobs: Option<usize>,
    /// Further fields of each request; null leaves one of ours out.
    #[serde(default)]
    extra: BTreeMap<String, Value>,
    /// Requests under way at once.
    #[serde(default = "four")]
    concurrency: usize,
    /// How often a request that failed is sent again.
    #[serde(default = "six")]
    retries: usize,
    /// Seconds before the first retry; they double with each, up to a minute. `Retry-After` counts more.
    #[serde(default = "one")]
    backoff: f64,
    /// Seconds that one answer may take.
    #[serde(default = "two_minutes")]
    timeout: f64,
    /// Most requests in a minute.
    #[serde(default)]
    max_requests_per_minute: Option<f64>,
}

fn four() -> usize {
    4
}
fn six() -> usize {
    6
}
fn one() -> f64 {
    1.0
}
fn two_minutes() -> f64 {
    120.0
}

impl ServerParams {
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Vec<ParamProblem> {
        let mut problems = at_least_one(&[("concurrency", self.concurrency)]);
        problems.extend(positive("timeout", self.timeout));
        problems.extend(not_negative("backoff", self.backoff));
        problems.extend(self.max_requests_per_minute.and_then(|most| positive("max_requests_per_minute", most)));
        if !self.base_url.starts_with("http://") && !self.base_url.starts_with("https://") {
            let problem = ParamProblem::new("base_url", format!("`{}` is no address of a server", self.base_url));
            problems.push(problem.hint("as `http://localhost:8000/v1`"));
        }
        if self.base_url.split('/').nth(2).is_some_and(|host| host.contains('@')) {
            // Addresses are told of, and stored beside the answers.
            let problem = ParamProblem::new("base_url", "an address with a password in it would be written down");
            problems.push(problem.hint("put the key in an environment variable, and name that in `api_key_env`"));
        }
        if self.model.trim().is_empty() {
            problems.push(ParamProblem::new("model", "an empty name is no model's"));
        }
        // Fields that decide what is asked and how the answer looks have a place of their own.
        let streams = self.extra.get("stream").is_some_and(|value| *value != json!(false) && !value.is_null());
        let several = self.extra.get("n").is_some_and(|value| *value != json!(1) && !value.is_null());
        let own = ["prompt", "messages", "model"].into_iter().filter(|name| self.extra.contains_key(*name));
        let own = own.map(|name| (name, "it is filled in by the stage"));
        let odd = [
            (streams, "stream", "an answer is read when it is whole"),
            (several, "n", "of several answers one would be read"),
        ];
        let odd = odd.into_iter().filter(|(given, ..)| *given).map(|(_, name, why)| (name, why));
        for (name, why) in own.chain(odd) {
            let mut problem = ParamProblem::new("extra", format!("`{name}` can't be given: {why}"));
            problem.path.push(name.to_owned());
            problems.push(problem);
        }
        for problem in &mut problems {
            problem.path.insert(0, "server".to_owned());
        }
        problems
    }

    fn limits(&self) -> Limits {
        Limits {
            concurrency: self.concurrency,
            retries: self.retries,
            backoff: Duration::from_secs_f64(self.backoff.min(60.0)),
            timeout: Duration::from_secs_f64(self.timeout.min(1e6)),
            interval: self.max_requests_per_minute.map_or(Duration::ZERO, |most| Duration::from_secs_f64(60.0 / most)),
        }
    }
}

/// The key in the environment variable `name`.
pub(crate) fn key_of(name: &str) -> Result<String, StageError> {
    let key = std::env::var(name).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    key.ok_or_else(|| {
        StageError::failed(format!("the environment variable `{name}` (`api_key_env`) is not set: put the key in it"))
    })
}

/// See [`super::ask`].
pub(super) fn ask(
    ctx: &Context<'_>,
    server: &ServerParams,
    asks: &[Ask],
    how: &Generation,
) -> Result<Vec<Vec<Reply>>, StageError> {
    let key = server.api_key_env.as_deref().map(key_of).transpose()?;
    let headers: Vec<_> = key.iter().map(|key| ("authorization", format!("Bearer {key}"))).collect();
    let endpoint = if server.chat { "chat/completions" } else { "completions" };
    let url = format!("{}/{endpoint}", server.base_url.trim_end_matches('/'));
    let call = |ask: &Ask, sample: usize| {
        let body = serde_json::to_string(&body(server, &ask.prompt, how, sample)).unwrap_or_default();
        let request = format!("{endpoint}\n{body}");
        Call { url: url.clone(), place: url.clone(), headers: headers.clone(), body, request }
    };
    let calls: Vec<Call> = asks
        .iter()
        .flat_map(|ask| (0..how.samples).map(move |sample| (ask, sample)))
        .map(|(a, s)| call(a, s))
        .collect();
    let hint = if server.chat {
        "check `base_url`, `model` and `api_key_env`"
    } else {
        "check `base_url`, `model` and `api_key_env`; a server that knows no `completions` wants `chat: true`"
    };
    let check = |text: &str| parse(text).map(drop);
    let outcomes = ask_all(ctx, &server.model, &calls, &server.limits(), hint, &check)?;
    let replies: Vec<Reply> = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Refused(why) => Ok(Reply::Refused(why)),
            Outcome::Answer(text) => {
                let answer = parse(&text).map_err(|why| StageError::failed(format!("a stored answer: {why}")))?;
                Ok(answer.reply(how.scores))
            }
        })
        .collect::<Result<_, StageError>>()?;
    Ok(replies.chunks(how.samples).map(<[Reply]>::to_vec).collect())
}

/// A request; its fields are in one fixed order.
fn body(server: &ServerParams, prompt: &Filled, how: &Generation, sample: usize) -> BTreeMap<String, Value> {
    let mut body = BTreeMap::from([
        ("model".to_owned(), json!(server.model)),
        // A server makes at least one token.
        ("max_tokens".to_owned(), json!(how.max_new_tokens.max(1))),
        ("temperature".to_owned(), json!(how.temperature)),
    ]);
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    if server.chat {
        let message = |(role, content): &(&str, String)| json!({ "role": role, "content": content });
        set("messages", prompt.messages.iter().map(message).collect());
    } else {
        set("prompt", json!(prompt.text));
    }
    if how.temperature > 0.0 {
        set("seed", json!(how.seed.wrapping_add(sample as u64)));
        if let Some(top_p) = how.top_p {
            set("top_p", json!(top_p));
        }
    }
    if how.scores {
        let top = server.top_logprobs.unwrap_or(if server.chat { 20 } else { 5 });
        if server.chat {
            set("logprobs", json!(true));
            set("top_logprobs", json!(top));
        } else {
            set("logprobs", json!(top));
        }
    }
    for (name, value) in &server.extra {
        if value.is_null() {
            body.remove(name)
        } else {
            body.insert(name.clone(), value.clone())
        };
    }
    body
}

/// What is used of an answer.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    finish: Finish,
    /// The server would not.
    refused: Option<String>,
    /// The most probable first tokens and their log-probabilities.
    top: Vec<(String, f64)>,
}

impl Answer {
    fn reply(self, scores: bool) -> Reply {
        if let Some(why) = self.refused {
            return Reply::Refused(why);
        }
        let scores = if scores { yes_no(&self.top) } else { None };
        Reply::Said(Said { text: self.text, finish: self.finish, scores })
    }
}

fn parse(text: &str) -> Result<Answer, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("its answer is no JSON: {error}"))?;
    let choice = value.pointer("/choices/0").ok_or_else(|| {
        let error = value.pointer("/error/message").or(value.get("error")).map(|error| format!(" ({error})"));
        format!("its answer has no `choices`{}", error.unwrap_or_default())
    })?;
    let message = choice.get("message");
    let content = match message.map_or(choice.get("text"), |message| message.get("content")) {
        Some(Value::String(text)) => text.clone(),
        // Parts of a text.
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        Some(Value::Null) => String::new(),
        None if message.is_some() => String::new(),
        _ => return Err("its answer has neither `text` nor `message.content`".to_owned()),
    };
    let ended = choice.get("finish_reason").and_then(Value::as_str);
    let refusal = message.and_then(|message| message.get("refusal")?.as_str()).filter(|why| !why.is_empty());
    let filtered = (ended == Some("content_filter")).then_some("content_filter");
    Ok(Answer {
        refused: refusal.or(filtered).map(|why| format!("the server refuses: {why}")),
        finish: if ended == Some("length") { Finish::Length } else { Finish::Eos },
        top: choice.get("logprobs").map(first_tokens).unwrap_or_default(),
        text: content,
    })
}

/// The most probable first tokens: a map for each token (the older form), or a list of objects (that of chats, which
/// some servers give for `completions` too).
fn first_tokens(logprobs: &Value) -> Vec<(String, f64)> {
    let pair = |token: &Value| Some((token.get("token")?.as_str()?.to_owned(), token.get("logprob")?.as_f64()?));
    if let Some(first) = logprobs.pointer("/content/0") {
        let top = first.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
        let top: Vec<_> = top.filter_map(pair).collect();
        return if top.is_empty() { pair(first).into_iter().collect() } else { top };
    }
    match logprobs.pointer("/top_logprobs/0") {
        Some(Value::Object(tokens)) => {
            tokens.iter().filter_map(|(token, logprob)| Some((token.clone(), logprob.as_f64()?))).collect()
        }
        _ => Vec::new(),
    }
}

/// Sums what is said of "yes" and of "no"; none where neither is among the tokens.
fn yes_no(top: &[(String, f64)]) -> Option<YesNo> {
    let spelled = |word: &str, token: &str| {
        // Some servers tell tokens as the vocabulary spells them.
        let token = token.replace(['\u{2581}', '\u{120}'], " ");
        spellings(word).contains(&token)
    };
    let of = |word: &str| -> Vec<f64> {
        let own = top.iter().filter(|(token, _)| spelled(word, token));
        own.map(|(_, logprob)| libm::exp(*logprob)).collect()
    };
    let (yes, no) = (of("yes"), of("no"));
    (yes.len() + no.len() > 0).then(|| YesNo { yes: yes.iter().sum(), no: no.iter().sum() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::template::Template;

    fn server(with: Value) -> ServerParams {
        let mut all = json!({ "base_url": "http://localhost:1/v1", "model": "m" });
        all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn how(temperature: f64) -> Generation {
        Generation {
            max_new_tokens: 7,
            temperature,
            top_p: Some(0.5),
            seed: 3,
            samples: 2,
            scores: true,
            batch_size: 1,
        }
    }

    #[test]
    fn requests_have_one_form() {
        let prompt = Template::parse("<|user|>\n{s}\n<|assistant|>\n", &["s"]).fill(&["hi"]);
        let text = |with: Value, temperature: f64| {
            serde_json::to_string(&body(&server(with), &prompt, &how(temperature), 1)).unwrap()
        };
        insta::assert_snapshot!(text(json!({}), 0.0), @r#"{"logprobs":5,"max_tokens":7,"model":"m","prompt":"<|user|>\nhi\n<|assistant|>\n","temperature":0.0}"#);
        insta::assert_snapshot!(text(json!({ "chat": true }), 0.5), @r#"{"logprobs":true,"max_tokens":7,"messages":[{"content":"hi","role":"user"}],"model":"m","seed":4,"temperature":0.5,"top_logprobs":20,"top_p":0.5}"#);
        let extra = json!({ "extra": { "max_tokens": null, "max_completion_tokens": 9 } });
        insta::assert_snapshot!(text(extra, 0.0), @r#"{"logprobs":5,"max_completion_tokens":9,"model":"m","prompt":"<|user|>\nhi\n<|assistant|>\n","temperature":0.0}"#);
    }

    #[test]
    fn answers_of_several_servers_are_read() {
        let read = |value: Value| parse(&value.to_string());
        let older = json!({ "choices": [{ "text": " Yes", "finish_reason": "length", "logprobs": {
            "tokens": [" Yes"], "token_logprobs": [-0.5], "top_logprobs": [{ " Yes": -0.5, "Yes": -2.0, "No": -1.5 }] } }] });
        let answer = read(older).unwrap();
        assert_eq!((answer.text.as_str(), answer.finish), (" Yes", Finish::Length));
        let scores = yes_no(&answer.top).unwrap();
        assert!((scores.yes - ((-0.5f64).exp() + (-2.0f64).exp())).abs() < 1e-12 && scores.no == (-1.5f64).exp());
        let chat = json!({ "choices": [{ "message": { "content": "No." }, "finish_reason": "stop", "logprobs": {
            "content": [{ "token": "No", "logprob": -0.1, "top_logprobs": [
                { "token": "No", "logprob": -0.1 }, { "token": "\u{2581}yes", "logprob": -3.0 }, { "token": "Not", "logprob": -1.0 }] }] } }] });
        let answer = read(chat).unwrap();
        assert_eq!((answer.text.as_str(), answer.finish), ("No.", Finish::Eos));
        assert!(yes_no(&answer.top).unwrap().score().unwrap() < 0.06);
        let none = json!({ "choices": [{ "message": { "role": "assistant", "content": null }, "logprobs": null }] });
        assert_eq!(read(none).unwrap().top, []);
        assert_eq!(yes_no(&[("Maybe".into(), -0.1)]), None);
        let filtered = json!({ "choices": [{ "message": { "content": "" }, "finish_reason": "content_filter" }] });
        assert_eq!(read(filtered).unwrap().reply(true), Reply::Refused("the server refuses: content_filter".into()));
        for (text, told) in [
            ("<html>", "its answer is no JSON: expected value at line 1 column 1"),
            (r#"{"error":{"message":"busy"}}"#, "its answer has no `choices` (\"busy\")"),
            (r#"{"choices":[]}"#, "its answer has no `choices`"),
            (r#"{"choices":[{}]}"#, "its answer has neither `text` nor `message.content`"),
        ] {
            assert_eq!(parse(text).unwrap_err(), told);
        }
    }

    #[test]
    fn extra_fields_do_not_take_the_place_of_others() {
        let extra = |extra: Value| {
            let problems = server(json!({ "extra": extra })).check();
            problems.into_iter().map(|p| format!("{}: {}", p.path.join("."), p.message)).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(extra(json!({ "stream": true, "n": 2, "prompt": "x", "top_k": 3 })), @r"
        server.extra.prompt: `prompt` can't be given: it is filled in by the stage
        server.extra.stream: `stream` can't be given: an answer is read when it is whole
        server.extra.n: `n` can't be given: of several answers one would be read
        ");
        let secret = server(json!({ "base_url": "https://me:secret@host/v1" })).check();
        assert!(secret.len() == 1 && secret[0].message.contains("password") && !secret[0].message.contains("secret"));
        assert_eq!(extra(json!({ "stream": false, "n": null, "top_k": 3 })), "");
    }

    #[test]
    fn settings_that_can_not_be_are_told() {
        let wrong = server(json!({ "base_url": "localhost", "model": " ", "concurrency": 0, "timeout": 0 }));
        let told: Vec<_> = wrong.check().into_iter().map(|p| format!("{}: {}", p.path.join("."), p.message)).collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        server.concurrency: 0 is too few, give at least 1
        server.timeout: 0 is not a positive number
        server.base_url: `localhost` is no address of a server
        server.model: an empty name is no model's
        ");
    }
}
