//! Looking at results and past runs, and cleaning up after them.

use std::{
    fs,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    mini::{INSTANCES, MINI},
    support::{Ran, Sandbox, files},
};

/// Two quick stages, one after the other.
const SMALL: &str = "
name: small
axes: { seed: [1, 2] }
stages:
  world: { uses: corpus.planted, over: [seed], with: { identities: 4, contexts: 2, traits: 4, sentences: 200, seed: '${seed}' } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus }, with: { model: word } }
";

fn small(sentences: usize) -> String {
    SMALL.replace("sentences: 200", &format!("sentences: {sentences}"))
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
}

fn line<'t>(text: &'t str, start: &str) -> &'t str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no line `{start}` in:\n{text}"))
}

#[test]
fn looking_makes_nothing() {
    let sandbox = Sandbox::with(MINI);
    let calls: [&[&str]; 8] = [
        &["plan", "p.yaml"],
        &["status", "p.yaml"],
        &["why", "p.yaml", "tuned"],
        &["logs", "p.yaml", "tuned"],
        &["graph", "p.yaml", "--status"],
        &["show", "p.yaml", "tuned"],
        &["runs", "p.yaml"],
        &["pins"],
    ];
    for call in calls {
        sandbox.call(call).ok();
    }
    assert!(sandbox.call(&["runs"]).stderr.contains("no runs in"));
    for call in [&["gc"][..], &["verify"], &["diff", "last~1", "last"], &["unpin", "x"]] {
        let ran = sandbox.call(call).code(2);
        has(&ran.stderr, &["there is no cache at", "hint:"]);
    }
    has(&sandbox.call(&["show", "p.yaml", "toxicity"]).code(1).stderr, &["toxicity has no result", "never run"]);
    sandbox.call(&["export", "p.yaml", "world", "-o", "x.tar"]).code(2);
    sandbox.call(&["pin", "p.yaml", "x", "world"]).code(2);
    assert_eq!(fs::read_dir(sandbox.path()).unwrap().count(), 1, "only p.yaml");
}

#[test]
fn status_tells_what_is_fresh_stale_failed_and_why() {
    let sandbox = Sandbox::with(&small(200));
    let status = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    assert_eq!(line(&status, "small:"), "small: 4 never run");
    sandbox.run(&["world[seed=1]"]);
    let status = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    assert_eq!(line(&status, "world"), "world      1 never run, 1 fresh");
    sandbox.run(&[]);
    sandbox.write("p.yaml", small(300));
    let status = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    has(line(&status, "world"), &["stale x2; world[seed=1]: `with.sentences` changed: 200 -> 300"]);
    has(line(&status, "tokenizer"), &["stale x2; tokenizer[seed=1]: waits on world[seed=1]"]);

    sandbox.write(
        "p.yaml",
        small(200) + "  bad: { uses: prompts.honest, with: { binary: ./no.tsv, groups: [gender] } }\n",
    );
    sandbox.write("no.tsv", "no\theader\n");
    sandbox.call(&["run", "p.yaml"]).code(1);
    let ran = sandbox.call(&["status", "p.yaml", "--format", "json"]).ok().json();
    assert_eq!((&ran["counts"]["failed"], &ran["counts"]["fresh"]), (&1.into(), &4.into()));
    let text = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    has(line(&text, "bad"), &["failed; ", "template_masked"]);
    // With another input the failure is no longer of what is wanted.
    sandbox.write("no.tsv", "other\n");
    has(line(&sandbox.call(&["status", "p.yaml"]).ok().stdout, "bad"), &["never run"]);
}

#[test]
fn status_fits_on_a_screen() {
    let mut text = String::from("name: wide\nstages:\n");
    for i in 0..200 {
        text += &format!(
            "  s{i}: {{ uses: corpus.planted, with: {{ identities: 4, contexts: 2, traits: 4, sentences: {} }} }}\n",
            10 + i
        );
    }
    let sandbox = Sandbox::with(&text);
    let status = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    assert!(status.lines().count() <= 45, "{status}");
    has(&status, &["160 more that are not", "wide: 200 never run"]);
    assert_eq!(sandbox.call(&["status", "p.yaml", "--format", "json"]).json()["stages"].as_array().unwrap().len(), 200);
}

#[test]
fn what_runs_is_seen_by_others() {
    let sandbox = Sandbox::with(&LONG.replace("STEPS", "2000000"));
    let mut child = start(&sandbox, &["run", "p.yaml"]);
    let running = wait_for(|| {
        let status = sandbox.call(&["status", "p.yaml", "--format", "json"]).ok().json();
        let base = status["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "base").unwrap();
        (base["running"] == 1).then_some(status)
    });
    assert_eq!(running["runs"].as_array().unwrap().len(), 1);
    assert_eq!(sandbox.call(&["runs", "--format", "json"]).json()[0]["state"], "running");
    let text = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    has(&text, &["base       running", "going on: run "]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(sandbox.call(&["runs", "--format", "json"]).json()[0]["state"], "killed");
    assert_eq!(sandbox.call(&["status", "p.yaml", "--format", "json"]).json()["counts"]["running"], 0);
}

/// A training that goes on until it is stopped.
const LONG: &str = "
name: long
stages:
  world: { uses: corpus.planted, with: { identities: 4, contexts: 2, traits: 4, sentences: 50 } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus }, with: { model: word } }
  base:
    uses: pretrain
    inputs: { dataset: world.corpus, tokenizer: tokenizer }
    with: { architecture: { family: gpt2, layers: 1, width: 16, heads: 2, context: 16 }, steps: STEPS, batch_size: 4 }
";

fn start(sandbox: &Sandbox, args: &[&str]) -> Child {
    sandbox.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("palinode starts")
}

#[track_caller]
fn wait_for<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let clock = Instant::now();
    while clock.elapsed() < Duration::from_secs(60) {
        if let Some(found) = found() {
            return found;
        }
        sleep(Duration::from_millis(30));
    }
    panic!("it did not happen in a minute");
}

#[test]
fn runs_are_listed_newest_first() {
    let sandbox = Sandbox::with(&small(200));
    for _ in 0..3 {
        sandbox.run(&[]);
    }
    let runs = sandbox.call(&["runs", "p.yaml", "--format", "json"]).ok().json();
    let executed: Vec<_> = runs.as_array().unwrap().iter().map(|run| run["summary"]["executed"].clone()).collect();
    assert_eq!(executed, [0, 0, 4]);
    let ids: Vec<_> = runs.as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    let text = sandbox.call(&["runs", "-n", "1"]).ok();
    assert_eq!(text.stdout.lines().count(), 1);
    has(&text.stdout, &[&ids[0], "small", "done", "4 cached"]);
    has(&text.stderr, &["and 2 runs before"]);
    sandbox.call(&["runs", "none.yaml"]).code(2);
}

#[test]
fn a_result_is_shown_with_its_files() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&[]);
    let list = sandbox.call(&["show", "p.yaml", "tuned"]).ok().stdout;
    has(
        &list,
        &["tuned[seed=0,rank=2]     fresh", "4 instances; one of them: palinode show p.yaml 'tuned[seed=0,rank=2]'"],
    );
    let one = sandbox.call(&["show", "p.yaml", "toxicity"]).ok().stdout;
    has(&one, &["toxicity (evaluate.toxicity", "with.confidence = 0.95", "metrics/metrics.jsonl", "| {\"left\""]);
    let shown = sandbox.call(&["show", "p.yaml", "toxicity", "--format", "json"]).ok().json();
    let path = shown["files"][0]["path"].as_str().unwrap();
    assert_eq!(fs::read(path).unwrap().len() as u64, shown["files"][0]["size"].as_u64().unwrap());
    // What is stale is shown as such, and lost files are told.
    fs::remove_file(path).unwrap();
    let lost = sandbox.call(&["show", "p.yaml", "toxicity"]).ok().stdout;
    has(&lost, &["stale: output lost", "  lost\n"]);
}

#[test]
fn two_runs_stand_side_by_side() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&[]);
    sandbox.write("p.yaml", MINI.replace("learning_rate: 0.01, steps: 20", "learning_rate: 0.02, steps: 20"));
    sandbox.run(&[]);
    let text = sandbox.call(&["diff", "last~1", "last"]).ok().stdout;
    has(
        &text,
        &[
            "tuned[seed=0,rank=2]",
            "with.learning_rate",
            "0.01",
            "0.02",
            "+0.01 (+100.0%)",
            "fact final_loss",
            "metric ",
        ],
    );
    let json = sandbox.call(&["diff", "p.yaml", "last~1", "last", "--format", "json"]).ok().json();
    assert_eq!(json["same"].as_u64().unwrap() + json["changed"].as_array().unwrap().len() as u64, INSTANCES);
    let id = json["a"]["run"].as_str().unwrap();
    assert_eq!(sandbox.call(&["diff", id, "last~1", "--format", "json"]).ok().json()["same"], INSTANCES);
    has(&sandbox.call(&["diff", "last~7", "last"]).code(2).stderr, &["there is no run `last~7`"]);
    has(&sandbox.call(&["diff", "2", "last"]).code(2).stderr, &["is how 2 runs begin"]);
}

#[test]
fn graphs_have_colours_instances_and_svg() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&["world"]);
    let svg = sandbox.call(&["graph", "p.yaml", "--format", "svg", "--status"]).ok().stdout;
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    has(&svg, &["<title>world: fresh</title>", "<title>tuned: never run</title>", "seed x rank: 4", ">prompts<"]);
    assert_eq!(svg.matches("<g>").count(), 12, "axes are one node");
    let all = sandbox.call(&["graph", "p.yaml", "--format", "svg", "--instances"]).ok().stdout;
    assert_eq!(all.matches("<g>").count() as u64, INSTANCES);
    has(&sandbox.call(&["graph", "p.yaml", "--instances"]).ok().stdout, &["tuned[seed=1,rank=full]"]);
    has(&sandbox.call(&["graph", "p.yaml", "--format", "dot", "--status"]).ok().stdout, &["fillcolor"]);
    let json = sandbox.call(&["graph", "p.yaml", "--format", "json", "--status"]).ok().json();
    assert_eq!(json[0]["status"], "fresh");
}

#[test]
fn gc_keeps_what_the_last_runs_and_pins_need() {
    let sandbox = Sandbox::with(&small(200));
    sandbox.run(&[]);
    sandbox.call(&["pin", "p.yaml", "paper", "tokenizer[seed=1]"]).ok();
    for sentences in [300, 400] {
        sandbox.write("p.yaml", small(sentences));
        sandbox.run(&[]);
    }
    let before = files(&sandbox.file(".palinode"));
    let dry = sandbox.call(&["gc", "--keep-runs", "1", "--dry-run", "--format", "json"]).ok().json();
    assert_eq!(dry["removed"]["records"]["files"], 6, "the second run's four and half of the first's");
    assert_eq!(files(&sandbox.file(".palinode")), before, "only told");
    let done = sandbox.call(&["gc", "p.yaml", "--keep-runs", "1", "--format", "json"]).ok().json();
    assert_eq!((&done["removed"], &done["pins"][0]), (&dry["removed"], &"paper".into()));
    for (sentences, hits) in [(400, 4), (300, 0), (200, 2)] {
        sandbox.write("p.yaml", small(sentences));
        let status = sandbox.call(&["status", "p.yaml", "--format", "json"]).ok().json();
        assert_eq!(status["counts"]["fresh"], hits, "{sentences}");
    }
    sandbox.call(&["unpin", "paper"]).ok();
    sandbox.call(&["unpin", "paper"]).code(2);
    sandbox.call(&["gc", "--keep-runs", "0"]).ok();
    assert!(files(&sandbox.file(".palinode/objects")).is_empty());
    has(&sandbox.call(&["gc"]).ok().stdout, &["nothing to remove"]);
    sandbox.write("p.yaml", small(300));
    assert_eq!(sandbox.run(&[])["executed"], 4);
}

#[test]
fn pins_have_names_that_are_not_taken_over() {
    let sandbox = Sandbox::with(&small(200));
    sandbox.run(&[]);
    sandbox.call(&["pin", "p.yaml", "a", "world"]).ok();
    has(
        &sandbox.call(&["pin", "p.yaml", "a", "tokenizer"]).code(2).stderr,
        &["there is a pin `a` already", "--replace"],
    );
    sandbox.call(&["pin", "p.yaml", "a", "tokenizer", "--replace"]).ok();
    has(&sandbox.call(&["pin", "p.yaml", "../a", "world"]).code(2).stderr, &["can't name a pin"]);
    let pins = sandbox.call(&["pins", "--format", "json"]).ok().json();
    assert_eq!(pins[0]["results"].as_object().unwrap().len(), 2);
    has(&sandbox.call(&["pins"]).ok().stdout, &["a", "2 results", "tokenizer[seed=1], tokenizer[seed=2]"]);
    sandbox.write("p.yaml", small(300));
    has(
        &sandbox.call(&["pin", "p.yaml", "b", "world"]).code(2).stderr,
        &["world[seed=1] has no result now: `with.sentences` changed"],
    );
    // Overrides count here as elsewhere.
    sandbox.write(
        "p.yaml",
        "params: { n: 300 }".to_owned() + &small(0).replace("sentences: 0", "sentences: '${params.n}'"),
    );
    sandbox.call(&["pin", "p.yaml", "b", "world", "--set", "params.n=200"]).ok();
}

#[test]
fn verify_finds_a_flipped_bit_and_the_next_run_heals_it() {
    let sandbox = Sandbox::with(&small(200));
    sandbox.run(&[]);
    has(&sandbox.call(&["verify"]).ok().stdout, &["all as they were stored"]);
    let blob = largest(&sandbox);
    flip(&blob);
    let report = sandbox.call(&["verify", "p.yaml", "--format", "json"]).code(1).json();
    assert_eq!((report["sound"].clone(), report["damaged"].as_array().unwrap().len()), (false.into(), 1));
    assert!(!report["forgotten"].as_object().unwrap().is_empty());
    assert!(!blob.exists(), "set aside");
    sandbox.call(&["verify"]).ok();
    assert!(sandbox.run(&[])["executed"].as_u64().unwrap() >= 1);
    sandbox.call(&["verify"]).ok();
    assert_eq!(sandbox.call(&["status", "p.yaml", "--format", "json"]).json()["counts"]["fresh"], 4);
    let aside = sandbox.call(&["gc", "--aside", "--format", "json"]).ok().json();
    assert!(aside["removed"]["aside"]["files"].as_u64().unwrap() >= 2);
}

fn largest(sandbox: &Sandbox) -> std::path::PathBuf {
    let blobs = files(&sandbox.file(".palinode/objects"));
    blobs.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn flip(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bytes = fs::read(path).unwrap();
    bytes[17] ^= 4;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_exported_result_is_a_hit_elsewhere() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&[]);
    let told = sandbox.call(&["export", "p.yaml", "figure2", "-o", "figure2.tar"]).ok().stdout;
    has(&told, &["figure2.tar: 1 result with 24 ancestors"]);
    let other = Sandbox::with(MINI);
    other.write("figure2.tar", sandbox.read("figure2.tar"));
    let ran = other.call(&["import", "figure2.tar", "p.yaml", "--pin", "theirs"]).ok();
    has(&ran.stdout, &["25 results new, 0 here already"]);
    other.call(&["gc", "--keep-runs", "0"]).ok();
    assert_eq!(other.run(&[])["executed"], 0);
    assert_eq!(other.read("out/figure2.csv"), sandbox.read("out/figure2.csv"));
    // Cut short: nothing is taken.
    let bytes = sandbox.read("figure2.tar");
    let third = Sandbox::new();
    third.write("cut.tar", &bytes[..bytes.len() / 2]);
    has(&third.call(&["import", "cut.tar"]).code(2).stderr, &["cut.tar can't be imported"]);
    assert!(files(&third.file(".palinode/objects")).is_empty() && files(&third.file(".palinode/records")).is_empty());
    third.call(&["import", "none.tar"]).code(2);
}

#[test]
fn files_of_stages_that_are_gone_are_told_and_removed_only_if_asked_for() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&["figure2"]);
    sandbox.write("p.yaml", MINI.replace("figure2:", "figure3:"));
    sandbox.run(&[]);
    let status = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    has(&status, &["3 files of stages that are gone, like out/figure2.csv"]);
    sandbox.call(&["gc", "p.yaml", "--keep-runs", "1"]).ok();
    assert!(sandbox.file("out/figure2.svg").exists());
    sandbox.write("out/figure2.csv", "mine now");
    has(
        &sandbox.call(&["gc", "p.yaml", "--out", "--dry-run"]).ok().stdout,
        &["would remove out/figure2.svg (of figure2)"],
    );
    let told = sandbox.call(&["gc", "p.yaml", "--out"]).ok().stdout;
    has(&told, &["removed out/figure2.svg", "kept, since it was altered: out/figure2.csv"]);
    let left: Vec<_> = files(&sandbox.file("out")).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["figure2.csv", "figure3.csv", "figure3.png", "figure3.svg"]);
    sandbox.call(&["gc", "--out"]).code(2);
}

/// Moments at which the collector is killed: a few here, as many as `PALINODE_CRASH_ROUNDS` says in the full dose.
fn rounds() -> u64 {
    std::env::var("PALINODE_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(8)
}

#[test]
fn a_collector_killed_at_any_time_leaves_whole_results() {
    let sandbox = Sandbox::with(&small(200));
    for round in 0..rounds() {
        for sentences in [100 + round, 300 + round] {
            sandbox.write("p.yaml", small(sentences as usize));
            sandbox.run(&[]);
        }
        let mut child = start(&sandbox, &["gc", "--keep-runs", "1"]);
        sleep(Duration::from_micros(1000 + round * 1700 % 14_000));
        child.kill().unwrap();
        child.wait().unwrap();
        // No record without its bytes, and the last run's results untouched.
        let report = sandbox.call(&["verify", "--format", "json"]).ok().json();
        assert_eq!(report["lost"], Value::Object(Default::default()));
        let status = sandbox.call(&["status", "p.yaml", "--format", "json"]).ok().json();
        assert_eq!(status["counts"]["fresh"], 4, "round {round}");
    }
    sandbox.call(&["gc", "--keep-runs", "1"]).ok();
    assert_eq!(
        sandbox.call(&["gc", "--keep-runs", "1", "--format", "json"]).ok().json()["removed"],
        Value::Object(Default::default())
    );
}

#[test]
fn collecting_again_and_again_harms_no_run() {
    let sandbox = Sandbox::with(MINI);
    let mut collector = None;
    for round in 0..10 {
        // Back and forth, so that runs find results that only older runs made: just what a collector is after.
        let rate = ["0.01", "0.02", "0.03"][round % 3];
        sandbox.write(
            "p.yaml",
            MINI.replace("learning_rate: 0.01, steps: 20", &format!("learning_rate: {rate}, steps: 20")),
        );
        let mut run = start_piped(&sandbox);
        while run.try_wait().unwrap().is_none() {
            let ended = collector.as_mut().is_none_or(|child: &mut Child| child.try_wait().unwrap().is_some());
            if ended {
                collector = Some(start(&sandbox, &["gc", "--keep-runs", "0"]));
            }
            sleep(Duration::from_millis(2));
        }
        let ran = Ran::from(run.wait_with_output().unwrap()).ok();
        let summary = ran.json();
        assert_eq!(
            summary["executed"].as_u64().unwrap() + summary["cached"].as_u64().unwrap(),
            INSTANCES,
            "round {round}"
        );
    }
    collector.map(|mut child| child.wait().unwrap());
    sandbox.call(&["verify"]).ok();
}

fn start_piped(sandbox: &Sandbox) -> Child {
    let mut command = sandbox.command(&["run", "p.yaml", "--format", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("palinode starts")
}
