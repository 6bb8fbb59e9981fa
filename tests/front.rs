//! What helps to write a pipeline: `check`, `schema`, `init`, completions, and layers, through the real binary.

use std::fs;

use serde_json::{Value, json};

use crate::{schema::problem, support::Sandbox};

const GOOD: &str = "
name: p
params: { seed: 1 }
stages:
  world: { uses: corpus.planted, with: { seed: \"${params.seed}\" } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus } }
";

#[test]
fn a_sound_pipeline_passes() {
    let checked = Sandbox::with(GOOD).call(&["check", "p.yaml"]).ok();
    assert_eq!(checked.stdout, "p.yaml: 2 instances; no problems\n");
    assert_eq!(checked.stderr, "");
}

#[test]
fn all_problems_and_lints_are_told_at_once() {
    let text = GOOD
        .replace("params: { seed: 1 }", "params: { seed: 1, sed: 2 }\naxes: { rank: [1] }\ndefaults: { lens: {} }")
        .replace("inputs:", "input:");
    let sandbox = Sandbox::with(&text);
    let checked = sandbox.call(&["check", "p.yaml"]).code(2);
    for words in [
        "did you mean `inputs`?",
        "nothing uses the param `params.sed` (unused-param)",
        "no stage is over the axis `rank` (unused-axis)",
        "no stage has the defaults of `lens` (unused-defaults)",
        "p.yaml:3:",
        "2 problems, 3 warnings in p.yaml",
    ] {
        assert!(checked.stderr.contains(words), "`{words}` is missing in:\n{}", checked.stderr);
    }
    let json = sandbox.call(&["check", "p.yaml", "--format", "json"]).code(2).json();
    assert_eq!((&json["errors"], &json["warnings"]), (&json!(2), &json!(3)));
    let findings = json["findings"].as_array().unwrap();
    let lint = findings.iter().find(|finding| finding["lint"] == "unused-param").unwrap();
    assert_eq!((&lint["line"], &lint["column"], &lint["severity"]), (&json!(3), &json!(20), &json!("warning")));
}

#[test]
fn lints_are_denied_and_allowed_by_name() {
    let sandbox = Sandbox::with(&GOOD.replace("params: { seed: 1 }", "params: { seed: 1, unused: 2 }"));
    assert!(sandbox.call(&["check", "p.yaml"]).ok().stdout.contains("2 instances; 1 warning"));
    sandbox.call(&["check", "p.yaml", "--deny", "warnings"]).code(2);
    sandbox.call(&["check", "p.yaml", "--deny", "unused-param"]).code(2);
    sandbox.call(&["check", "p.yaml", "--deny", "unused-axis"]).ok();
    sandbox.call(&["check", "p.yaml", "--deny", "warnings", "--allow", "unused-param"]).ok();
    let unknown = sandbox.call(&["check", "p.yaml", "--deny", "unused"]).code(2);
    assert!(unknown.stderr.contains("there is no lint `unused`"), "{}", unknown.stderr);
    assert!(!sandbox.file(".palinode").exists());
}

#[test]
fn profiles_are_checked_though_nobody_asked_for_them() {
    let sandbox = Sandbox::with(&format!("{GOOD}profiles: {{ small: {{ params: {{ seed: many }} }} }}\n"));
    sandbox.call(&["plan", "p.yaml"]).ok();
    let checked = sandbox.call(&["check", "p.yaml"]).code(2);
    assert!(checked.stderr.contains("with --profile small: `seed` must be"), "{}", checked.stderr);
    sandbox.call(&["plan", "p.yaml", "--profile", "small"]).code(2);
    // What only a profile uses is used.
    let sandbox = Sandbox::with(&format!(
        "{}profiles: {{ big: {{ stages: {{ world: {{ with: {{ traits: \"${{params.traits}}\" }} }} }} }} }}\n",
        GOOD.replace("params: { seed: 1 }", "params: { seed: 1, traits: 8 }")
    ));
    sandbox.call(&["check", "p.yaml", "--deny", "warnings"]).ok();
}

#[test]
fn layers_change_what_runs() {
    let sandbox = Sandbox::with(&format!("{GOOD}profiles: {{ other: {{ params: {{ seed: 2 }} }} }}\n"));
    sandbox.write("mine.yaml", "extends: p.yaml\nparams: { seed: 3 }\n");
    sandbox.write("params.json", "{ \"seed\": 4 }");
    let to_run = |args: &[&str]| {
        let plan = sandbox.call(&[&["plan"], args, &["--format", "json", "--cache", "cache"]].concat()).ok().json();
        plan["nodes"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(to_run(&["p.yaml"]), 2);
    let keys = |args: &[&str]| sandbox.call(&[&["plan"], args, &["--cache", "cache"]].concat()).ok().stdout;
    sandbox.call(&["run", "p.yaml", "--cache", "cache"]).ok();
    assert!(keys(&["p.yaml"]).contains("2 cached, 0 to run"));
    for other in [
        &["mine.yaml"] as &[&str],
        &["p.yaml", "--profile", "other"],
        &["p.yaml", "--params", "params.json"],
        &["p.yaml", "--set", "params.seed=5"],
        &["p.yaml", "--set", "stages.world.with.seed=6"],
    ] {
        assert!(!keys(other).contains("2 cached"), "{other:?}");
    }
    assert!(keys(&["mine.yaml", "--set", "params.seed=1"]).contains("2 cached, 0 to run"));
    let unknown = sandbox.call(&["plan", "p.yaml", "--profile", "othr"]).code(2);
    assert!(unknown.stderr.contains("did you mean `other`?"), "{}", unknown.stderr);
}

#[test]
fn problems_of_another_file_are_drawn_in_it() {
    let sandbox = Sandbox::with("extends: base.yaml\nparams: { seed: 1 }\n");
    sandbox.write("base.yaml", GOOD.replace("tokenizer.train", "tokenizer.trian"));
    let checked = sandbox.call(&["run", "p.yaml"]).code(2);
    for words in ["base.yaml:6:", "tokenizer: { uses: tokenizer.trian", "did you mean `tokenizer.train`?"] {
        assert!(checked.stderr.contains(words), "`{words}` is missing in:\n{}", checked.stderr);
    }
    sandbox.write("base.yaml", "# nothing\n");
    let checked = sandbox.call(&["run", "p.yaml"]).code(2);
    assert!(checked.stderr.contains("base.yaml: the file is empty"), "{}", checked.stderr);
}

#[test]
fn a_gigabyte_of_yaml_is_refused_by_its_size() {
    let sandbox = Sandbox::with("extends: big.yaml\nstages: {}\n");
    // A hole takes no room on the disk.
    fs::File::create(sandbox.file("big.yaml")).unwrap().set_len(1 << 30).unwrap();
    for args in [["check", "big.yaml"], ["run", "p.yaml"]] {
        let started = std::time::Instant::now();
        let refused = sandbox.call(&args).code(2);
        assert!(refused.stderr.contains("big.yaml: the file is larger than 16 MiB"), "{}", refused.stderr);
        assert!(started.elapsed().as_secs() < 2, "it was read");
    }
}

#[test]
fn the_starter_runs_at_once_and_writes_over_nothing() {
    let sandbox = Sandbox::new();
    sandbox.call(&["init", "mine"]).ok();
    let file = "mine/pipeline.yaml";
    sandbox.call(&["check", file, "--deny", "warnings"]).ok();
    sandbox.call(&["run", file]).ok();
    assert!(sandbox.file("mine/out/figure.svg").exists());
    assert!(sandbox.call(&["run", file]).ok().stdout.contains("0 executed"));
    sandbox.call(&["run", file, "--profile", "quick"]).ok();
    sandbox.write(file, "stages: {}\n");
    let again = sandbox.call(&["init", "mine"]).code(2);
    assert!(again.stderr.contains("is there already; nothing was written"), "{}", again.stderr);
    assert_eq!(sandbox.read(file), b"stages: {}\n");
    // What git ignores may be there.
    sandbox.write("new/.gitignore", "*.tmp\n");
    sandbox.call(&["init", "new"]).ok();
    assert_eq!(sandbox.read("new/.gitignore"), b"*.tmp\n");
    assert_eq!(sandbox.read("new/palinode.schema.json"), sandbox.call(&["schema"]).ok().stdout.as_bytes());
}

#[test]
fn shells_get_completions() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sandbox.call(&["completions", shell]).ok().stdout;
        assert!(script.contains("palinode") && script.contains("profile"), "{shell}");
    }
    sandbox.call(&["completions", "tcsh"]).code(2);
}

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/palinode.schema.json");

#[test]
fn the_committed_schema_is_that_of_the_kinds() {
    let now = Sandbox::new().call(&["schema"]).ok().stdout;
    let committed = fs::read_to_string(COMMITTED).unwrap();
    let hint = "a kind has changed: `cargo run --release -- schema > pipelines/palinode.schema.json`";
    assert!(now == committed, "{hint}");
}

#[test]
fn every_pipeline_names_the_schema_and_satisfies_it() {
    let schema: Value = serde_json::from_str(&fs::read_to_string(COMMITTED).unwrap()).unwrap();
    let folders = ["", "/paper"].map(|folder| format!("{}/pipelines{folder}", env!("CARGO_MANIFEST_DIR")));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    let sandbox = Sandbox::new();
    sandbox.call(&["init"]).ok();
    files.push(sandbox.file("pipeline.yaml"));
    assert!(files.len() >= 3);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let up = if file.parent().is_some_and(|folder| folder.ends_with("paper")) { "../" } else { "" };
        let first = format!("# yaml-language-server: $schema={up}palinode.schema.json\n");
        assert!(text.starts_with(&first), "{}", file.display());
        assert_eq!(problem(&schema, &yaml(&text)), None, "{}", file.display());
    }
}

#[test]
fn the_schema_refuses_what_the_engine_refuses() {
    let schema: Value = serde_json::from_str(&fs::read_to_string(COMMITTED).unwrap()).unwrap();
    assert_eq!(problem(&schema, &yaml(GOOD)), None);
    for (from, to) in [
        ("name: p", "name: [p]"),
        ("corpus.planted", "corpus.plantd"),
        ("inputs:", "input:"),
        ("dataset:", "data:"),
        ("\"${params.seed}\"", "many"),
        ("seed: \"${params.seed}\"", "sed: 1"),
        ("inputs: { dataset: world.corpus }", "over: rank"),
        ("tokenizer:", "tokenizer: { with: {} }\n  third:"),
        ("params:", "parms:"),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD);
        assert!(problem(&schema, &yaml(&text)).is_some(), "{text}");
        Sandbox::with(&text).call(&["check", "p.yaml"]).code(2);
    }
    for fine in [
        "extends: [a.yaml]\nx-mine: { any: 1 }\nparams: { from: p.json }\nstages: { a: { with: { steps: 3 } }, b: ~ }\n",
        "defaults: { model: { with: { source: ./x } }, '*': { retries: 2, timeout: 1h } }\nstages: { a: { uses: model } }\n",
        "profiles: { small: { axes: { seed: [0] }, resources: { gpus: 0 }, stages: { a: { with: {} } } } }\nstages: {}\n",
    ] {
        assert_eq!(problem(&schema, &yaml(fine)), None, "{fine}");
    }
}

fn yaml(text: &str) -> Value {
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
    value.apply_merge().unwrap();
    serde_json::to_value(value).unwrap()
}

/// The examples of the language reference, each by the name in its first line.
#[test]
fn the_examples_of_the_reference_pass() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pipelines.md")).unwrap();
    let sandbox = Sandbox::new();
    let mut names = Vec::new();
    for block in text.split("```yaml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let name =
            block.lines().next().and_then(|line| line.strip_prefix("# ")).expect("an example begins with its name");
        sandbox.write(name, block);
        names.push(name);
    }
    assert!(names.len() >= 6, "{names:?}");
    // A file of params is no pipeline.
    for name in names.into_iter().filter(|name| *name != "values.yaml") {
        let checked = sandbox.call(&["check", name]).ok();
        let lints = checked.stderr.replace("unused-param", "");
        assert!(!lints.contains("unused-"), "{name}: {}", checked.stderr);
    }
    let quick = sandbox.call(&["plan", "study.yaml", "--profile", "quick"]).ok().stdout;
    assert!(quick.contains("model[world=harsh,seed=0]") && !quick.contains("seed=1"), "{quick}");
}
