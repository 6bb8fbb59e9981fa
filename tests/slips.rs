//! What people do by a slip, or in good faith, and what they are told.

use std::{fs, process::Command};

use crate::support::Sandbox;

/// What `run` says that must not go.
#[track_caller]
fn refused(pipeline: &str) -> String {
    let sandbox = Sandbox::with(pipeline);
    sandbox.write("one.txt", "1\n");
    sandbox.call(&["run", "p.yaml"]).code(2).stderr
}

#[track_caller]
fn says(text: &str, words: &str) {
    // Messages are wrapped to the width of a terminal.
    let plain = |text: &str| text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    assert!(plain(text).contains(words), "`{words}` is missing in:\n{text}");
}

#[test]
fn hints_say_how_it_is_written() {
    let stage = |rest: &str| refused(&format!("stages: {{ s: {{ uses: command, {rest} }} }}"));
    let with = "with: { run: x, outputs: [o] }";
    says(&stage(&format!("inputs: {{ d: one.txt }}, {with}")), "for the file of that name write `./one.txt`");
    says(&stage("run: x, with: { outputs: [o] }"), "what a kind takes stands under `with`: `with: { run: ... }`");
    says(
        &stage("with: { run: x, outputs: [o], inputs: { d: ./one.txt } }"),
        "`inputs` stands beside `with`, not in it",
    );
    says(
        &stage("with: { run: 'echo ${HOME} > o', outputs: [o] }"),
        "for a variable of the shell write `$HOME`, or `$${HOME}`",
    );
}

#[test]
fn what_is_no_input_is_told_with_its_place() {
    let sandbox = Sandbox::with(
        "
stages:
  a: { uses: command, inputs: { d: ./empty }, with: { run: x, outputs: [o] } }
  b: { uses: command, inputs: { d: /dev/null }, with: { run: x, outputs: [o] } }
",
    );
    fs::create_dir(sandbox.file("empty")).unwrap();
    let said = sandbox.call(&["check", "p.yaml"]).code(2).stderr;
    says(&said, "empty holds no files");
    says(&said, "p.yaml:3:");
    says(&said, "it is neither a file nor a folder");
    says(&said, "p.yaml:4:");
}

#[test]
fn a_mark_before_the_text_is_none_of_it() {
    let sandbox = Sandbox::with(
        "\u{feff}name: p\nstages:\n  s: { uses: command, with: { run: 'echo RESULT > o', outputs: [o] } }\n",
    );
    assert_eq!(sandbox.run(&[])["executed"], 1);
    sandbox.write("p.yaml", "\u{feff}name: p\nstages:\n  s: { uses: kommand }\n");
    says(&sandbox.call(&["run", "p.yaml"]).code(2).stderr, "p.yaml:3:14");
}

#[test]
fn each_table_is_published_under_a_name_of_its_own() {
    let sandbox = Sandbox::with(
        "
name: p
stages:
  fig:
    uses: command
    with:
      run: 'mkdir a b c; echo A > a/r.csv; echo B > b/r.csv; echo C > c/r.csv'
      outputs: { x: { path: a/r.csv, type: table }, y: { path: b/r.csv, type: table }, z: { path: c/, type: table } }
",
    );
    let written = |summary: serde_json::Value| summary["written"].as_array().unwrap().len();
    assert_eq!(written(sandbox.run(&[])), 3);
    let text = |name: &str| fs::read_to_string(sandbox.file(&format!("out/{name}"))).unwrap();
    assert_eq!(["fig.r.csv", "fig.y.r.csv", "fig.z.r.csv"].map(text), ["A\n", "B\n", "C\n"]);
    assert_eq!(written(sandbox.run(&[])), 0, "nothing is written twice");
}

#[test]
fn a_file_that_another_pipeline_published_is_told_when_it_is_written_over() {
    let pipeline = |name: &str| {
        format!(
            "name: {name}\nstages: {{ t: {{ uses: command, with: {{ run: 'echo {name} > o', outputs: {{ o: {{ path: o, type: table }} }} }} }} }}\n"
        )
    };
    let sandbox = Sandbox::with(&pipeline("one"));
    sandbox.write("q.yaml", pipeline("two"));
    let said = |file: &str| sandbox.call(&["run", file]).ok().stderr;
    assert!(!said("p.yaml").contains("published this file"));
    says(&said("q.yaml"), "the pipeline `one` published this file, which is written over now");
    says(&said("p.yaml"), "the pipeline `two` published this file");
    assert!(!said("p.yaml").contains("published this file"));
    // What somebody made their own is nobody's figure.
    sandbox.write("out/t.o", "mine\n");
    assert!(!said("p.yaml").contains("published this file"));
}

#[test]
fn a_pattern_does_not_take_in_what_its_own_stage_publishes() {
    let sandbox = Sandbox::with(
        "
name: p
stages:
  s:
    uses: command
    inputs: { f: { files: '**/*.csv' } }
    with: { run: 'find ../in -type f | wc -l > r.csv', outputs: { r: { path: r.csv, type: table } } }
",
    );
    sandbox.write("data.csv", "1\n");
    assert_eq!(sandbox.run(&[])["executed"], 1);
    assert!(sandbox.file("out/s.r.csv").exists());
    assert_eq!(sandbox.run(&[])["cached"], 1);
}

#[test]
fn rows_that_are_left_out_are_told() {
    let sandbox = Sandbox::with(
        "
name: p
axes: { a: [1, 2, 3] }
stages:
  x: { uses: command, over: [a], with: { run: 'test ${a} != 2; echo ${a} > o', outputs: [o] } }
  g:
    uses: command
    inputs: { x: x }
    gather: [a]
    missing: drop
    with: { run: 'cat ../in/x/*/o > o', outputs: [o] }
",
    );
    let ran = sandbox.call(&["run", "p.yaml"]).code(1);
    says(&ran.stderr, "warning g: input `x` comes without 1 of its 3 rows (`missing: drop`): a=2");
    says(&sandbox.call(&["show", "p.yaml", "g"]).ok().stdout, "input x = a table of 3, 1 of them without a result");
}

#[test]
fn an_archive_is_written_over_nothing_but_an_archive() {
    let sandbox = Sandbox::with("stages: { s: { uses: command, with: { run: 'echo > o', outputs: [o] } } }");
    sandbox.run(&[]);
    let before = sandbox.read("p.yaml");
    let ran = sandbox.call(&["export", "p.yaml", "s", "-o", sandbox.file("p.yaml").to_str().unwrap()]).code(2);
    says(&ran.stderr, "is there already, and is no archive of results: give another name");
    assert_eq!(sandbox.read("p.yaml"), before);
    let archive = sandbox.file("a.tar");
    for _ in 0..2 {
        sandbox.call(&["export", "p.yaml", "s", "-o", archive.to_str().unwrap()]).ok();
    }
}

#[test]
fn descriptors_of_whoever_starts_a_run_stay_its_own() {
    let sandbox = Sandbox::with(
        "stages: { s: { uses: command, with: { run: 'if cat <&9; then exit 3; fi; echo > o', outputs: [o] } } }",
    );
    sandbox.write("secret", "secret");
    // By a shell, since the standard library gives its descriptors to none that it starts.
    let palinode = sandbox.command(&["run", "p.yaml"]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec \"$@\" 9< secret", "sh"]).arg(palinode.get_program()).args(palinode.get_args());
    let ran = shell.current_dir(sandbox.path()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn gpus_that_were_assigned_are_all_there_are() {
    let sandbox = Sandbox::with(
        "stages: { s: { uses: command, resources: { gpus: 2 }, with: { run: 'echo RESULT $CUDA_VISIBLE_DEVICES > o', outputs: { o: { path: o, type: table } } } } }",
    );
    let call = |visible: &str| {
        let mut command = sandbox.command(&["run", "p.yaml", "--gpus", "2", "--force", "s"]);
        let ran = command.env("CUDA_VISIBLE_DEVICES", visible).env("TMPDIR", sandbox.path()).output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    // Where devices are found, what isn't among them doesn't count; these machines have none, or these.
    if call("0,1").0 == Some(0) {
        assert_eq!(fs::read_to_string(sandbox.file("out/s.o")).unwrap(), "RESULT 0,1\n");
    }
    let (code, said) = call("1");
    assert_eq!(code, Some(2), "{said}");
    says(&said, "asks for 2 GPUs");
}

#[test]
fn a_value_in_a_param_is_told_for_what_it_should_be() {
    let said =
        refused("stages: { s: { uses: command, with: { run: 'echo > o', outputs: [o], env: { A: [1], B: null } } } }");
    says(&said, "`env.A`: expected a text");
}
