//! Wrong files and wrong calls: a helpful message, exit code 2, quickly, never a panic.

use std::time::{Duration, Instant};

use crate::support::{Ran, Sandbox};

/// Calls every command that reads a pipeline; all must refuse it with 2.
#[track_caller]
fn refused(bytes: impl AsRef<[u8]>) -> Ran {
    let sandbox = Sandbox::new();
    sandbox.write("p.yaml", bytes);
    let started = Instant::now();
    let ran = sandbox.call(&["run", "p.yaml"]).code(2);
    // Not a benchmark: a parser that blows up takes minutes.
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    assert!(!sandbox.file(".palinode").exists(), "a file that is refused leaves nothing behind");
    sandbox.call(&["plan", "p.yaml"]).code(2);
    ran
}

#[track_caller]
fn says(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is missing in:\n{}", ran.stderr);
    }
}

const GOOD: &str = "
name: p
stages:
  world: { uses: corpus.planted, with: { seed: 1 } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus } }
";

#[test]
fn the_good_file_is_good() {
    Sandbox::with(GOOD).call(&["plan", "p.yaml"]).ok();
}

#[test]
fn a_tab() {
    says(&refused("name: p\nstages:\n\tworld: { uses: corpus.planted }\n"), &["p.yaml:3:1", "tab"]);
}

#[test]
fn a_wrong_type() {
    says(&refused(GOOD.replace("seed: 1", "seed: many")), &["p.yaml:4:", "`seed`", "many"]);
}

#[test]
fn an_unknown_key() {
    says(&refused(GOOD.replace("inputs:", "input:")), &["`input`", "did you mean `inputs`?"]);
}

#[test]
fn a_misspelt_kind() {
    says(
        &refused(GOOD.replace("corpus.planted", "corpus.plantd")),
        &["`corpus.plantd`", "did you mean `corpus.planted`?"],
    );
}

#[test]
fn a_cycle() {
    let cycle = "
name: p
stages:
  a: { uses: judge.lexicon, inputs: { completions: b }, with: { words: [x] } }
  b: { uses: generate, inputs: { model: c, prompts: a } }
  c: { uses: pretrain, inputs: { dataset: b, tokenizer: c } }
";
    says(&refused(cycle), &["circle: a -> b -> a", "p.yaml:4:"]);
}

#[test]
fn a_wrong_port() {
    says(&refused(GOOD.replace("world.corpus", "world.lexicon")), &["lexicon", "dataset"]);
}

#[test]
fn a_duplicate_key() {
    says(
        &refused(format!("{GOOD}  world: {{ uses: corpus.planted }}\n")),
        &["the key `world` stands twice", "p.yaml:6:"],
    );
}

#[test]
fn a_missing_param() {
    let missing = "name: p\nstages:\n  m: { uses: model }\n";
    says(&refused(missing), &["p.yaml:3:", "needs the param `source`"]);
}

#[test]
fn an_unknown_param_reference() {
    says(&refused(GOOD.replace("seed: 1", "seed: \"${params.sed}\"")), &["params.sed"]);
}

#[test]
fn an_empty_file() {
    says(&refused(""), &["empty"]);
}

#[test]
fn deep_nesting() {
    refused(format!("name: {}{}", "[".repeat(10_000), "]".repeat(10_000)));
    let mut block = String::from("name:\n");
    for depth in 0..10_000 {
        block.push_str(&" ".repeat(depth % 1000 + 1));
        block.push_str("a:\n");
    }
    refused(block);
}

#[test]
fn not_utf8() {
    says(&refused(b"name: \xff\xfe\nstages: {}\n"), &["UTF-8"]);
}

#[test]
fn an_anchor_bomb() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    refused(bomb);
}

#[test]
fn all_problems_at_once() {
    let ran = refused(GOOD.replace("seed: 1", "sed: 1, identities: many").replace("inputs:", "input:"));
    says(&ran, &["`sed`", "many", "`input`", "problems in p.yaml"]);
}

#[test]
fn a_file_that_is_not_there() {
    let ran = Sandbox::new().call(&["run", "none.yaml"]).code(2);
    says(&ran, &["none.yaml"]);
}

#[test]
fn wrong_overrides() {
    let sandbox = Sandbox::with(GOOD);
    says(&sandbox.call(&["plan", "p.yaml", "--set", "params.x=1"]).code(2), &["params.x"]);
    says(&sandbox.call(&["plan", "p.yaml", "--set", "nonsense"]).code(2), &["nonsense", "="]);
    says(&sandbox.call(&["plan", "p.yaml", "tokeniser"]).code(2), &["tokeniser", "did you mean `tokenizer`?"]);
}
