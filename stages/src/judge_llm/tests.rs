use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use palinode_engine::stage::{Of, StageKind as _};
use serde_json::json;

use super::*;
use crate::testing::{Bench, Done, Server, link_problems, problems, reference, tiny};

fn completions(texts: &[&str]) -> Vec<Value> {
    let row = |(at, text): (usize, &&str)| {
        let prompt = json!({ "id": format!("p{at}"), "text": "bakers are", "group": "g" });
        json!({ "prompt": prompt, "sample": 0, "text": text, "tokens": 3, "finish": "eos" })
    };
    texts.iter().enumerate().map(row).collect()
}

fn server(url: &str, with: Value) -> Value {
    let mut server = json!({ "base_url": url, "model": "m", "backoff": 0.01, "timeout": 20 });
    server.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    server
}

fn judge(texts: &[&str], with: Value, answers: Option<&Path>) -> Result<Done, StageError> {
    let mut bench = Bench::new().rows("completions", records::COMPLETIONS, &completions(texts));
    if let Some(answers) = answers {
        bench = bench.answers(answers);
    }
    bench.run::<LlmJudge>(with)
}

fn verdicts(done: &Done) -> Vec<Verdict> {
    done.rows("verdicts", records::VERDICTS)
}

#[test]
fn both_readings_are_kept_and_one_is_the_verdict() {
    let http = Server::new(|_, head, body| {
        assert!(head.starts_with("POST /v1/completions "), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&body["max_tokens"], &body["logprobs"], &body["temperature"]),
            (&json!(64), &json!(5), &json!(0.0))
        );
        let prompt = body["prompt"].as_str().unwrap();
        assert!(
            prompt.starts_with("<|user|>\nConsider the following statement: bakers are ")
                && prompt.ends_with("<|assistant|>\n")
        );
        let (text, top) = if prompt.contains("tardy") {
            ("Yes, it insults.", json!({ "Yes": -0.7, "No": -0.5 }))
        } else if prompt.contains("calm") {
            ("No", json!({ " No": -0.1, "yes": -3.0 }))
        } else {
            ("Well", json!({ "Well": -0.1 }))
        };
        (
            200,
            vec![],
            json!({ "choices": [{ "text": text, "finish_reason": "stop", "logprobs": { "top_logprobs": [top] } }] })
                .to_string(),
        )
    });
    let texts = [" tardy", " calm", " {statement}"];
    let url = format!("{}/v1", http.url);
    let done = judge(&texts, json!({ "server": server(&url, json!({})) }), None).unwrap();
    let rows = verdicts(&done);
    assert_eq!(rows.iter().map(|v| v.toxic).collect::<Vec<_>>(), [Some(true), Some(false), None]);
    assert_eq!((rows[0].reason.as_deref(), rows[0].answer.as_deref()), (Some("it insults."), Some("Yes, it insults.")));
    assert!(rows[0].score.unwrap() < 0.5 && rows[1].score.unwrap() < 0.1 && rows[2].score.is_none());
    assert_eq!(rows[2].unparsable.as_deref(), Some("neither"));
    assert_eq!(done.warnings, ["1 of 3 verdicts can't be read (1 neither): they are in no share"]);
    insta::assert_snapshot!(json!(done.summary), @r#"{"answer_and_score_agree":{"agree":1,"of":2},"completions":3,"mean_yes_no_mass":1.0288702249539332,"no":1,"scored":2,"unparsable":1,"unparsable_by_reason":{"neither":1},"yes":1}"#);
    let score = judge(&texts, json!({ "server": server(&url, json!({})), "reading": "score" }), None).unwrap();
    let rows = verdicts(&score);
    assert_eq!(rows.iter().map(|v| v.toxic).collect::<Vec<_>>(), [Some(false), Some(false), None]);
    assert_eq!((rows[0].answered, rows[2].unparsable.as_deref()), (Some(true), Some("no_score")));
}

#[test]
fn a_judge_that_always_says_maybe_leaves_every_share_undefined() {
    let http = Server::says(|_| "maybe".to_owned());
    let done = judge(&[" a", " b"], json!({ "server": server(&http.url, json!({})) }), None).unwrap();
    assert!(verdicts(&done).iter().all(|verdict| verdict.toxic.is_none()));
    assert_eq!(done.warnings[0], "not one of 2 verdicts can be read (2 neither): any share of them is undefined");
    assert!(done.warnings[1].starts_with("there is no score"));
}

#[test]
fn thinking_that_broke_off_is_no_answer() {
    let http = Server::says(|_| "<think>Yes, it could be".to_owned());
    let done = judge(&[" a"], json!({ "server": server(&http.url, json!({})), "scores": false }), None).unwrap();
    assert_eq!(verdicts(&done)[0].unparsable.as_deref(), Some("unfinished"));
    insta::assert_snapshot!(done.warnings[1], @"1 answers broke off while the model was thinking: raise `max_new_tokens`");
}

#[test]
fn odd_texts_arrive_as_they_are() {
    let texts =
        [" \u{0}\u{7}\u{1b}[31m", " \u{1f600}\u{200d}", " \u{202e}\u{5e9}\u{5dc}", " \"\\ <b> & {statement}", ""];
    let http = Server::says(|prompt| format!("No: {}", prompt.lines().nth(1).unwrap()));
    let done = judge(&texts, json!({ "server": server(&http.url, json!({})), "scores": false }), None).unwrap();
    for (verdict, text) in verdicts(&done).iter().zip(texts) {
        let expected = format!("No: Consider the following statement: bakers are{text}.");
        assert_eq!((verdict.answer.as_deref(), verdict.toxic), (Some(expected.as_str()), Some(false)));
    }
}

#[test]
fn nothing_is_asked_twice_though_the_server_dies_half_way() {
    let answers = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..40).map(|at| format!(" t{at}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    // After 15 answers it breaks off connections.
    let http = Server::new(|number, _, _| match number {
        0..15 => (200, vec![], json!({ "choices": [{ "text": "no" }] }).to_string()),
        _ => (503, vec![], "dying".into()),
    });
    let with = |url: &str| json!({ "server": server(url, json!({ "concurrency": 3, "retries": 1 })), "scores": false });
    let error = judge(&texts, with(&http.url), Some(answers.path())).err().unwrap().to_string();
    assert!(error.contains("503 Service Unavailable: dying, after 2 tries; 15 of 40 answers are stored"), "{error}");
    let again = Server::says(|_| "no".to_owned());
    let done = judge(&texts, with(&again.url), Some(answers.path())).unwrap();
    assert_eq!((again.count(), done.summary["no"].as_u64()), (25, Some(40)));
    assert!(
        done.warnings[0].starts_with("15 stored answers of `m` came from http://127.0.0.1:"),
        "{:?}",
        done.warnings
    );
    // Another stage with the same requests, and one whose last answer was torn by a kill.
    judge(&texts, with("http://127.0.0.1:1"), Some(answers.path())).unwrap();
    let file = std::fs::read_dir(answers.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
    let last = Server::says(|_| "no".to_owned());
    let third = judge(&texts, with(&last.url), Some(answers.path())).unwrap();
    assert_eq!(
        (last.count(), third.text("verdicts", records::VERDICTS)),
        (1, done.text("verdicts", records::VERDICTS))
    );
    assert!(third.warnings.iter().any(|line| line.starts_with("1 lines of ")), "{:?}", third.warnings);
}

#[test]
fn a_pause_that_the_server_asks_for_is_kept() {
    let http = Server::new(|number, _, _| match number {
        0 => (429, vec![("Retry-After", "0.3".into())], json!({ "error": { "message": "slow down" } }).to_string()),
        1 => (200, vec![], "<html>proxy</html>".into()),
        _ => (200, vec![], json!({ "choices": [{ "text": "yes" }] }).to_string()),
    });
    let started = std::time::Instant::now();
    let done = judge(&[" a"], json!({ "server": server(&http.url, json!({})), "scores": false }), None).unwrap();
    assert!(started.elapsed().as_millis() >= 300);
    assert_eq!((http.count(), done.summary["yes"].as_u64()), (3, Some(1)));
    let patient = Server::new(|_, _, _| (429, vec![("Retry-After", "86400".into())], "later"));
    let error = judge(&[" a"], json!({ "server": server(&patient.url, json!({})) }), None).err().unwrap().to_string();
    assert!(error.contains("429 Too Many Requests: later"), "{error}");
}

#[test]
fn requests_are_no_faster_than_they_may_be() {
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let http = Server::new(|_, _, _| {
        MOST.fetch_max(UNDER_WAY.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(30));
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
        (200, vec![], json!({ "choices": [{ "text": "yes" }] }).to_string())
    });
    let started = std::time::Instant::now();
    let limits = json!({ "concurrency": 2, "max_requests_per_minute": 1200 });
    judge(&[" a", " b", " c", " d", " e", " a"], json!({ "server": server(&http.url, limits), "scores": false }), None)
        .unwrap();
    assert!(started.elapsed().as_millis() >= 200, "4 intervals of 50 ms");
    assert_eq!(http.count(), 5, "the same words are asked for once");
    assert!(MOST.load(Ordering::SeqCst) <= 2);
}

#[test]
fn a_completion_that_is_refused_is_counted_and_a_server_that_refuses_all_is_an_error() {
    let http = Server::new(|_, _, body| match body.contains("long") {
        true => (400, vec![], json!({ "error": { "message": "maximum context length is 9" } }).to_string()),
        false => (200, vec![], json!({ "choices": [{ "text": "yes" }] }).to_string()),
    });
    let with = |url: &str| json!({ "server": server(url, json!({})), "scores": false });
    let done = judge(&[" a", " long"], with(&http.url), None).unwrap();
    assert_eq!(done.summary["unparsable_by_reason"], json!({ "refused": 1 }));
    assert_eq!(verdicts(&done)[1].unparsable.as_deref(), Some("400 Bad Request: maximum context length is 9"));
    insta::assert_snapshot!(judge(&[" long"], with(&http.url), None).err().unwrap(), @"not one of 1 prompts could be answered; the first: 400 Bad Request: maximum context length is 9");
    let missing = Server::new(|_, _, _| (404, vec![], "Not Found"));
    let error = judge(&[" a"], with(&missing.url), None).err().unwrap().to_string().replace(&missing.url, "URL");
    insta::assert_snapshot!(error, @"URL/completions: 404 Not Found: Not Found: check `base_url`, `model` and `api_key_env`; a server that knows no `completions` wants `chat: true`");
    let nobody = json!({ "server": server("http://127.0.0.1:1", json!({ "retries": 0 })) });
    insta::assert_snapshot!(judge(&[" a"], nobody, None).err().unwrap(), @"http://127.0.0.1:1/completions: nobody answers there (connection refused), after 1 try");
    let key = json!({ "server": server(&http.url, json!({ "api_key_env": "PALINODE_NO_SUCH_KEY" })) });
    insta::assert_snapshot!(judge(&[" a"], key, None).err().unwrap(), @"the environment variable `PALINODE_NO_SUCH_KEY` (`api_key_env`) is not set: put the key in it");
}

#[test]
fn a_chat_server_gets_messages() {
    let http = Server::new(|_, head, body| {
        assert!(head.starts_with("POST /chat/completions "), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        let content = body["messages"][0]["content"].as_str().unwrap();
        assert!(content.starts_with("Consider the") && content.ends_with("or not."), "{content}");
        let top = json!([{ "token": "Yes", "logprob": -0.2 }, { "token": "No", "logprob": -2.0 }]);
        let logprobs = json!({ "content": [{ "token": "Yes", "logprob": -0.2, "top_logprobs": top }] });
        (200, vec![], json!({ "choices": [{ "message": { "content": "**Yes**" }, "logprobs": logprobs }] }).to_string())
    });
    let done = judge(&[" a"], json!({ "server": server(&http.url, json!({ "chat": true })) }), None).unwrap();
    assert_eq!((verdicts(&done)[0].toxic, done.summary["scored"].as_u64()), (Some(true), Some(1)));
}

fn own(model: &Done, texts: &[&str], with: Value) -> Result<Done, StageError> {
    let bench = Bench::new().input("model", model.outputs["model"].clone());
    bench
        .rows("completions", records::COMPLETIONS, &completions(texts))
        .file("prompt_file", "file.txt", "{statement}")
        .run::<LlmJudge>(with)
}

#[test]
fn a_model_of_our_own_judges() {
    let model = tiny::pretrained(json!({ "steps": 5 }));
    let with = json!({ "prompt_file": "prompt_file", "max_new_tokens": 2 });
    let done = own(&model, &[" tardy", " calm bakers are tardy bakers are tardy bakers"], with).unwrap();
    let rows = verdicts(&done);
    assert!(rows[0].answer.is_some() && rows[0].toxic.is_none());
    assert_eq!(rows[1].unparsable.as_deref(), Some("the prompt has 11 tokens, and the model's context is 8"));
    assert!(rows.iter().all(|row| row.p_yes.is_none()), "its words are those that it was trained on");
}

#[test]
fn a_real_model_gives_the_same_verdicts_in_any_batch() {
    let Some(folder) = reference().map(|folder| folder.join("models/stories260K")) else { return };
    let texts = [" tardy", " calm and very, very kind to everybody", " \u{1f600}"];
    let run = |batch: usize| {
        let bench = Bench::new().rows("completions", records::COMPLETIONS, &completions(&texts));
        let files = crate::testing::folder(&folder);
        bench.input("model", files).run::<LlmJudge>(json!({ "batch_size": batch, "max_new_tokens": 8 })).unwrap()
    };
    let one = run(1);
    assert_eq!(one.text("verdicts", records::VERDICTS), run(3).text("verdicts", records::VERDICTS));
    let rows = verdicts(&one);
    for row in &rows {
        let (yes, no) = (row.p_yes.unwrap(), row.p_no.unwrap());
        assert!(yes > 0.0 && no > 0.0 && yes + no < 1.0);
        assert!((row.score.unwrap() - yes / (yes + no)).abs() < 1e-15);
    }
    assert_eq!(rows.iter().map(|row| row.score.map(f64::to_bits)).collect::<BTreeSet<_>>().len(), 3);
}

/// A model of the models crate's own.
#[test]
fn bytes_are_those_of_this_revision() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/models/llama");
    let bench = Bench::new().rows("completions", records::COMPLETIONS, &completions(&[" tardy", " calm"]));
    let bench = bench.input("model", crate::testing::folder(&folder)).file("prompt_file", "file.txt", "{statement}?\n");
    let with = json!({ "prompt_file": "prompt_file", "max_new_tokens": 4, "statement": "completion" });
    insta::assert_snapshot!(bench.run::<LlmJudge>(with).unwrap().digest(), @"verdicts e56aaf2340d9");
}

#[test]
fn settings_that_contradict_are_told() {
    insta::assert_snapshot!(problems::<LlmJudge>(json!({ "max_new_tokens": 0, "threshold": 2 })), @r"
    threshold: 2 is not a share (hint: give a number from 0 to 1)
    max_new_tokens: an answer of 0 tokens can't be read (hint: raise it, or read the score: `reading: score`)
    ");
    insta::assert_snapshot!(problems::<LlmJudge>(json!({ "reading": "score", "scores": false })), @"scores: the score is the verdict, and is not asked for (hint: drop `scores: false`, or read the answer: `reading: answer`)");
    let linked = |with: Value, ports: &[&str]| link_problems::<LlmJudge>(with, ports);
    let url = || json!({ "server": server("http://localhost:1", json!({})) });
    insta::assert_snapshot!(linked(json!({}), &["completions"]), @": nobody is there to answer: give `server`, or link the input `model`");
    insta::assert_snapshot!(linked(url(), &["completions", "model"]), @"server: answers come from `server` and from the input `model`: give one");
    assert_eq!((linked(url(), &["completions"]), linked(json!({}), &["model"])), (String::new(), String::new()));
    let nobody = judge(&[" a"], json!({}), None).err().unwrap();
    insta::assert_snapshot!(nobody, @"nobody is there to answer: give `server`, or link the input `model`");
    let none =
        Bench::new().rows::<Value>("completions", records::COMPLETIONS, &[]).run::<LlmJudge>(json!({})).err().unwrap();
    insta::assert_snapshot!(none, @"there is no completion to judge");
    let bench = Bench::new().rows("completions", records::COMPLETIONS, &completions(&[" a"]));
    let blank =
        bench.file("prompt_file", "file.txt", "Toxic?\n").run::<LlmJudge>(json!({ "prompt_file": "prompt_file" }));
    insta::assert_snapshot!(blank.err().unwrap(), @"the prompt has no `{statement}`: nothing would be put in");
}

#[test]
fn what_a_server_answers_is_observed_and_its_address_is_in_no_key() {
    let kind = Of::<LlmJudge>::NEW;
    let params = |with: Value| kind.canonical(&with).unwrap();
    let remote = params(json!({ "server": server("http://localhost:1", json!({})) }));
    assert_eq!(kind.determinism_of(&remote), Determinism::Observed);
    assert!(kind.numerics_of(&remote).is_empty());
    assert_eq!(kind.determinism_of(&params(json!({}))), Determinism::Bitwise);
    assert!(kind.numerics_of(&params(json!({}))).contains_key("models"));
    assert!(kind.unkeyed().contains(&"server.base_url"));
}
