//! The classification study in small, as the pipelines in `pipelines/paper` have it.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{Ran, Sandbox};

const PAPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/paper");

/// Runs a pipeline of the study on made-up data.
fn small(sandbox: &Sandbox, name: &str, more: &[&str]) -> Ran {
    let pipeline = format!("{PAPER}/{name}.yaml");
    let args = ["run", &pipeline, "--profile", "small", "--format", "json", "--cache", "cache", "--out", "out"];
    sandbox.call(&args.iter().chain(more).copied().collect::<Vec<_>>())
}

/// The addresses that ran.
fn executed(summary: &Value) -> Vec<String> {
    let nodes = summary["nodes"].as_array().expect("a summary lists its nodes");
    let ran = nodes.iter().filter(|node| node["outcome"] == "executed");
    ran.map(|node| node["address"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn gpt2_makes_its_figures_and_a_changed_label_trains_nothing() {
    let sandbox = Sandbox::new();
    small(&sandbox, "classification-gpt2", &[]).ok();
    for name in
        ["figure4.svg", "figure4.png", "figure4.csv", "figure5.svg", "disparity.md", "disparity.tex", "disparity.csv"]
    {
        assert!(sandbox.file("out").join(name).exists(), "{name} in {:?}", fs::read_dir(sandbox.file("out")));
    }
    assert!(executed(&small(&sandbox, "classification-gpt2", &[]).ok().json()).is_empty());

    // A rank more: what it takes, and what gathers.
    let summary = small(&sandbox, "classification-gpt2", &["--set", "axes.rank=[2,4,full]"]).ok().json();
    let ran = executed(&summary);
    let gathers = ["groups", "boundary", "figure4", "figure5", "disparity"];
    let expected =
        |address: &String| address.contains("rank=4") || gathers.contains(&address.split('[').next().unwrap());
    assert!(ran.iter().any(|address| address.starts_with("tuned[")) && ran.iter().all(expected), "{ran:?}");

    // One label of the test part: no training, and evaluation.
    let test = Path::new(PAPER).join("small/test.tsv");
    let text = fs::read_to_string(test).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let (row, rest) = rest.split_once('\n').unwrap();
    let (sentence, label) = row.split_once('\t').unwrap();
    let turned = if label == "1" { "0" } else { "1" };
    sandbox.write("test.tsv", format!("{first}\n{sentence}\t{turned}\n{rest}"));
    let place = sandbox.file("test.tsv");
    let set = format!("stages.data.with.test={}", place.display());
    let ran = executed(&small(&sandbox, "classification-gpt2", &["--set", &set]).ok().json());
    let has = |stage: &str| ran.iter().any(|address| address.split('[').next() == Some(stage));
    assert!(!has("tuned") && !has("sampled") && has("predicted") && has("groups") && has("figure4"), "{ran:?}");
    let why = sandbox.call(&[
        "why",
        &format!("{PAPER}/classification-gpt2.yaml"),
        "groups",
        "--profile",
        "small",
        "--cache",
        "cache",
        "--set",
        &set,
    ]);
    assert!(why.stdout.contains("predictions"), "{}{}", why.stdout, why.stderr);
}

#[test]
fn table_1_puts_models_side_by_side() {
    let sandbox = Sandbox::new();
    small(&sandbox, "table1", &[]).ok();
    let table = String::from_utf8(sandbox.read("out/table1.md")).unwrap();
    assert!(table.contains("GPT-2, SST-2: paper's HBG") && table.contains("OPT 1.3B, SST-2: signed gap"), "{table}");
}

#[test]
fn bert_and_opt_make_theirs() {
    let sandbox = Sandbox::new();
    for (name, figure) in [("classification-bert", "figure7.svg"), ("classification-opt", "figure8.svg")] {
        small(&sandbox, name, &[]).ok();
        assert!(sandbox.file("out").join(figure).exists());
        assert!(!sandbox.file("out/figure4.svg").exists());
    }
}

#[test]
fn the_study_on_a_cpu_pretrains_its_own_models() {
    let sandbox = Sandbox::new();
    let summary = small(&sandbox, "classification-cpu", &[]).ok().json();
    let ran = executed(&summary);
    for stage in ["base[", "bert_base[", "tuned[", "bert_tuned[", "all_predicted"] {
        assert!(ran.iter().any(|address| address.starts_with(stage)), "{stage} {ran:?}");
    }
    for figure in ["figure4.svg", "figure5.svg", "disparity.md", "figure7.svg", "bert_figure5.svg", "bert_disparity.md"]
    {
        assert!(sandbox.file("out").join(figure).exists(), "{figure}");
    }
}
