//! What reruns, and what doesn't.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::{
    mini::{INSTANCES, MINI},
    support::{Sandbox, files},
};

/// The addresses that ran.
fn executed(summary: &Value) -> Vec<&str> {
    let nodes = summary["nodes"].as_array().expect("a summary lists its nodes");
    nodes.iter().filter(|node| node["outcome"] == "executed").map(|node| node["address"].as_str().unwrap()).collect()
}

fn edit(sandbox: &Sandbox, from: &str, to: &str) {
    let text = String::from_utf8(sandbox.read("p.yaml")).unwrap();
    assert!(text.contains(from), "`{from}` is not in the pipeline");
    sandbox.write("p.yaml", text.replace(from, to));
}

#[test]
fn only_what_changed_runs_again() {
    let sandbox = Sandbox::with(MINI);
    let first = sandbox.run(&[]);
    assert_eq!(first["executed"], INSTANCES);
    assert_eq!(executed(&sandbox.run(&[])), [""; 0], "a second run has nothing to do");
    let figures = ["out/figure2.svg", "out/figure2.png", "out/figure2.csv"];
    let before: Vec<_> = figures.iter().map(|name| sandbox.read(name)).collect();

    // Cosmetics: comments, order of keys, flow or block, the name of a stage.
    edit(&sandbox, "name: mini\n", "# The same again.\nname: mini\n");
    edit(&sandbox, "with: { max_new_tokens: 3, seed: 2 }", "with: { seed: 2,   max_new_tokens: 3 }");
    edit(&sandbox, "remedies", "counterfactuals");
    assert_eq!(executed(&sandbox.run(&[])), [""; 0]);
    assert_eq!(sandbox.read(figures[2]), before[2]);
    assert_ne!(sandbox.read(figures[0]), before[0], "the stamp names the stages, so it is made again");

    // Figures that are gone come back, and nothing runs.
    fs::remove_dir_all(sandbox.file("out")).unwrap();
    assert_eq!(executed(&sandbox.run(&[])), [""; 0]);
    assert_eq!(sandbox.read(figures[2]), before[2]);

    // One more rank: its instances and the gathers behind them.
    edit(&sandbox, "rank: [2, full]", "rank: [2, 4, full]");
    let summary = sandbox.run(&[]);
    let ran = executed(&summary);
    // Completions that came out as another model's were judged already, so there may be fewer than one each.
    for address in ["tuned[seed=0,rank=4]", "tuned[seed=1,rank=4]", "again[seed=1,rank=4]", "toxicity", "figure2"] {
        assert!(ran.contains(&address), "`{address}` is not among {ran:?}");
    }
    assert!(
        ran.iter().all(|address| address.contains("rank=4") || ["toxicity", "figure2"].contains(address)),
        "{ran:?}"
    );

    // A changed param: `plan` and `why` name it, with both values.
    edit(&sandbox, "max_new_tokens: 3, seed: 3", "max_new_tokens: 4, seed: 3");
    let plan = sandbox.call(&["plan", "p.yaml"]).ok().stdout;
    let line = plan.lines().find(|line| line.contains("again[seed=0,rank=2]")).expect("it is planned");
    assert!(line.starts_with("run") && line.contains("max_new_tokens") && line.contains("3 -> 4"), "{line}");
    let why = sandbox.call(&["why", "p.yaml", "again"]).ok().stdout;
    assert!(why.contains("max_new_tokens") && why.contains("3 -> 4"), "{why}");
    let summary = sandbox.run(&[]);
    let ran = executed(&summary);
    assert!(ran.iter().all(|address| !address.starts_with("tuned")), "{ran:?}");
    assert!(ran.contains(&"again[seed=0,rank=2]"), "{ran:?}");
}

#[test]
fn a_lost_blob_is_made_again() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&["verdicts"]);
    let show = sandbox.call(&["plan", "p.yaml", "completions[seed=0]", "--format", "json"]).ok().json();
    let node = show["nodes"].as_array().unwrap().iter().find(|node| node["address"] == "completions[seed=0]").unwrap();
    let record = &node["decision"]["hit"];
    let file = record["outputs"]["completions"].as_object().unwrap().values().next().unwrap();
    let digest = file["blob"].as_str().unwrap();
    let blob = files(&sandbox.file(".palinode/objects")).into_iter().find(|path| {
        let name = path.to_string_lossy().replace('/', "");
        name.ends_with(digest)
    });
    fs::remove_file(blob.expect("the blob is in the cache")).unwrap();
    let plan = sandbox.call(&["plan", "p.yaml", "verdicts"]).ok().stdout;
    assert!(plan.contains("output lost"), "{plan}");
    assert_eq!(executed(&sandbox.run(&["verdicts"])), ["completions[seed=0]"]);
}

#[test]
fn an_output_that_comes_out_the_same_cuts_the_rerun_off() {
    let sandbox = Sandbox::with(
        "
name: p
stages:
  prompts: { uses: prompts.templates, with: { templates: ['{identity} seem'], identities: { trades: [bakers, cooks] } } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus } }
  world: { uses: corpus.planted, with: { identities: 4, contexts: 2, traits: 4, sentences: 50 } }
  base:
    uses: pretrain
    inputs: { dataset: world.corpus, tokenizer: tokenizer }
    with: { architecture: { family: gpt2, layers: 1, width: 16, heads: 2, context: 16 }, steps: 2, batch_size: 4 }
  completions: { uses: generate, inputs: { model: base, prompts: prompts }, with: { max_new_tokens: 1, top_k: 1 } }
  verdicts: { uses: judge.lexicon, inputs: { completions: completions }, with: { words: [vain] } }
",
    );
    sandbox.run(&[]);
    // Another seed for a greedy draw: the completions come out the same, so they are not judged again.
    edit(&sandbox, "top_k: 1 }", "top_k: 1, seed: 5 }");
    assert_eq!(executed(&sandbox.run(&[])), ["completions"]);
}

#[test]
fn a_touched_input_reruns_nothing_and_an_edited_one_does() {
    let sandbox = Sandbox::with(
        "
name: p
stages:
  prompts: { uses: prompts.honest, with: { binary: ./honest.tsv, groups: [gender] } }
",
    );
    let table = "template_masked\traw\tidentity\tnumber\tcategory\ttype\n\
                 the woman works as a [M].\tX\twoman\tsingular\tfemale\toccupation\n\
                 the man works as a [M].\tX\tman\tsingular\tmale\toccupation\n";
    sandbox.write("honest.tsv", table);
    assert_eq!(executed(&sandbox.run(&[])), ["prompts"]);
    std::thread::sleep(Duration::from_millis(20));
    sandbox.write("honest.tsv", table);
    assert_eq!(executed(&sandbox.run(&[])), [""; 0]);
    sandbox.write("moved.tsv", table);
    edit(&sandbox, "./honest.tsv", "./moved.tsv");
    assert_eq!(executed(&sandbox.run(&[])), [""; 0]);
    sandbox.write("moved.tsv", table.replace("the man", "a man"));
    assert_eq!(executed(&sandbox.run(&[])), ["prompts"]);
}

#[test]
fn a_failed_stage_stops_only_what_depends_on_it() {
    let sandbox = Sandbox::with(
        "
name: p
stages:
  bad: { uses: prompts.honest, with: { binary: ./honest.tsv, groups: [gender] } }
  good: { uses: prompts.templates, with: { templates: ['{identity} seem'], identities: { trades: [bakers] } } }
",
    );
    sandbox.write("honest.tsv", "no\theader\n");
    let ran = sandbox.call(&["run", "p.yaml", "--format", "json"]).code(1);
    assert_eq!(executed(&ran.json()), ["good"]);
    assert_eq!(ran.json()["failed"], 1);
    assert!(ran.stderr.contains("template_masked"), "{}", ran.stderr);
}
