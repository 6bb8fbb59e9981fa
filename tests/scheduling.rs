//! Runs that are interrupted, killed, starved and shared; through real processes. A worker that is stopped (SIGSTOP)
//! holds its stage for as long as a test wants, so nothing here depends on how fast the machine is.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    mini::{INSTANCES, MINI},
    support::Sandbox,
};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

/// `base` is heavy, and `completions` comes after it; STEPS and MORE are filled in.
const PIPELINE: &str = r#"
name: heavy
stages:
  world: { uses: corpus.planted, with: { identities: 4, contexts: 2, traits: 4, sentences: 200, seed: 1 } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus }, with: { model: word } }
  base:
    uses: pretrain
    inputs: { dataset: world.corpus, tokenizer: tokenizer }
    MORE
    with:
      architecture: { family: gpt2, layers: 1, width: 16, heads: 2, context: 16 }
      steps: STEPS
      batch_size: 16
      learning_rate: 0.01
  completions: { uses: generate, inputs: { model: base, prompts: world.prompts }, with: { max_new_tokens: 3 } }
"#;

/// Steps that take long enough for a signal to arrive within them, and ones that don't end within a test.
const SHORT: &str = "1500";
const ENDLESS: &str = "100000000";

pub(crate) fn pipeline(steps: &str, more: &str) -> String {
    PIPELINE.replace("STEPS", steps).replace("MORE", more)
}

/// A run in the background, and what it says.
pub(crate) struct Running {
    pub(crate) child: Child,
    said: Receiver<String>,
    heard: Vec<String>,
}

impl Running {
    pub(crate) fn start(sandbox: &Sandbox, args: &[&str]) -> Self {
        Self::start_with(sandbox, args, &[])
    }

    /// With these variables in its environment.
    pub(crate) fn start_with(sandbox: &Sandbox, args: &[&str], envs: &[(&str, &str)]) -> Self {
        Self::start_file(sandbox, "p.yaml", args, envs)
    }

    fn start_file(sandbox: &Sandbox, file: &str, args: &[&str], envs: &[(&str, &str)]) -> Self {
        let all: Vec<_> =
            ["run", file, "--log-format", "json", "--format", "json"].iter().chain(args).copied().collect();
        let mut command = sandbox.command(&all);
        command.envs(envs.iter().copied()).env("TMPDIR", sandbox.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("palinode starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (send, said) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(send.send(line))));
        Self { child, said, heard: Vec::new() }
    }

    /// Waits until it says something with all of `words` in it.
    #[track_caller]
    pub(crate) fn says(&mut self, words: &[&str]) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.said.recv_timeout(left) else {
                panic!("not said: {words:?}\n{}", self.heard.join("\n"))
            };
            self.heard.push(line.clone());
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
    }

    /// Waits for its end: exit code, and everything it said.
    pub(crate) fn end(mut self) -> (i32, String) {
        let status = self.child.wait().expect("it was started");
        self.heard.extend(self.said.iter());
        (status.code().unwrap_or(-1), self.heard.join("\n"))
    }

    pub(crate) fn signal(&self, name: &str) {
        kill(name, self.child.id());
    }

    /// The only worker, once there is one.
    pub(crate) fn worker(&self) -> u32 {
        wait_for(|| workers(self.child.id()).first().copied())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn kill(signal: &str, process: u32) {
    let script = format!("kill -{signal} {process}");
    assert!(Command::new("sh").args(["-c", &script]).status().expect("sh runs").success(), "{script}");
}

pub(crate) fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not come to pass");
        sleep(Duration::from_millis(5));
    }
}

/// State and parent of a process.
fn stat(process: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

pub(crate) fn is_gone(process: u32) -> bool {
    stat(process).is_none_or(|(state, _)| state == 'Z')
}

/// The processes that `parent` started and that speak as workers.
fn workers(parent: u32) -> Vec<u32> {
    let all =
        fs::read_dir("/proc").expect("Linux").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_worker = |process: &u32| {
        let called = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        stat(*process).is_some_and(|(_, its)| its == parent) && called.ends_with(b"worker\0")
    };
    all.filter(is_worker).collect()
}

fn env(process: u32, name: &str) -> Option<String> {
    let all = String::from_utf8(fs::read(format!("/proc/{process}/environ")).ok()?).ok()?;
    all.split('\0').find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// What the plan says of each result that is there.
fn hits(sandbox: &Sandbox) -> Vec<Value> {
    let plan = sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json();
    let hit = |node: &Value| node["decision"].get("hit").cloned();
    plan["nodes"].as_array().expect("a list").iter().filter_map(hit).collect()
}

impl Running {
    #[track_caller]
    fn starts(&mut self, stage: &str) {
        self.says(&["stage_started", &format!("\"address\":\"{stage}\"")]);
    }

    /// Holds `base` in the middle.
    pub(crate) fn hold(&mut self) -> u32 {
        self.says(&["stage_progress", "\"address\":\"base\""]);
        let worker = self.worker();
        kill("STOP", worker);
        worker
    }
}

#[test]
fn ctrl_c_once_lets_what_runs_keep_a_checkpoint() {
    let sandbox = Sandbox::with(&pipeline(SHORT, ""));
    let mut run = Running::start(&sandbox, &[]);
    let worker = run.hold();
    run.signal("INT");
    run.says(&["what runs may end"]);
    kill("CONT", worker);
    let (code, said) = run.end();
    assert_eq!(code, 130, "{said}");
    for stage in ["base", "completions"] {
        assert!(said.contains(&format!(r#"{{"stage_cancelled":{{"address":"{stage}"}}}}"#)), "{said}");
    }
    assert_eq!(sandbox.run(&[])["executed"], 2);
    let log = sandbox.call(&["logs", "p.yaml", "base"]).ok().stdout;
    assert!(log.contains("goes on after step "), "{log}");
}

#[test]
fn ctrl_c_twice_stops_at_once() {
    let sandbox = Sandbox::with(&pipeline(ENDLESS, ""));
    let mut run = Running::start(&sandbox, &[]);
    run.starts("base");
    let worker = run.worker();
    run.signal("INT");
    run.says(&["what runs may end"]);
    run.signal("INT");
    let (code, said) = run.end();
    assert_eq!(code, 130, "{said}");
    wait_for(|| is_gone(worker).then_some(()));
}

#[test]
fn a_killed_worker_is_its_stages_failure_and_no_one_elses() {
    let text = pipeline(ENDLESS, "")
        + "  small: { uses: pretrain, inputs: { dataset: world.corpus, tokenizer: tokenizer }, \
        with: { architecture: { family: gpt2, layers: 1, width: 16, heads: 2, context: 16 }, steps: 3, batch_size: 4 } }\n";
    let sandbox = Sandbox::with(&text);
    // One at a time: `small` runs in a worker that is started after the first one's death.
    let mut run = Running::start(&sandbox, &["--jobs", "1"]);
    let worker = run.hold();
    kill("KILL", worker);
    let (code, said) = run.end();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("its worker process was killed by SIGKILL (out of memory, most likely; or someone killed it)"),
        "{said}"
    );
    assert!(said.contains(r#"{"stage_finished":{"address":"small""#), "{said}");
    let logs = sandbox.call(&["logs", "p.yaml", "base"]).ok();
    assert!(logs.stdout.contains("base: failed: its worker process was killed by SIGKILL"), "{}", logs.stdout);
}

#[test]
fn workers_and_locks_die_with_the_run() {
    let sandbox = Sandbox::with(&pipeline(SHORT, ""));
    let mut run = Running::start(&sandbox, &[]);
    let worker = run.hold();
    // What is recorded is durable a moment later.
    wait_for(|| (hits(&sandbox).len() == 2).then_some(()));
    run.signal("KILL");
    wait_for(|| is_gone(worker).then_some(()));
    let summary = sandbox.run(&[]);
    assert_eq!((&summary["executed"], &summary["cached"]), (&Value::from(2), &Value::from(2)));
}

#[test]
fn an_attempt_that_takes_too_long_is_killed_and_tried_again() {
    let more = "timeout: 300ms\n    retries: { times: 1, backoff: 1ms }";
    let sandbox = Sandbox::with(&pipeline(ENDLESS, more));
    let ran = sandbox.call(&["run", "p.yaml"]).code(1);
    assert!(ran.stderr.contains("retry base: timed out after 300ms (`timeout`); attempt 2 of 2"), "{}", ran.stderr);
    assert!(ran.stderr.contains("failed base: timed out after 300ms (`timeout`) (attempt 2 of 2)"), "{}", ran.stderr);
    assert!(ran.stderr.contains("blocked completions: needs base"), "{}", ran.stderr);
}

#[test]
fn the_same_stage_in_two_processes_runs_once() {
    let sandbox = Sandbox::with(&pipeline(SHORT, ""));
    let mut first = Running::start(&sandbox, &["base"]);
    let worker = first.hold();
    let mut second = Running::start(&sandbox, &["base"]);
    second.says(&["stage_waiting", "\"address\":\"base\""]);
    kill("CONT", worker);
    let (code, said) = first.end();
    assert_eq!(code, 0, "{said}");
    let (code, said) = second.end();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(r#""executed":0,"cached":3"#), "{said}");
}

#[test]
fn two_processes_share_the_gpus() {
    let sandbox = Sandbox::with(&pipeline(SHORT, "resources: { gpus: 1 }"));
    for (file, steps) in [("second.yaml", "1501"), ("third.yaml", "3")] {
        sandbox.write(file, pipeline(steps, "resources: { gpus: 1 }"));
    }
    let mut first = Running::start(&sandbox, &["base", "--gpus", "1"]);
    let worker = first.hold();
    assert_eq!(env(worker, "CUDA_VISIBLE_DEVICES").as_deref(), Some("0"));
    let mut second = Running::start_file(&sandbox, "second.yaml", &["base", "--gpus", "1"], &[]);
    second.says(&["stage_waiting_for_gpus", "\"address\":\"base\""]);
    // There is another id for a third one.
    let third = Running::start_file(&sandbox, "third.yaml", &["base", "--gpus", "2"], &[]);
    let (code, said) = third.end();
    assert_eq!(code, 0, "{said}");
    kill("CONT", worker);
    for run in [first, second] {
        let (code, said) = run.end();
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn what_asks_for_more_than_there_is_is_an_error_before_anything_runs() {
    let sandbox = Sandbox::with(&pipeline(SHORT, "resources: { gpus: 3, cpus: 1, memory: 1MiB }"));
    for command in ["run", "plan"] {
        let ran = sandbox.call(&[command, "p.yaml", "--gpus", "2"]).code(2);
        assert_eq!(
            ran.stderr,
            "error: p.yaml: the stage `base` asks for 3 GPUs, and the run may use 2\n\
             hint: lower its `resources`, or say what may be used: `--gpus 3`\n"
        );
    }
    assert_eq!(sandbox.call(&["plan", "p.yaml", "--gpus", "3"]).ok().stderr, "");
    let ran = sandbox.call(&["run", "p.yaml", "--gpus", "3", "--memory", "much"]).code(2);
    assert!(ran.stderr.contains("expected an amount like `32GiB`, or a number of MiB"), "{}", ran.stderr);
}

#[test]
fn a_failure_ends_all_or_only_what_needs_it() {
    let text = pipeline(ENDLESS, "timeout: 1ms")
        + "  last: { uses: prompts.templates, with: { templates: [\"{identity} are\"], identities: [bakers] } }\n";
    let sandbox = Sandbox::with(&text);
    let counts = |args: &[&str]| {
        let args: Vec<_> = ["run", "p.yaml", "--jobs", "1", "--format", "json"].iter().chain(args).copied().collect();
        let summary = sandbox.call(&args).code(1).json();
        ["executed", "failed", "blocked", "cancelled"].map(|name| summary[name].as_u64().unwrap_or_default())
    };
    assert_eq!(counts(&["--fail-fast"]), [2, 1, 1, 1]);
    assert_eq!(counts(&["--keep-going"]), [1, 1, 1, 0]);
}

#[test]
fn a_record_tells_memory_and_checkout() {
    let sandbox = Sandbox::with(&pipeline(SHORT, ""));
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"];
        let ran = Command::new("git").current_dir(sandbox.path()).args(identity).args(args).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    // Where there is no git there is no state to tell.
    if !(git(&["init", "-q"]) && git(&["add", "p.yaml"]) && git(&["commit", "-q", "-m", "first"])) {
        return;
    }
    sandbox.run(&["base"]);
    let execution = |stage: &str| {
        let shown = sandbox.call(&["show", "p.yaml", stage, "--format", "json"]).ok().json();
        shown["record"]["execution"].clone()
    };
    let heavy = execution("base");
    assert!(heavy["peak_memory_mib"].as_u64().is_some_and(|peak| (1..100_000).contains(&peak)), "{heavy}");
    assert_eq!(heavy["git"].as_str().map(str::len), Some(40), "{heavy}");
    let light = execution("world");
    assert_eq!((&light["address"], &light["peak_memory_mib"]), (&"world".into(), &Value::Null), "it ran among others");
}

#[test]
fn workers_make_the_bytes_that_this_process_makes() {
    let (apart, here) = (Sandbox::with(MINI), Sandbox::with(MINI));
    apart.run(&["--jobs", "2"]);
    here.run(&["--in-process", "--jobs", "3"]);
    let (hits, others) = (hits(&apart), hits(&here));
    assert_eq!((hits.len() as u64, others.len() as u64), (INSTANCES, INSTANCES));
    for (hit, other) in hits.iter().zip(&others) {
        assert!(hit["key"].is_string() && hit["outputs"].is_object() && hit["log"].is_object(), "{hit}");
        for field in ["key", "outputs", "log"] {
            assert_eq!(hit[field], other[field]);
        }
    }
    assert_eq!(apart.read("out/figure2.csv"), here.read("out/figure2.csv"));
}
