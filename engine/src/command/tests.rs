use std::{collections::BTreeMap, ffi::OsString, fs, path::Path, sync::Mutex};

use insta::assert_snapshot;
use palinode_cache::{FileEntry, hash_file};
use serde_json::json;

use super::{messages::Kept, *};
use crate::{
    context::Reporter,
    job::{InputFile, InputFiles},
};

fn command() -> Command {
    Command::new(Host { path: "/usr/bin:/bin".into(), ..Host::default() })
}

/// The first problem of `with`, in words.
fn problem(with: Value) -> String {
    let problems = command().canonical(&with).unwrap_err();
    let one = |problem: &ParamProblem| format!("{}: {}", problem.path.join("."), problem.message);
    problems.iter().map(one).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_canonical_form_is_one() {
    let canonical = |with| command().canonical(&with).unwrap();
    let long = canonical(json!({
        "run": "x", "outputs": { "a": { "path": "./a.csv", "type": "file" } }, "env": {}, "workdir": "./",
        "tools": [], "network": false, "sandbox": "strict",
    }));
    assert_eq!(canonical(json!({ "run": "x", "outputs": { "a": "a.csv" } })), long);
    assert_eq!(canonical(json!({ "run": "x", "outputs": ["a.csv"] })), long);
    // It is its own canonical form.
    assert_eq!(canonical(json!(long)), long);
    let folder = canonical(json!({ "run": ["x", 1, 0.00005, true], "outputs": ["sub/data/"], "env": { "N": 3 } }));
    assert_eq!(folder["run"], json!(["x", "1", "0.00005", "true"]));
    assert_eq!(folder["outputs"], json!({ "data": { "path": "sub/data", "type": "dir", "folder": true } }));
    assert_eq!(folder["env"], json!({ "N": "3" }));
    assert_eq!(canonical(json!(folder)), folder);
}

#[test]
fn each_field_is_in_the_key() {
    let base = json!({ "run": "x", "outputs": { "a": "a.csv", "b": "b.csv" }, "env": { "A": "1" }, "tools": ["sh"] });
    let canonical = |with: &Value| command().canonical(with).unwrap();
    let changes = [
        ("run", json!("y")),
        ("run", json!(["x"])),
        ("outputs", json!({ "a": "a.csv" })),
        ("outputs", json!({ "a": "a.csv", "b": "c.csv" })),
        ("outputs", json!({ "a": "a.csv", "b": { "path": "b.csv", "type": "table" } })),
        ("env", json!({})),
        ("env", json!({ "A": "2" })),
        ("workdir", json!("sub")),
        ("tools", json!([])),
        ("network", json!(true)),
        ("sandbox", json!("off")),
    ];
    for (field, value) in changes {
        let mut with = base.clone();
        with[field] = value;
        assert_ne!(canonical(&with), canonical(&base), "{with}");
    }
}

#[test]
fn outputs_stay_below() {
    let with = |outputs: Value| json!({ "run": "x", "outputs": outputs });
    assert_snapshot!(problem(with(json!({ "a": "../a" }))), @"outputs.a: `../a` may leave the working folder: no `..` in it");
    assert_snapshot!(problem(with(json!({ "a": "b/../../a" }))), @"outputs.a: `b/../../a` may leave the working folder: no `..` in it");
    assert_snapshot!(problem(with(json!({ "a": "/etc/passwd" }))), @"outputs.a: `/etc/passwd` is absolute: it must lie below the working folder");
    assert_snapshot!(problem(with(json!({ "a": "." }))), @"outputs.a: name a file or folder in it, not the working folder itself");
    assert_snapshot!(problem(with(json!({ "a": "" }))), @"outputs.a: name a file or folder in it, not the working folder itself");
    assert_snapshot!(problem(with(json!({ "a": "*.csv" }))), @"outputs.a: `*.csv` is a pattern: name a folder, ending in `/`, and all in it is taken");
    assert_snapshot!(problem(with(json!({ "../x": "a" }))), @"outputs.../x: `../x` can't be the name of an output");
    assert_snapshot!(problem(with(json!({ "a": "x", "b": "x/y" }))), @"outputs.b: `x/y` is also in the output `a`");
    assert_snapshot!(problem(with(json!(["a/x.csv", "b/x.csv"]))), @"outputs.1: two outputs would be called `x`");
    assert_snapshot!(problem(with(json!({}))), @"outputs: there is none");
    assert_snapshot!(problem(with(json!(3))), @"outputs: it must be a mapping of names to paths, or a list of paths");
    assert_snapshot!(problem(with(json!({ "a": { "path": "a", "tpye": "file" } }))), @"outputs.a: unknown key `tpye` in an output");
    assert!(
        problem(with(json!({ "a": { "path": "a", "type": "any" } }))).contains("`any` is not a type; known: model, ")
    );
}

#[test]
fn other_params_are_checked() {
    let problem = |field: &str, value: Value| {
        let mut with = json!({ "run": "x", "outputs": ["a"] });
        with[field] = value;
        problem(with)
    };
    assert_snapshot!(problem("run", json!(" ")), @"run: there is nothing to run");
    assert_snapshot!(problem("run", json!([])), @"run: there is nothing to run");
    assert_snapshot!(problem("workdir", json!("../x")), @"workdir: `../x` may leave the working folder: no `..` in it");
    assert_snapshot!(problem("env", json!({ "A=B": 1 })), @"env: `A=B` can't be an environment variable");
    assert_snapshot!(problem("tools", json!(["./x"])), @"tools.0: `./x` is no tool");
    assert_snapshot!(problem("tools", json!(["no-such-tool"])), @"tools: there is no program `no-such-tool` on PATH");
}

/// Hears all.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Reporter for Heard {
    fn progress(&self, _: u64, _: u64, _: &str) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(format!("warning: {line}"));
    }
}

/// Runs `with` on the files `inputs`, each at a port of its own; gives what was said.
fn run(kind: &Command, dir: &Path, with: Value, inputs: &[&Path]) -> Result<Vec<String>, String> {
    let scratch = dir.join("scratch");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).unwrap();
    let input = |path: &&Path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let files = [(name.clone(), InputFile { path: path.to_path_buf(), entry: hash_file(path).unwrap() })];
        let files = InputFiles { digest: Digest::of(b""), files: files.into() };
        (name.split('.').next().unwrap().to_owned(), JobInput::One(files))
    };
    let job = Job {
        kind: "command".into(),
        address: "c".into(),
        params: json!(kind.canonical(&with).unwrap()),
        files: BTreeMap::new(),
        inputs: inputs.iter().map(input).collect(),
        scratch,
        folder: dir.to_owned(),
        checkpoints: None,
        answers: None,
        cpus: 1,
        gpus: vec![],
    };
    let (heard, cancelled) = (Heard::default(), crate::stop::Stop::default());
    kind.run(&Context::new(&job, &heard, &cancelled)).map_err(|error| error.to_string())?;
    Ok(heard.0.into_inner().unwrap())
}

use palinode_cache::Digest;

#[test]
fn without_landlock_it_is_said_once_and_inputs_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let kind = Command::new(Host { path: OsString::new(), without_landlock: true, ..Host::default() });
    let input = dir.path().join("data.txt");
    fs::write(&input, "a").unwrap();
    let copy = json!({ "run": "cat ../in/data/data.txt > a", "outputs": ["a"] });
    let said = run(&kind, dir.path(), copy.clone(), &[&input]).unwrap();
    assert!(said.len() == 1 && said[0].contains("(no Landlock); their inputs are read again"), "{said:?}");
    assert_eq!(run(&kind, dir.path(), copy, &[&input]).unwrap(), [""; 0]);
    // Its time is put back, which the stat of the file would not show to the second.
    let edit = format!("touch a; touch -r {0} t; echo b > {0}; touch -r t {0}", input.display());
    let error = run(&kind, dir.path(), json!({ "run": edit, "outputs": ["a"] }), &[&input]).unwrap_err();
    assert!(error.starts_with("`data.txt` of its input `data` changed while it ran"), "{error}");
}

#[test]
fn a_chatty_command_fills_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let with =
        json!({ "run": "seq 1 30000; printf 'a\\rb\\rc\\n'; printf 'end' > a; printf 'no newline'", "outputs": ["a"] });
    let said = run(&command(), dir.path(), with, &[]).unwrap();
    assert_eq!(said.len(), 10_000 + 1 + 100);
    assert_eq!(said[9_999], "10000");
    assert_eq!(said[10_000], "... 19902 lines left out ...");
    assert_eq!(said[10_099..], ["c", "no newline"]);
}

#[test]
fn what_the_sandbox_kept_is_read_from_the_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    for name in ["data/x.csv", "y.csv", "bin/tool"] {
        let path = home.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
    }
    let scratch = home.join(".palinode/tmp/1");
    let work = scratch.join("work/sub");
    fs::create_dir_all(&work).unwrap();
    let rules = Rules::new(&scratch, None, false, false);
    let kind = command();
    let z = InputFile { path: home.join("z.sh"), entry: FileEntry { blob: palinode_cache::Digest::of(b""), size: 0 } };
    fs::write(&z.path, "").unwrap();
    let files = InputFiles::of(BTreeMap::from([("z.sh".to_owned(), z)]));
    let inputs = BTreeMap::from([("script".to_owned(), JobInput::One(files))]);
    let scene =
        Scene { rules: &rules, tools: &kind.tools, scratch: &scratch, work: &work, home: &home, inputs: &inputs };
    let x = home.join("data/x.csv");
    let read = |line: String| scene.kept([&*line].into_iter());
    for line in [
        format!("cat: {}: Permission denied", x.display()),
        format!("PermissionError: [Errno 13] Permission denied: '{}'", x.display()),
        format!("/bin/sh: 1: cannot open {}: Permission denied", x.display()),
        "cat: ../../../../../data/x.csv: Permission denied".to_owned(),
        "cat: data/x.csv: No such file or directory".to_owned(),
    ] {
        assert_eq!(read(line.clone()), Some(Kept::Read(x.clone())), "{line}");
    }
    let y = Kept::Read(home.join("y.csv"));
    assert_eq!(read("FileNotFoundError: [Errno 2] No such file or directory: 'y.csv'".into()), Some(y));
    let written = home.join("data/new.csv");
    let line = format!("sh: cannot create {}: Permission denied", written.display());
    assert_eq!(read(line), Some(Kept::Write(written)));
    assert_eq!(read("cat: nowhere.csv: No such file or directory".into()), None);
    assert_eq!(read("cat: /etc/shadow: Permission denied".into()), None);
    assert_eq!(read("all is well".into()), None);
    let advice = scene.advice(&Kept::Read(x)).replace(&*home.to_string_lossy(), "HOME");
    assert_snapshot!(advice, @"it reads `HOME/data/x.csv`, which is not declared; add `inputs: { x: ./data/x.csv }` and read `../../in/x/x.csv`");
    let said = ["RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 304: OS call failed", "exit"];
    assert!(
        super::messages::is_cuda_kept_out(said.into_iter()) && !super::messages::is_cuda_kept_out(["304"].into_iter())
    );
    let kept = read("sh: 0: cannot open z.sh: No such file".into()).unwrap();
    let advice = scene.advice(&kept).replace(&*home.to_string_lossy(), "HOME");
    assert_snapshot!(advice, @"it reads `HOME/z.sh`, which it has as `../../in/script/z.sh`");
    assert_snapshot!(scene.advice(&Kept::Read("/proc/self/maps".into())), @"it uses `/proc/self/maps`, which commands see only if they declare `tools`; add `tools: [...]` with the program that does so to its `with`");
}
