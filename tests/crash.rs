//! Two processes on one cache, and `kill -9` at any time.

use std::{process::Stdio, thread::sleep, time::Duration};

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
fn rounds() -> u64 {
    std::env::var("PALINODE_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(8)
}

#[test]
fn killed_at_any_time_the_next_run_goes_on() {
    let whole = Sandbox::with(MINI);
    whole.run(&[]);
    for lot in 0..rounds().div_ceil(8) {
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
