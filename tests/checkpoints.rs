//! Training that is killed goes on from its last checkpoint, to the same bytes; through real processes.

use std::fs;

use serde_json::Value;

use crate::{
    scheduling::{Running, is_gone, pipeline, wait_for},
    support::{Sandbox, files},
};

/// An adapter with dropout, evaluation and best weights.
const TUNED: &str = "  verdicts: { uses: judge.lexicon, inputs: { completions: completions, lexicon: world.lexicon } }
  remedies: { uses: counterfactuals.templates, inputs: { verdicts: verdicts, statements: world.statements } }
  tuned:
    uses: finetune
    inputs: { model: base, data: remedies }
    with:
      rank: 4
      steps: 200
      batch_size: 4
      accumulation: 2
      dropout: 0.2
      learning_rate: 0.01
      evaluate: { every: 3, share: 0.3, keep: best }
      checkpoint_minutes: 0
";

/// A base of 200 steps, and what is tuned of it; a checkpoint after each step.
fn text() -> String {
    pipeline("200", "").replace("batch_size: 16", "batch_size: 16\n      checkpoint_minutes: 0") + TUNED
}

/// Digests of what a stage gave.
fn outputs(sandbox: &Sandbox, stage: &str) -> Value {
    let plan = sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json();
    let nodes = plan["nodes"].as_array().expect("a list");
    let node = nodes.iter().find(|node| node["address"] == stage).expect("the stage");
    let hit = node["decision"]["hit"].clone();
    assert!(!hit.is_null(), "{stage}: {node}");
    hit
}

fn checkpoints(sandbox: &Sandbox) -> usize {
    files(&sandbox.file(".palinode/checkpoints")).len()
}

/// Steps of `stage` that were done, from a line of progress.
fn steps(line: &str) -> u64 {
    let line: Value = serde_json::from_str(line).expect("JSON");
    line["event"]["stage_progress"]["done"].as_u64().expect("steps")
}

#[test]
fn killed_training_comes_to_the_same_bytes() {
    let whole = Sandbox::with(&text());
    whole.run(&[]);
    assert_eq!(checkpoints(&whole), 0, "what is done keeps none");
    let sandbox = Sandbox::with(&text());
    let (mut resumed, mut furthest) = (0, 0);
    for (stage, least) in [("base", 2), ("base", 7), ("base", 30), ("tuned", 1), ("tuned", 8), ("tuned", 22)] {
        let mut run = Running::start(&sandbox, &[]);
        let mark = format!("\"address\":\"{stage}\"");
        run.says(&["stage_started", &mark]);
        let worker = run.worker();
        let mut first = None;
        loop {
            let line = run.says(&["stage_progress", &mark, "\"unit\":\"step\""]);
            first.get_or_insert(steps(&line));
            furthest = steps(&line);
            if furthest >= least {
                break;
            }
        }
        resumed += u64::from(first.is_some_and(|first| first > 1));
        run.signal("KILL");
        wait_for(|| is_gone(worker).then_some(()));
    }
    assert!(resumed >= 3 && furthest < 200, "{resumed} of 6 went on from a checkpoint");
    // A checkpoint that was half written when the power went.
    let torn = sandbox.file(".palinode/checkpoints");
    let state = files(&torn).pop().expect("a checkpoint");
    let kept = fs::read(&state).expect("it can be read");
    let cut = state.parent().expect("a folder").with_file_name(format!("99999999-{}", "0".repeat(64)));
    fs::create_dir(&cut).expect("a folder");
    fs::write(cut.join("training.safetensors"), &kept[..kept.len() / 2]).expect("a file");

    // What took long is on disk when its checkpoints go; what is quick may have been lost with the batch that it was in.
    outputs(&sandbox, "base");
    sandbox.run(&[]);
    let log = sandbox.call(&["logs", "p.yaml", "tuned"]).ok().stdout;
    assert!(log.contains("goes on after step "), "{log}");
    for stage in ["base", "tuned"] {
        assert_eq!(outputs(&sandbox, stage)["outputs"], outputs(&whole, stage)["outputs"], "{stage}");
    }
    assert_eq!(checkpoints(&sandbox), 0);
}

#[test]
fn interrupted_once_it_keeps_a_checkpoint_that_the_collector_leaves() {
    let sandbox = Sandbox::with(&pipeline("100000000", ""));
    let mut run = Running::start(&sandbox, &[]);
    run.says(&["stage_progress", "\"address\":\"base\""]);
    run.signal("INT");
    let (code, said) = run.end();
    assert_eq!(code, 130, "{said}");
    assert!(checkpoints(&sandbox) == 1, "{said}");
    sandbox.call(&["gc", "p.yaml"]).ok();
    assert_eq!(checkpoints(&sandbox), 1);
    // What is started again goes on, and stops again.
    let mut run = Running::start(&sandbox, &[]);
    run.says(&["goes on after step "]);
    let line = run.says(&["stage_progress", "\"address\":\"base\"", "\"unit\":\"step\""]);
    assert!(steps(&line) > 1, "{line}");
    run.signal("INT");
    assert_eq!(run.end().0, 130);
    // Nobody goes on with it once so many other runs were made that its own is forgotten.
    sandbox.call(&["gc", "p.yaml", "--keep-runs", "0"]).ok();
    assert_eq!(checkpoints(&sandbox), 0);
}
