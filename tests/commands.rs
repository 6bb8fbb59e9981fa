//! The small commands.

use crate::{mini::MINI, support::Sandbox};

#[test]
fn kinds_tell_their_ports_and_params() {
    let sandbox = Sandbox::new();
    let all = sandbox.call(&["kinds"]).ok().stdout;
    let names = [
        "corpus.planted",
        "tokenizer.train",
        "pretrain",
        "model",
        "prompts.templates",
        "prompts.honest",
        "generate",
        "judge.lexicon",
        "counterfactuals.templates",
        "finetune",
        "evaluate.toxicity",
        "lens",
        "figure.toxicity",
        "figure.lens",
        "figure.curve",
        "command",
    ];
    for name in names {
        assert!(all.lines().any(|line| line == name), "`{name}` is missing in:\n{all}");
    }
    let one = sandbox.call(&["kinds", "finetune"]).ok().stdout;
    for word in ["rank", "learning_rate", "model: model", "modules: list of string | null"] {
        assert!(one.contains(word), "`{word}` is missing in:\n{one}");
    }
    sandbox.call(&["kinds", "nothing"]).code(2);
    let json = sandbox.call(&["kinds", "--format", "json"]).ok().json();
    assert_eq!(json.as_array().unwrap().len(), names.len());
}

#[test]
fn graphs_are_drawn() {
    let sandbox = Sandbox::with(MINI);
    let mermaid = sandbox.call(&["graph", "p.yaml"]).ok().stdout;
    assert!(mermaid.starts_with("flowchart") || mermaid.starts_with("graph"), "{mermaid}");
    assert!(mermaid.contains("tuned"));
    assert!(sandbox.call(&["graph", "p.yaml", "--format", "dot"]).ok().stdout.starts_with("digraph"));
}

#[test]
fn status_and_logs() {
    let sandbox = Sandbox::with(MINI);
    let status = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    assert!(status.lines().all(|line| line.contains("never run")), "{status}");
    sandbox.run(&["tuned[seed=0,rank=2]"]);
    let status = sandbox.call(&["status", "p.yaml"]).ok().stdout;
    assert!(status.lines().any(|line| line.starts_with("world") && line.ends_with("fresh")), "{status}");
    assert!(status.lines().any(|line| line.starts_with("tuned") && line.contains("1 fresh")), "{status}");
    let logs = sandbox.call(&["logs", "p.yaml", "tuned[seed=0,rank=2]"]).ok().stdout;
    assert!(logs.starts_with("== tuned[seed=0,rank=2]\n"), "{logs}");
}

#[test]
fn a_run_is_logged_as_json() {
    let sandbox = Sandbox::with(MINI);
    let ran = sandbox.call(&["run", "p.yaml", "tokenizer", "--log-format", "json"]).ok();
    for line in ran.stderr.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    }
    assert!(ran.stderr.contains("\"stage_finished\""), "{}", ran.stderr);
}
