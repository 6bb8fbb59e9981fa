//! Two processes on one cache, and `kill -9` at any time.

use std::{
    collections::BTreeMap, os::unix::process::ExitStatusExt as _, process::Stdio, thread::sleep, time::Duration,
};

use serde_json::Value;

use crate::{
    mini::{INSTANCES, MINI},
    support::Sandbox,
};

#[test]
fn two_processes_share_the_work() {
    let sandbox = Sandbox::with(MINI);
    let start = || {
        let mut command = sandbox.command(&["run", "p.yaml", "--format", "json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("palinode starts")
    };
    let children = [start(), start()];
    let mut executed = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        executed += summary["executed"].as_u64().unwrap();
    }
    assert_eq!(executed, INSTANCES, "each stage runs in one of the two");
    assert_eq!(sandbox.run(&[])["executed"], 0);
}

/// Moments at which a run is killed: a few here, as many as `PALINODE_CRASH_ROUNDS` says in the full dose.
fn rounds(few: u64) -> u64 {
    std::env::var("PALINODE_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(few)
}

#[test]
fn killed_at_any_time_the_next_run_goes_on() {
    let whole = Sandbox::with(MINI);
    whole.run(&[]);
    for lot in 0..rounds(8).div_ceil(8) {
        let sandbox = Sandbox::with(MINI);
        let mut done = 0;
        for round in 0..8 {
            let mut command = sandbox.command(&["run", "p.yaml"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("palinode starts");
            // Another set of moments in each lot.
            sleep(Duration::from_millis(5 + (lot * 7 + round * 37) % 160));
            child.kill().unwrap();
            child.wait().unwrap();
            let plan = sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json();
            let nodes = plan["nodes"].as_array().unwrap();
            let hits = nodes.iter().filter(|node| node["decision"].get("hit").is_some()).count();
            assert!(hits >= done, "what was recorded stays recorded");
            done = hits;
        }
        let summary = sandbox.run(&[]);
        assert_eq!(summary["executed"].as_u64().unwrap() + summary["cached"].as_u64().unwrap(), INSTANCES);
        assert_eq!(sandbox.read("out/figure2.csv"), whole.read("out/figure2.csv"));
    }
}

/// Quick stages, so that nearly all of a run is the engine's own steps; two of them give the same result.
const QUICK: &str = "
name: quick
axes: { seed: [0, 1, 2] }
stages:
  world: { uses: corpus.planted, over: [seed], with: { identities: 4, contexts: 2, traits: 4, sentences: 20, seed: '${seed}' } }
  again: { uses: corpus.planted, with: { identities: 4, contexts: 2, traits: 4, sentences: 20, seed: 1 } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus }, with: { model: word } }
";
const QUICK_INSTANCES: u64 = 3 + 1 + 3;

/// Kills `palinode ARGS` before its `nth` step that changes files; tells whether it came that far.
fn killed_at(sandbox: &Sandbox, args: &[&str], nth: u64) -> bool {
    let output = sandbox.command(args).env("PALINODE_CRASH_AFTER", nth.to_string()).output().expect("palinode starts");
    match output.status.signal() {
        Some(9) => true,
        signal => {
            assert!(output.status.success(), "signal {signal:?}: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
    }
}

/// What is in the cache is whole, and a run from here gives what an undisturbed one gives.
fn assert_goes_on(sandbox: &Sandbox, whole: &BTreeMap<String, Value>, nth: u64) {
    let plan = sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json();
    for (address, outputs) in hits(&plan) {
        assert_eq!(outputs, whole[&address], "killed at step {nth}: a wrong result of {address}");
    }
    // Killed before there is a cache, there is nothing to verify.
    if sandbox.file(".palinode/format").exists() {
        sandbox.call(&["verify"]).ok();
    }
    let summary = sandbox.run(&[]);
    let done = summary["executed"].as_u64().unwrap() + summary["cached"].as_u64().unwrap();
    assert_eq!(done, QUICK_INSTANCES, "killed at step {nth}");
    let plan = sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json();
    assert_eq!(hits(&plan), *whole, "killed at step {nth}");
}

/// The outputs of what is planned as a hit, by address.
fn hits(plan: &Value) -> BTreeMap<String, Value> {
    let nodes = plan["nodes"].as_array().expect("a plan lists its nodes");
    let hit = |node: &Value| {
        let outputs = node["decision"].get("hit")?["outputs"].clone();
        Some((node["address"].as_str()?.to_owned(), outputs))
    };
    nodes.iter().filter_map(hit).collect()
}

#[test]
fn killed_before_any_step_that_changes_files_nothing_is_half_or_wrong() {
    let undisturbed = Sandbox::with(QUICK);
    undisturbed.run(&[]);
    let whole = hits(&undisturbed.call(&["plan", "p.yaml", "--format", "json"]).ok().json());
    assert_eq!(whole.len() as u64, QUICK_INSTANCES);

    // How many steps there are, roughly: they differ a little from run to run, with the order in which stages end.
    let mut steps = 16;
    while killed_at(&Sandbox::with(QUICK), &["run", "p.yaml"], steps) {
        steps *= 2;
        assert!(steps < 1 << 16, "a run of {QUICK_INSTANCES} instances takes that many steps?");
    }
    // Spread over all of them, another way in each dose (2^64 / golden ratio gives well spread moments).
    let mut killed = 0;
    for round in 0..rounds(20) {
        let sandbox = Sandbox::with(QUICK);
        let spread = (round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) as f64 / u64::MAX as f64;
        let nth = 1 + (spread * steps as f64) as u64;
        if killed_at(&sandbox, &["run", "p.yaml"], nth) {
            killed += 1;
            // And once more while it recovers.
            killed_at(&sandbox, &["run", "p.yaml"], 1 + nth / 3);
        }
        assert_goes_on(&sandbox, &whole, nth);
    }
    assert!(killed >= rounds(20) / 3, "only {killed} of {} moments were within the run", rounds(20));
}
