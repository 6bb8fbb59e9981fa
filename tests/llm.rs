//! Judges and writers behind a server, through the real binary. The server is made by the test, on this machine.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    scheduling::{Running, wait_for},
    support::{Sandbox, files},
};

/// URL and CONCURRENCY are filled in.
const PIPELINE: &str = r#"
name: asked
stages:
  world: { uses: corpus.planted, with: { identities: 4, contexts: 2, traits: 4, sentences: 200, seed: 1 } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus }, with: { model: word } }
  base:
    uses: pretrain
    inputs: { dataset: world.corpus, tokenizer: tokenizer }
    with:
      architecture: { family: gpt2, layers: 1, width: 16, heads: 2, context: 16 }
      steps: 10
  completions: { uses: generate, inputs: { model: base, prompts: world.prompts }, with: { n: 4, max_new_tokens: 3 } }
  verdicts:
    uses: judge.llm
    inputs: { completions: completions }
    with:
      server: { base_url: "URL", model: judge, concurrency: CONCURRENCY, backoff: 0.05, retries: 2, api_key_env: PALINODE_TEST_KEY }
  remedies:
    uses: counterfactuals.llm
    inputs: { verdicts: verdicts }
    with:
      rounds: 2
      server: { base_url: "URL", model: writer, backoff: 0.05, api_key_env: PALINODE_TEST_KEY }
"#;

/// Answers by the prompt; holds answers back from the number `hold` on until it is told to go on.
struct Server {
    url: String,
    prompts: Arc<Mutex<Vec<String>>>,
    gate: Arc<(Mutex<usize>, Condvar)>,
}

impl Server {
    fn new(hold: usize, answer: impl Fn(&str) -> Result<String, u16> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let (prompts, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new((Mutex::new(hold), Condvar::new())));
        let (heard, open, answer) = (prompts.clone(), gate.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, open, answer) = (heard.clone(), open.clone(), answer.clone());
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let Some(prompt) = prompt(&mut reader) else { return };
                    let number = {
                        let mut heard = heard.lock().expect("no panic");
                        heard.push(prompt.clone());
                        heard.len()
                    };
                    let (hold, told) = &*open;
                    let wait = told.wait_while(hold.lock().expect("no panic"), |hold| number > *hold);
                    drop(wait.expect("no panic"));
                    let (status, body) = match answer(&prompt) {
                        Ok(text) => (200, json!({ "choices": [{ "text": text, "finish_reason": "stop" }] })),
                        Err(status) => (status, json!({ "error": { "message": "not now" } })),
                    };
                    let body = body.to_string();
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nConnection: close\r\nRetry-After: 0\r\nContent-Length: {length}\r\n\r\n{body}"
                    );
                    let _ = reader.get_mut().write_all(answer.as_bytes());
                });
            }
        });
        Self { url, prompts, gate }
    }

    fn count(&self) -> usize {
        self.prompts.lock().expect("no panic").len()
    }

    fn release(&self) {
        *self.gate.0.lock().expect("no panic") = usize::MAX;
        self.gate.1.notify_all();
    }
}

fn prompt(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    assert!(head.to_lowercase().contains("authorization: bearer it's secret"), "{head}");
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body: Value = serde_json::from_slice(&body).ok()?;
    Some(format!("{}\n{}", body["prompt"].as_str()?, body["seed"]))
}

/// A judge and a writer.
fn said(prompt: &str) -> String {
    if prompt.contains("numbered list") {
        let seed = prompt.rsplit('\n').next().expect("a seed");
        return format!("Sure!\n1. they all are kind {seed}.\n2. they are [adjective].\n3. they");
    }
    if prompt.len().is_multiple_of(3) { "No, it isn't.".to_owned() } else { "Yes: it is.".to_owned() }
}

fn sandbox(url: &str, concurrency: usize) -> Sandbox {
    Sandbox::with(&PIPELINE.replace("URL", url).replace("CONCURRENCY", &concurrency.to_string()))
}

/// Runs it with the key in the environment.
#[track_caller]
fn run(sandbox: &Sandbox, args: &[&str]) -> (i32, String) {
    let mut command = sandbox.command(&["run", "p.yaml"]);
    let output = command.args(args).env("PALINODE_TEST_KEY", "it's secret").output().expect("palinode starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text)
}

fn summary(sandbox: &Sandbox, stage: &str) -> BTreeMap<String, Value> {
    let plan = sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json();
    let nodes = plan["nodes"].as_array().expect("a list");
    let node = nodes.iter().find(|node| node["address"] == stage).expect("the stage");
    let key = node["decision"]["hit"]["key"].as_str().unwrap_or_else(|| panic!("{stage} is not there: {node}"));
    let shown = sandbox.call(&["show", "p.yaml", stage, "--format", "json"]).ok().json();
    let record = &shown["record"];
    assert_eq!(record["key"].as_str(), Some(key));
    serde_json::from_value(record["summary"].clone()).expect("a summary")
}

#[test]
fn killed_or_moved_or_forced_it_asks_nothing_twice() {
    let server = Server::new(10, |prompt| Ok(said(prompt)));
    let sandbox = sandbox(&server.url, 3);
    let mut command = sandbox.command(&["run", "p.yaml", "verdicts"]);
    let mut child =
        command.env("PALINODE_TEST_KEY", "it's secret").stderr(std::process::Stdio::null()).spawn().expect("it starts");
    wait_for(|| (server.count() >= 13).then_some(()));
    // So that what was answered last is stored.
    thread::sleep(Duration::from_millis(300));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    server.release();
    let store = files(&sandbox.file(".palinode/answers"));
    let stored = std::fs::read_to_string(&store[0]).expect("text").lines().count();
    assert_eq!(stored, 10, "what was answered is there, though it was killed");

    let (code, told) = run(&sandbox, &[]);
    assert_eq!(code, 0, "{told}");
    let judged = |server: &Server| {
        let prompts = server.prompts.lock().expect("no panic");
        prompts.iter().filter(|prompt| !prompt.contains("numbered list")).cloned().collect::<Vec<_>>()
    };
    let all = judged(&server);
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert!(all.len() <= distinct.len() + 3, "{} requests of {} prompts", all.len(), distinct.len());
    let verdicts = summary(&sandbox, "verdicts");
    let count = |name: &str| verdicts[name].as_u64().expect("a count");
    assert!(count("yes") > 0 && count("no") > 0 && count("unparsable") == 0, "{verdicts:?}");
    let remedies = summary(&sandbox, "remedies");
    assert_eq!(remedies["rejected_by_reason"]["placeholder"], remedies["answers"], "{remedies:?}");
    assert!(told.contains("there is no score"), "{told}");

    // Made again, and by a server elsewhere: whose answers these are is known by the model's name.
    let asked = server.count();
    let (code, told) = run(&sandbox, &["--force", "verdicts"]);
    assert_eq!((code, server.count()), (0, asked), "{told}");
    sandbox.call(&["gc", "p.yaml", "--keep-runs", "0"]).ok();
    let moved = PIPELINE.replace("URL", "http://127.0.0.1:1/v1").replace("CONCURRENCY", "9");
    sandbox.write("p.yaml", moved);
    let (code, told) = run(&sandbox, &[]);
    assert_eq!((code, server.count()), (0, asked), "{told}");
    assert!(told.contains("stored answers of `judge` came from http://127.0.0.1:"), "{told}");
    sandbox.write("p.yaml", PIPELINE.replace("URL", &server.url).replace("CONCURRENCY", "3"));
    let plan = sandbox.call(&["plan", "p.yaml"]).ok().stdout;
    assert!(plan.ends_with(" cached, 0 to run, 0 may run\n"), "{plan}");
}

#[test]
fn interrupted_it_keeps_what_is_under_way_and_stops() {
    let server = Server::new(6, |prompt| Ok(said(prompt)));
    let sandbox = sandbox(&server.url, 2);
    let mut run_ = Running::start_with(&sandbox, &["verdicts"], &[("PALINODE_TEST_KEY", "it's secret")]);
    wait_for(|| (server.count() >= 8).then_some(()));
    run_.says(&["stage_progress", "\"address\":\"verdicts\""]);
    run_.signal("INT");
    thread::sleep(Duration::from_millis(200));
    server.release();
    assert_eq!(run_.end().0, 130);
    assert_eq!(server.count(), 8, "no further request is begun");
    let store = files(&sandbox.file(".palinode/answers"));
    assert_eq!(std::fs::read_to_string(&store[0]).expect("text").lines().count(), 8);
    assert_eq!(run(&sandbox, &["verdicts"]).0, 0);
}

#[test]
fn a_server_that_is_busy_is_asked_again_and_one_that_fails_ends_the_stage_with_words() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let server = Server::new(usize::MAX, move |prompt| match counted.fetch_add(1, Ordering::SeqCst) % 3 {
        0 => Err(429),
        _ => Ok(said(prompt)),
    });
    let sandbox = sandbox(&server.url, 1);
    let (code, told) = run(&sandbox, &["verdicts"]);
    assert_eq!(code, 0, "{told}");
    let down = self::sandbox("http://127.0.0.1:1/v1", 2);
    let (code, told) = run(&down, &["verdicts"]);
    assert!(code != 0 && told.contains("nobody answers there (connection refused), after 3 tries"), "{told}");
    let mut without = sandbox.command(&["run", "p.yaml", "remedies"]);
    let output = without.env_remove("PALINODE_TEST_KEY").output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("the environment variable `PALINODE_TEST_KEY` (`api_key_env`) is not set"), "{told}");
    assert!(
        tries.load(Ordering::SeqCst) > 0
            && files(&sandbox.file(".palinode")).iter().all(|file| {
                !String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).contains("it's secret")
            }),
        "the key is written nowhere"
    );
}
