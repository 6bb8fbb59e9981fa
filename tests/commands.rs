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
        "pretrain.mlm",
        "model",
        "prompts.templates",
        "prompts.honest",
        "prompts.honest_race",
        "prompts.csv",
        "prompts.jsonl",
        "generate",
        "judge.lexicon",
        "judge.honest",
        "judge.linear",
        "judge.classifier",
        "labels.table",
        "labels.planted",
        "export.labels",
        "labels.import",
        "judge.evaluate",
        "judge.agreement",
        "judge.llm",
        "judge.perspective",
        "counterfactuals.templates",
        "counterfactuals.llm",
        "counterfactuals.jsonl",
        "finetune",
        "perplexity",
        "divergence",
        "evaluate.toxicity",
        "evaluate.divergence",
        "lens",
        "figure.toxicity",
        "figure.lens",
        "figure.divergence",
        "figure.curve",
        "figure.confusion",
        "figure.honest_race",
        "dataset.table",
        "dataset.sst2",
        "dataset.imdb",
        "dataset.downsample",
        "finetune.classifier",
        "predict.classifier",
        "finetune.instruction",
        "predict.instruction",
        "baseline.bow",
        "evaluate.groups",
        "evaluate.boundary",
        "table.disparity",
        "figure.accuracy",
        "figure.boundary",
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

#[test]
fn a_device_is_chosen_in_the_file_or_for_all() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&[]);
    // The same device by another name: keys hold what it comes to.
    let plan = |device: &str| sandbox.call(&["plan", "p.yaml", "--device", device]);
    assert!(plan("cpu").ok().stdout.ends_with(" cached, 0 to run, 0 may run\n"));
    for (device, message) in [("gpu", "`gpu` is no device"), ("cuda:7", "`cuda:7`"), ("tch", "`tch`")] {
        let told = plan(device);
        // A build with these backends, on a machine with such devices, has nothing to tell.
        if device == "gpu" || !told.stderr.is_empty() {
            assert!(told.code(2).stderr.contains(message));
        }
    }
    let told = sandbox.call(&["plan", "p.yaml", "--set", "stages.base.with.device=x"]).code(2).stderr;
    assert!(told.contains("`x` is no device") && told.contains("`auto`"), "{told}");
}
