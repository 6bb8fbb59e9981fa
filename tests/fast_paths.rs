//! A plan reads indexes instead of files. Whatever changes behind them, it must say what a plan without them says.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::support::{Sandbox, files};

/// A file from outside, and stages that read each other.
const PIPELINE: &str = "
name: fast
stages:
  prompts: { uses: prompts.honest, with: { binary: binary.tsv, groups: [gender] } }
  world: { uses: corpus.planted, with: { identities: 4, contexts: 2, traits: 4, sentences: 200, seed: 1 } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus }, with: { model: word } }
";
const BINARY: &str = "template_masked\traw\tidentity\tnumber\tcategory\ttype\n\
    the woman should work as a [M].\t[I] should work as a [M]\tthe woman\tsingular\tfemale\toccupation\n";

/// Run, with everything in the indexes that can be.
fn settled() -> Sandbox {
    let sandbox = Sandbox::with(PIPELINE);
    sandbox.write("binary.tsv", BINARY);
    assert_eq!(sandbox.run(&[])["executed"], 3);
    settle(&sandbox);
    sandbox
}

fn settle(sandbox: &Sandbox) {
    // What changed a moment ago is not trusted yet.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(decisions(&plan(sandbox)), ["hit"; 3]);
    let rows = index(sandbox).iter().map(|path| fs::metadata(path).unwrap().len()).min();
    assert!(rows.is_some_and(|bytes| bytes > 200), "the indexes are in use");
    let before: Vec<_> = index(sandbox).iter().map(|path| fs::read(path).unwrap()).collect();
    plan(sandbox);
    let after: Vec<_> = index(sandbox).iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(before == after, "a second plan finds all in them");
}

fn index(sandbox: &Sandbox) -> Vec<PathBuf> {
    files(&sandbox.file(".palinode/index"))
}

fn plan(sandbox: &Sandbox) -> Value {
    sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json()
}

/// `hit`, `run` and so on, for each instance.
fn decisions(plan: &Value) -> Vec<String> {
    let nodes = plan["nodes"].as_array().unwrap();
    nodes.iter().map(|node| node["decision"].as_object().unwrap().keys().next().unwrap().clone()).collect()
}

/// What the plan says with the indexes, which must be what it says without.
#[track_caller]
fn decided(sandbox: &Sandbox) -> Vec<String> {
    // Planning sets damaged files aside, so each way of planning gets a copy of its own.
    let copy = Sandbox::new();
    let status = std::process::Command::new("cp").arg("-a").arg(sandbox.path()).arg(copy.file("it")).status();
    assert!(status.unwrap().success());
    fs::remove_dir_all(copy.file("it/.palinode/index")).unwrap();
    let output =
        sandbox.command(&["plan", "p.yaml", "--format", "json"]).current_dir(copy.file("it")).output().unwrap();
    let full: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fast = plan(sandbox);
    assert_eq!(fast, full);
    decisions(&fast)
}

/// Changes one bit of a file that the indexes know, and puts its time back.
fn flip(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
    assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), meta.modified().unwrap());
}

/// The record of the result that `stage` has.
fn record(sandbox: &Sandbox, stage: &str) -> PathBuf {
    let plan = plan(sandbox);
    let nodes = plan["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| node["address"] == stage).unwrap();
    let key = node["decision"]["hit"]["key"].as_str().unwrap();
    sandbox.file(&format!(".palinode/records/{}/{}", &key[..2], &key[2..]))
}

/// The largest blob: the corpus.
fn blob(sandbox: &Sandbox) -> PathBuf {
    let blobs = files(&sandbox.file(".palinode/objects"));
    blobs.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn ran(sandbox: &Sandbox) -> Value {
    sandbox.run(&[])["executed"].clone()
}

#[test]
fn an_input_edited_in_place_with_its_size_and_time_put_back() {
    let sandbox = settled();
    // Another letter, the same length.
    let path = sandbox.file("binary.tsv");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, BINARY.replace("woman", "women")).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(decided(&sandbox), ["run", "hit", "hit"]);
    assert_eq!(ran(&sandbox), 1);
    fs::write(&path, BINARY).unwrap();
    assert_eq!(decided(&sandbox), ["hit"; 3], "the old result is there still");
}

#[test]
fn an_input_replaced_by_another_file() {
    let sandbox = settled();
    let path = sandbox.file("binary.tsv");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    sandbox.write("other", BINARY.replace("woman", "women"));
    File::options().write(true).open(sandbox.file("other")).unwrap().set_modified(time).unwrap();
    fs::rename(sandbox.file("other"), &path).unwrap();
    assert_eq!(decided(&sandbox), ["run", "hit", "hit"]);
    // Touched, copied, the same bytes again: no reason to run.
    sandbox.write("other", BINARY);
    fs::rename(sandbox.file("other"), &path).unwrap();
    assert_eq!(decided(&sandbox), ["hit"; 3]);
}

#[test]
fn a_blob_with_one_bit_flipped_and_its_time_put_back() {
    let sandbox = settled();
    let blob = blob(&sandbox);
    let bytes = fs::read(&blob).unwrap();
    flip(&blob);
    // What reads it may come out the same, but that is not known yet.
    assert_eq!(decided(&sandbox), ["hit", "run", "may"]);
    assert_eq!(ran(&sandbox), 1);
    assert_eq!(fs::read(&blob).unwrap(), bytes);
}

#[test]
fn a_blob_that_is_gone() {
    let sandbox = settled();
    fs::remove_file(blob(&sandbox)).unwrap();
    assert_eq!(decided(&sandbox), ["hit", "run", "may"]);
    assert_eq!(ran(&sandbox), 1);
}

#[test]
fn a_record_with_one_bit_flipped_and_its_time_put_back() {
    let sandbox = settled();
    let record = record(&sandbox, "tokenizer");
    flip(&record);
    assert_eq!(decided(&sandbox), ["hit", "hit", "run"]);
    assert!(!record.exists(), "it is set aside");
    assert_eq!(ran(&sandbox), 1);
    assert_eq!(decided(&sandbox), ["hit"; 3]);
}

#[test]
fn a_record_that_is_gone_or_cut_short() {
    let sandbox = settled();
    let [first, second] = ["world", "tokenizer"].map(|stage| record(&sandbox, stage));
    fs::remove_file(&first).unwrap();
    let bytes = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    fs::write(&second, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(decided(&sandbox), ["hit", "run", "may"]);
    assert_eq!(ran(&sandbox), 2);
}

#[test]
fn indexes_that_are_gone_damaged_or_of_another_time() {
    let sandbox = settled();
    let old: Vec<_> = index(&sandbox).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    // Another state of everything.
    sandbox.write("p.yaml", PIPELINE.replace("sentences: 200", "sentences: 210"));
    sandbox.write("binary.tsv", BINARY.replace("woman", "women"));
    assert_eq!(ran(&sandbox), 3);
    settle(&sandbox);
    let now: Vec<_> = old.iter().map(|(path, _)| (path.clone(), fs::read(path).unwrap())).collect();
    let hits = |what: &str| assert_eq!(decided(&sandbox), ["hit"; 3], "{what}");

    old.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    hits("those of before");
    for (path, bytes) in &now {
        for at in (0..bytes.len()).step_by(bytes.len() / 7) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::write(path, &damaged).unwrap();
            hits("a flipped bit");
            fs::write(path, &bytes[..at]).unwrap();
            hits("cut off");
        }
        fs::write(path, bytes).unwrap();
    }
    // Each in the place of the other.
    let [(first, a), (second, b)] = now.as_slice() else { panic!("there are two") };
    fs::write(first, b).unwrap();
    fs::write(second, a).unwrap();
    hits("exchanged");
    now.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    hits("gone");
    fs::remove_dir_all(sandbox.file(".palinode/pointers")).unwrap();
    hits("and nothing known of what was last");
    assert_eq!(ran(&sandbox), 0);
}
