//! A model of the hub, through the real binary. The hub is made by the test, on this machine.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::support::{Ran, Sandbox};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tests/fixtures/models/llama")
}

/// Serves the fixture as `o/n`; gives its address and the number of requests so far.
fn hub() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || answer(stream));
        }
    });
    (url, count)
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default();
    let allowed = head.to_lowercase().contains("authorization: bearer hf_token");
    let file =
        path.strip_prefix(&format!("/o/n/resolve/{COMMIT}/")).and_then(|name| fs::read(fixture().join(name)).ok());
    let (status, headers, body) = if !allowed {
        (401, String::new(), Vec::new())
    } else if path.starts_with(&format!("/api/models/o/n/revision/{COMMIT}")) {
        let names = fs::read_dir(fixture()).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let siblings: Vec<Value> = names.map(|name| json!({ "rfilename": name.to_string_lossy() })).collect();
        (200, String::new(), json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes())
    } else if let Some(bytes) = file {
        let range = head.lines().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let range = range.expect("a range");
        let (from, to) = range.split_once('-').expect("a range");
        let from: usize = from.parse().expect("a number");
        let to = to.parse::<usize>().map_or(bytes.len(), |to| (to + 1).min(bytes.len()));
        let tag = path.rsplit('/').next().expect("a name");
        let range = format!("bytes {from}-{}/{}", to.max(1) - 1, bytes.len());
        let headers = format!("ETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: {range}\r\n");
        (206, headers, bytes[from..to].to_vec())
    } else {
        (404, String::new(), Vec::new())
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    let _ = reader.get_mut().write_all(&[head.into_bytes(), body].concat());
}

fn pipeline(source: &str, endpoint: &str) -> String {
    format!(
        "stages:\n  base: {{ uses: model, with: {{ source: \"{source}\", hub: {{ endpoint: \"{endpoint}\" }} }} }}\n"
    )
}

fn run(sandbox: &Sandbox, token: &str) -> Ran {
    let mut command = sandbox.command(&["run", "p.yaml", "--format", "json"]);
    command.env("HF_HOME", sandbox.file("hf")).env("HF_TOKEN", token);
    command.output().expect("palinode starts").into()
}

#[test]
fn a_model_of_the_hub_is_fetched_once_and_stays_where_it_is() {
    let (url, count) = hub();
    let sandbox = Sandbox::with(&pipeline(&format!("hf://o/n@{COMMIT}"), &url));
    let told = run(&sandbox, "").code(1).stderr;
    assert!(told.contains("the hub wants to know who asks for `o/n`"), "{told}");
    let ran = run(&sandbox, "hf_token").ok().json();
    assert_eq!(ran["executed"], 1, "{ran}");
    let (asked, weights) = (count.load(Ordering::SeqCst), sandbox.file("hf/hub/models--o--n/blobs/model.safetensors"));
    assert_eq!(
        fs::read(&weights).expect("the weights"),
        fs::read(fixture().join("model.safetensors")).expect("the same")
    );
    // Whatever the hub's address: the commit is the model.
    sandbox.write("p.yaml", pipeline(&format!("hf://o/n@{COMMIT}"), "http://127.0.0.1:1"));
    assert_eq!(run(&sandbox, "").ok().json()["executed"], 0);
    assert_eq!(count.load(Ordering::SeqCst), asked);
    // The same bytes as a folder's.
    let folder =
        format!("stages:\n  base: {{ uses: model, with: {{ source: {:?} }} }}\n", fixture().display().to_string());
    let other = Sandbox::with(&folder);
    other.run(&[]);
    let outputs = |sandbox: &Sandbox| {
        let shown = sandbox.call(&["show", "p.yaml", "base", "--format", "json"]).ok().json();
        shown["record"]["outputs"].clone()
    };
    assert_eq!(outputs(&sandbox), outputs(&other));
    // What was lost there is fetched again.
    fs::remove_dir_all(sandbox.file("hf")).expect("it is there");
    let told = run(&sandbox, "hf_token").code(1).stderr;
    assert!(told.contains("can't get `o/n` from the hub"), "{told}");
    sandbox.write("p.yaml", pipeline(&format!("hf://o/n@{COMMIT}"), &url));
    assert_eq!(run(&sandbox, "hf_token").ok().json()["executed"], 1);
    assert!(weights.exists());
}

#[test]
fn what_may_move_is_refused_in_the_file() {
    let sandbox = Sandbox::with(&pipeline("hf://facebook/opt-1.3b@main", "http://127.0.0.1:1"));
    let told = run(&sandbox, "").code(2).stderr;
    assert!(told.contains("`main` is no commit: a branch or a tag may move") && told.contains("p.yaml:2:"), "{told}");
    // Other kinds take no models of the hub.
    sandbox.write(
        "p.yaml",
        "stages:\n  a: { uses: prompts.honest, with: { binary: \"hf://o/n@x\", groups: [gender] } }\n",
    );
    let told = run(&sandbox, "").code(2).stderr;
    assert!(told.contains("hf://o/n@x"), "{told}");
}
