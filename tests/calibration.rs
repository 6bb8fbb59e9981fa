//! Judging judges, end to end: the study's pipeline in its small form.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{schema::problem, support::Sandbox};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/paper");

/// The pipeline and its small lists.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    for name in ["judge-calibration.yaml", "small/words.txt", "small/hurtlex.tsv", "small/linear.tsv"] {
        sandbox.write(name, fs::read(Path::new(FOLDER).join(name)).unwrap());
    }
    sandbox
}

#[test]
fn the_small_profile_gives_all_figures() {
    let sandbox = sandbox();
    sandbox.call(&["run", "judge-calibration.yaml", "--profile", "small"]).ok();
    for figure in ["figure9", "figure10", "figure9and10", "figure_hurtlex", "figure_agreement", "figure_identities"] {
        for extension in ["svg", "png", "csv"] {
            assert!(!sandbox.read(&format!("out/{figure}.{extension}")).is_empty());
        }
    }
    // The control: a judge that knows all words is wrong where labels are, in 5 of 100.
    let csv = String::from_utf8(sandbox.read("out/figure_planted.csv")).unwrap();
    let (header, row) = csv.split_once('\n').unwrap();
    let at = header.split(',').position(|name| name == "accuracy").unwrap();
    let accuracy: f64 = row.trim_end().split(',').nth(at).unwrap().parse().unwrap();
    assert!((0.93..0.97).contains(&accuracy), "{accuracy}");
    let again = sandbox.call(&["plan", "judge-calibration.yaml", "--profile", "small"]).ok().stdout;
    assert!(again.ends_with(" cached, 0 to run, 0 may run\n"), "{again}");
}

#[test]
fn the_pipeline_is_sound_and_satisfies_the_schema() {
    let sandbox = sandbox();
    for name in ["labeled_data.csv", "en_sentence_templates.csv", "words.txt", "hurtlex_EN.tsv", "linear.tsv"] {
        sandbox.write(&format!("data/{name}"), "x");
    }
    sandbox.call(&["check", "judge-calibration.yaml"]).ok();
    let text = fs::read_to_string(Path::new(FOLDER).join("judge-calibration.yaml")).unwrap();
    let schema = fs::read_to_string(Path::new(FOLDER).join("../palinode.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert!(text.starts_with("# yaml-language-server: $schema=../palinode.schema.json\n"));
    assert_eq!(problem(&schema, &serde_yaml::from_str(&text).unwrap()), None);
}
