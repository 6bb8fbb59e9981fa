//! `judge.perspective`: Google's Perspective API scores how toxic readers would find a completion.
//!
//! Requests and answers of `comments:analyze`, version `v1alpha1`
//! (<https://developers.perspectiveapi.com/s/about-the-api-methods>). Scores that were got before can be taken from a file
//! instead.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use palinode_engine::{
    context::Context,
    stage::{Determinism, InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    provider::{
        key_of,
        remote::{Call, Limits, Outcome, ask_all},
    },
    records::{self, Completion, Statement, Verdict},
    share,
    training::{at_least_one, not_negative, positive},
};

/// The kind.
pub(crate) struct Perspective;

/// `with` of `judge.perspective`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What is scored, by the service's names; the first one decides.
    attributes: Vec<String>,
    /// Toxic is what scores above.
    threshold: f64,
    /// What is judged: `sentence` (prompt and completion) or `completion`.
    statement: Statement,
    /// The languages that the texts are in; none lets the service find out.
    languages: Vec<String>,
    /// Scores got before, in place of asking: a CSV or JSON Lines file with `text` and `score`, or a column for each
    /// attribute. Texts that aren't in it have no verdict.
    scores: Option<PathParam>,
    /// The environment variable that holds the key.
    api_key_env: String,
    /// Where the service is.
    base_url: String,
    /// Most requests in a second; the service gives everybody one.
    queries_per_second: f64,
    /// Requests under way at once.
    concurrency: usize,
    /// How often a request that failed is sent again.
    retries: usize,
    /// Seconds before the first retry; they double with each, up to a minute. `Retry-After` counts more.
    backoff: f64,
    /// Seconds that one answer may take.
    timeout: f64,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            attributes: vec!["TOXICITY".to_owned()],
            threshold: 0.5,
            statement: Statement::Sentence,
            languages: vec!["en".to_owned()],
            scores: None,
            api_key_env: "PERSPECTIVE_API_KEY".to_owned(),
            base_url: "https://commentanalyzer.googleapis.com".to_owned(),
            queries_per_second: 1.0,
            concurrency: 2,
            retries: 6,
            backoff: 1.0,
            timeout: 30.0,
        }
    }
}

/// Scores of a text by attribute, or why there are none.
type Scores = Result<BTreeMap<String, f64>, String>;

impl Kind for Perspective {
    type Params = Params;
    const NAME: &'static str = "judge.perspective";
    const ABOUT: &'static str = "Calls a completion toxic if the Perspective API, or a file of its scores, says so.";
    const REVISION: u32 = 1;
    const DETERMINISM: Determinism = Determinism::Observed;
    const UNKEYED: &'static [&'static str] =
        &["api_key_env", "base_url", "queries_per_second", "concurrency", "retries", "backoff", "timeout"];

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::one("completions", PortType::Completions, "what to judge")]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("verdicts", PortType::Verdicts, "verdicts.jsonl: one verdict a line, with its score")]
    }

    fn determinism_of(params: &BTreeMap<String, Value>) -> Determinism {
        let offline = params.get("scores").is_some_and(|scores| !scores.is_null());
        if offline { Determinism::Bitwise } else { Determinism::Observed }
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = at_least_one(&[("concurrency", params.concurrency)]);
        problems.extend(share("threshold", params.threshold));
        problems.extend(positive("queries_per_second", params.queries_per_second));
        problems.extend(positive("timeout", params.timeout));
        problems.extend(not_negative("backoff", params.backoff));
        if params.attributes.is_empty() {
            problems.push(ParamProblem::new("attributes", "there is nothing to score").hint("as `[TOXICITY]`"));
        }
        if !params.base_url.starts_with("http://") && !params.base_url.starts_with("https://") {
            problems.push(ParamProblem::new("base_url", format!("`{}` is no address of a server", params.base_url)));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let completions: Vec<Completion> = records::rows(ctx.input("completions")?, records::COMPLETIONS)?;
        if completions.is_empty() {
            return Err(StageError::failed("there is no completion to judge"));
        }
        let texts: Vec<String> = completions.iter().map(|completion| params.statement.of(completion)).collect();
        let scores = match &params.scores {
            Some(file) => known(&params, ctx, file, &texts)?,
            None => asked(&params, ctx, &texts)?,
        };
        let row = |(completion, scores): (Completion, Scores)| match scores {
            Err(why) => Verdict { unparsable: Some(why), ..Verdict::new(completion, None) },
            Ok(mut scores) => {
                let score = scores.remove(&params.attributes[0]);
                let toxic = score.map(|score| score > params.threshold);
                Verdict { score, scores, ..Verdict::new(completion, toxic) }
            }
        };
        let verdicts: Vec<Verdict> = completions.into_iter().zip(scores).map(row).collect();
        let count = |toxic: Option<bool>| verdicts.iter().filter(|verdict| verdict.toxic == toxic).count();
        let (all, missing) = (verdicts.len(), count(None));
        ctx.summary("completions", all);
        ctx.summary("toxic", count(Some(true)));
        ctx.summary("unparsable", missing);
        if missing > 0 {
            let first = verdicts.iter().find_map(|verdict| verdict.unparsable.as_deref()).unwrap_or_default();
            ctx.warn(format!("{missing} of {all} completions have no score ({first}): they are in no share"));
        }
        ctx.output("verdicts")?.write_jsonl(records::VERDICTS, &verdicts)
    }
}

/// A request, as the service's reference has it. Nothing of it is to be kept there.
fn body(params: &Params, text: &str) -> Value {
    let attributes: BTreeMap<&str, Value> = params.attributes.iter().map(|name| (name.as_str(), json!({}))).collect();
    let mut body = json!({
        "comment": { "text": text, "type": "PLAIN_TEXT" },
        "requestedAttributes": attributes,
        "doNotStore": true,
    });
    if !params.languages.is_empty() {
        body["languages"] = json!(params.languages);
    }
    body
}

fn asked(params: &Params, ctx: &Context<'_>, texts: &[String]) -> Result<Vec<Scores>, StageError> {
    let key = key_of(&params.api_key_env)?;
    let place = format!("{}/v1alpha1/comments:analyze", params.base_url.trim_end_matches('/'));
    // In a header, not in the address: addresses end up in logs.
    let headers = vec![("x-goog-api-key", key)];
    let call = |text: &String| {
        let body = body(params, text).to_string();
        let request = format!("comments:analyze\n{body}");
        Call { url: place.clone(), place: place.clone(), headers: headers.clone(), body, request }
    };
    let calls: Vec<Call> = texts.iter().filter(|text| !text.trim().is_empty()).map(call).collect();
    let limits = Limits {
        concurrency: params.concurrency,
        retries: params.retries,
        backoff: Duration::from_secs_f64(params.backoff.min(60.0)),
        timeout: Duration::from_secs_f64(params.timeout.min(1e6)),
        interval: Duration::from_secs_f64(1.0 / params.queries_per_second),
    };
    let hint = format!("is the key in `{}` one of a project for which the API is enabled?", params.api_key_env);
    let check = |text: &str| scores_in(text, &params.attributes).map(drop);
    let mut outcomes = ask_all(ctx, "perspective", &calls, &limits, &hint, &check)?.into_iter();
    let mut scores = Vec::with_capacity(texts.len());
    for text in texts {
        let outcome = if text.trim().is_empty() { None } else { outcomes.next() };
        scores.push(match outcome {
            None => Err("empty".to_owned()),
            Some(Outcome::Refused(why)) => Err(why),
            Some(Outcome::Answer(text)) => Ok(scores_in(&text, &params.attributes).map_err(StageError::failed)?),
        });
    }
    let refused = |scores: &&Scores| scores.as_ref().is_err_and(|why| why != "empty");
    match scores.iter().find(refused) {
        Some(Err(why)) if scores.iter().all(|scores| scores.is_err()) => {
            Err(StageError::failed(format!("not one of {} texts was scored; the first: {why}", scores.len())))
        }
        _ => Ok(scores),
    }
}

fn scores_in(answer: &str, attributes: &[String]) -> Result<BTreeMap<String, f64>, String> {
    let value: Value = serde_json::from_str(answer).map_err(|error| format!("its answer is no JSON: {error}"))?;
    let score = |name: &String| {
        let score = value.get("attributeScores").and_then(|scores| scores.get(name));
        let score = score.and_then(|score| score.pointer("/summaryScore/value")?.as_f64());
        let score = score.filter(|score| (0.0..=1.0).contains(score));
        Ok((
            name.clone(),
            score.ok_or_else(|| format!("its answer has no `attributeScores.{name}.summaryScore.value`"))?,
        ))
    };
    attributes.iter().map(score).collect()
}

/// Scores from a file.
fn known(params: &Params, ctx: &Context<'_>, file: &PathParam, texts: &[String]) -> Result<Vec<Scores>, StageError> {
    let path = records::only_file(ctx, file)?;
    let rows = records::table_of(path)?;
    let mut by_text: HashMap<&str, &BTreeMap<String, Value>> = HashMap::new();
    let mut differing = 0;
    for (line, row) in &rows {
        let Some(text) = row.get("text").and_then(Value::as_str) else {
            return Err(StageError::failed(format!("{}:{line}: it has no `text`", path.display())));
        };
        if by_text.insert(text.trim(), row).is_some_and(|before| before != row) {
            differing += 1;
        }
    }
    if differing > 0 {
        ctx.warn(format!("{differing} texts have several scores in the file: the last ones count"));
    }
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    let mut unknown = 0;
    let mut scores = Vec::with_capacity(texts.len());
    for text in texts {
        let Some(row) = by_text.get(text.trim()) else {
            unknown += 1;
            scores.push(Err("not in the file".to_owned()));
            continue;
        };
        let mut own = BTreeMap::new();
        for (at, name) in params.attributes.iter().enumerate() {
            let value = row.get(name).or_else(|| row.get("score").filter(|_| at == 0));
            let score = value.and_then(number).filter(|score| (0.0..=1.0).contains(score)).ok_or_else(|| {
                let found = value.map_or("nothing".to_owned(), Value::to_string);
                let column = if at == 0 { format!("`{name}` or `score`") } else { format!("`{name}`") };
                let path = path.display();
                StageError::failed(format!(
                    "{path}: {column} of the text {text:?} should be a number from 0 to 1, not {found}"
                ))
            })?;
            own.insert(name.clone(), score);
        }
        scores.push(Ok(own));
    }
    ctx.summary("scores_in_the_file", by_text.len());
    if by_text.is_empty() {
        return Err(StageError::failed(format!("{} holds no score", path.display())));
    }
    if unknown == texts.len() {
        let message = format!("none of {unknown} texts is among the {} of {}", by_text.len(), path.display());
        return Err(StageError::failed(format!(
            "{message}: `statement` says whether they are sentences or completions"
        )));
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bench, Done, Server, problems};

    fn completions(texts: &[&str]) -> Vec<Value> {
        let row = |(at, text): (usize, &&str)| {
            let prompt = json!({ "id": format!("p{at}"), "text": "bakers are", "group": "g" });
            json!({ "prompt": prompt, "sample": 0, "text": text, "tokens": 3, "finish": "eos" })
        };
        texts.iter().enumerate().map(row).collect()
    }

    /// PATH is set wherever tests run; the server only has to see what is in it.
    const KEY: &str = "PATH";

    fn judge(texts: &[&str], url: &str, with: Value) -> Result<Done, StageError> {
        let mut params = json!({ "base_url": url, "api_key_env": KEY, "backoff": 0.01, "queries_per_second": 200 });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        Bench::new().rows("completions", records::COMPLETIONS, &completions(texts)).run::<Perspective>(params)
    }

    fn score(value: f64) -> Value {
        let span = json!([{ "begin": 0, "end": 16, "score": { "value": value, "type": "PROBABILITY" } }]);
        json!({ "spanScores": span, "summaryScore": { "value": value, "type": "PROBABILITY" } })
    }

    #[test]
    fn requests_and_answers_are_those_of_the_service() {
        let http = Server::new(|number, head, body| {
            assert!(head.starts_with("POST /v1alpha1/comments:analyze "), "{head}");
            assert!(head.contains(&std::env::var(KEY).unwrap()), "the key is sent");
            if number == 0 {
                let error = json!({ "code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED" });
                return (429, vec![], json!({ "error": error }).to_string());
            }
            if body.contains("klingon") {
                let message = "Attribute TOXICITY does not support request languages: tlh";
                return (400, vec![], json!({ "error": { "code": 400, "message": message } }).to_string());
            }
            let toxic = if body.contains("tardy") { 0.9 } else { 0.5 };
            let scores = json!({ "TOXICITY": score(toxic), "INSULT": score(0.25) });
            (200, vec![], json!({ "attributeScores": scores, "languages": ["en"] }).to_string())
        });
        let with = json!({ "attributes": ["TOXICITY", "INSULT"], "statement": "completion", "concurrency": 1 });
        let done = judge(&[" tardy", " calm", " klingon", " "], &http.url, with).unwrap();
        insta::assert_snapshot!(http.requests.lock().unwrap()[0], @r#"{"comment":{"text":"tardy","type":"PLAIN_TEXT"},"doNotStore":true,"languages":["en"],"requestedAttributes":{"INSULT":{},"TOXICITY":{}}}"#);
        let rows: Vec<Verdict> = done.rows("verdicts", records::VERDICTS);
        let told: Vec<_> = rows.iter().map(|row| (row.toxic, row.score, row.unparsable.as_deref())).collect();
        assert_eq!(told[0], (Some(true), Some(0.9), None));
        assert_eq!(told[1], (Some(false), Some(0.5), None), "toxic is above the threshold");
        assert_eq!(rows[0].scores, BTreeMap::from([("INSULT".to_owned(), 0.25)]));
        assert_eq!((told[2].0, told[3].2), (None, Some("empty")));
        assert!(told[2].2.unwrap().starts_with("400 Bad Request: Attribute TOXICITY does not support"), "{told:?}");
        insta::assert_snapshot!(json!(done.summary), @r#"{"completions":4,"toxic":1,"unparsable":2}"#);
        assert_eq!(http.count(), 4);
    }

    #[test]
    fn what_was_scored_is_asked_for_once() {
        let answers = tempfile::tempdir().unwrap();
        let http = Server::new(|number, _, _| match number {
            0..3 => (200, vec![], json!({ "attributeScores": { "TOXICITY": score(0.1) } }).to_string()),
            _ => (403, vec![], json!({ "error": { "message": "Perspective API has not been used" } }).to_string()),
        });
        let run = |texts: &[&str]| {
            let params =
                json!({ "base_url": http.url, "api_key_env": KEY, "queries_per_second": 200, "concurrency": 1 });
            let bench = Bench::new().rows("completions", records::COMPLETIONS, &completions(texts));
            bench.answers(answers.path()).run::<Perspective>(params)
        };
        let error = run(&[" a", " b", " c", " d"]).err().unwrap().to_string().replace(&http.url, "URL");
        insta::assert_snapshot!(error, @"URL/v1alpha1/comments:analyze: 403 Forbidden: Perspective API has not been used: is the key in `PATH` one of a project for which the API is enabled?; 3 of 4 answers are stored: when it runs again it asks for the rest");
        assert_eq!(run(&[" c", " a", " b"]).unwrap().summary["toxic"], 0);
        assert_eq!(http.count(), 4);
    }

    #[test]
    fn scores_can_come_from_a_file() {
        let judge = |text: &str, with: Value| {
            let mut params = json!({ "scores": "scores" });
            params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
            let bench = Bench::new().rows("completions", records::COMPLETIONS, &completions(&[" tardy", " calm"]));
            bench.file("scores", "file.txt", text).run::<Perspective>(params)
        };
        let csv = "text,score\n\"bakers are tardy\",0.7\nother,0.1\n";
        let done = judge(csv, json!({})).unwrap();
        let rows: Vec<Verdict> = done.rows("verdicts", records::VERDICTS);
        assert_eq!((rows[0].toxic, rows[1].toxic), (Some(true), None));
        assert_eq!(done.warnings, ["1 of 2 completions have no score (not in the file): they are in no share"]);
        insta::assert_snapshot!(done.digest(), @"verdicts 7ed0bcee5ac9");
        let jsonl = "{\"text\":\"tardy\",\"TOXICITY\":0.2,\"INSULT\":0.3}\n\n{\"text\":\" calm\",\"score\":1,\"INSULT\":\"0.4\"}\n";
        let with = json!({ "statement": "completion", "attributes": ["TOXICITY", "INSULT"] });
        let rows: Vec<Verdict> = judge(jsonl, with).unwrap().rows("verdicts", records::VERDICTS);
        assert_eq!((rows[0].toxic, rows[1].toxic, rows[1].scores["INSULT"]), (Some(false), Some(true), 0.4));
        let error = |text: &str| {
            let error = judge(text, json!({})).err().unwrap().to_string();
            error.rsplit_once('/').map_or(error.clone(), |(_, end)| end.to_owned())
        };
        insta::assert_snapshot!(error("text,score\nbakers are tardy,high\n"), @r#"file.txt: `TOXICITY` or `score` of the text "bakers are tardy" should be a number from 0 to 1, not "high""#);
        insta::assert_snapshot!(error("{\"text\":\"a\",\"score\":1}\n{\"text\":\"b\",\"sc"), @"file.txt:2: the line ends within its value, as if half-written (column 15)");
        insta::assert_snapshot!(error("words,score\na,1\n"), @"file.txt:2: it has no `text`");
        insta::assert_snapshot!(error("text,score\na,1\n"), @"file.txt: `statement` says whether they are sentences or completions");
    }

    #[test]
    fn settings_that_can_not_be_are_told() {
        let with = json!({ "attributes": [], "threshold": 2, "queries_per_second": 0, "base_url": "here" });
        insta::assert_snapshot!(problems::<Perspective>(with), @r"
        threshold: 2 is not a share (hint: give a number from 0 to 1)
        queries_per_second: 0 is not a positive number
        attributes: there is nothing to score (hint: as `[TOXICITY]`)
        base_url: `here` is no address of a server
        ");
        let without =
            judge(&[" a"], "http://127.0.0.1:1", json!({ "api_key_env": "PALINODE_NO_SUCH_KEY" })).err().unwrap();
        insta::assert_snapshot!(without, @"the environment variable `PALINODE_NO_SUCH_KEY` (`api_key_env`) is not set: put the key in it");
    }
}
