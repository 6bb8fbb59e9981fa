//! `uses: command`: programs in a folder of their own, honest about what they read.

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{Sandbox, files};

/// Whether the kernel confines commands; where it doesn't, tests of that have nothing to show.
fn confined() -> bool {
    let sandbox =
        Sandbox::with("stages: { s: { uses: command, with: { run: 'echo > o; cat /root/. || true', outputs: [o] } } }");
    let ran = sandbox.call(&["run", "p.yaml"]).ok();
    !ran.stderr.contains("no Landlock")
}

/// The stage `s` with this `with`, and these further lines of its own.
fn stage(with: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::with(&format!("name: p\nstages:\n  s:\n    uses: command\n    with: {with}\n{more}"));
    sandbox.write("data.csv", "one\n");
    sandbox
}

/// Runs, which must fail; gives what was said.
#[track_caller]
fn fails(sandbox: &Sandbox) -> String {
    sandbox.call(&["run", "p.yaml"]).code(1).stderr
}

/// The text of the only output of the stage `s`, by what `plan` says is its result.
#[track_caller]
fn result(sandbox: &Sandbox) -> String {
    let objects = files(&sandbox.file(".palinode/objects"));
    let texts = objects.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.filter(|text| text.starts_with("RESULT")).collect()
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
}

#[test]
fn a_chain_runs_once() {
    let sandbox = Sandbox::with(
        "
name: p
stages:
  count:
    uses: command
    inputs: { data: ./data.csv }
    with: { run: \"wc -l < ../in/data/data.csv > n.txt\", outputs: { n: n.txt } }
  twice:
    uses: command
    inputs: { n: count.n, again: count }
    with:
      run: [sh, -c, \"cat ../in/n/n.txt ../in/again/n.txt > both; mkdir d; echo x > d/x\"]
      outputs: { both: { path: both, type: table }, d: d/ }
  last: { uses: command, inputs: { d: twice.d }, with: { run: \"cat ../in/d/x > o\", outputs: [o] } }
",
    );
    sandbox.write("data.csv", "1\n2\n");
    assert_eq!(sandbox.run(&[])["executed"], 3);
    assert_eq!(
        fs::read_to_string(sandbox.file("out/twice.both")).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["2", "2"]
    );
    assert_eq!(sandbox.run(&[])["cached"], 3);
    // As many lines as before: what is downstream is cut off.
    sandbox.write("data.csv", "3\n4\n");
    let summary = sandbox.run(&[]);
    assert_eq!((&summary["executed"], &summary["cached"]), (&1.into(), &2.into()));
}

#[test]
fn a_command_makes_what_other_kinds_take() {
    let sandbox = Sandbox::with(
        "
name: p
stages:
  corpus:
    uses: command
    inputs: { lines: ./dataset.jsonl }
    with: { run: cp ../in/lines/dataset.jsonl ., outputs: { d: { path: dataset.jsonl, type: dataset } } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: corpus }, with: { model: word } }
",
    );
    sandbox.write("dataset.jsonl", "{\"text\": \"the cat sat\"}\n".repeat(3));
    assert_eq!(sandbox.run(&[])["executed"], 2);
    // A link of another type is refused before anything runs.
    let wrong = fs::read_to_string(sandbox.file("p.yaml")).unwrap().replace("type: dataset", "type: table");
    sandbox.write("p.yaml", wrong);
    says(&sandbox.call(&["plan", "p.yaml"]).code(2).stderr, &["`dataset`", "`table`"]);
}

#[test]
fn an_undeclared_read_fails_and_names_the_line_to_add() {
    if !confined() {
        return;
    }
    let sandbox = stage("{ run: \"echo start; cat $FILE > o\", env: { FILE: '${params.file}' }, outputs: [o] }", "");
    let text = fs::read_to_string(sandbox.file("p.yaml")).unwrap();
    let path = fs::canonicalize(sandbox.file("data.csv")).unwrap();
    sandbox.write("p.yaml", format!("params: {{ file: {} }}\n{text}", path.display()));
    let stderr = fails(&sandbox);
    says(&stderr, &["data.csv`, which is not declared", "add `inputs: { data: ./data.csv }`", "../in/data/data.csv"]);
    // Looked for in its own folder.
    let sandbox = stage("{ run: \"cat data.csv > o\", outputs: [o] }", "");
    says(&fails(&sandbox), &["which is not declared", "add `inputs: { data: ./data.csv }`"]);
    // Nothing of it is a result.
    assert_eq!(
        sandbox.call(&["plan", "p.yaml", "--format", "json"]).ok().json()["nodes"][0]["decision"]["hit"],
        serde_json::Value::Null
    );
    let sandbox = stage("{ run: \"cat ../in/data/data.csv > o\", outputs: [o] }", "    inputs: { data: ./data.csv }\n");
    assert_eq!(sandbox.run(&[])["executed"], 1);
}

#[test]
fn it_writes_nowhere_but_in_its_folder() {
    if !confined() {
        return;
    }
    let sandbox = stage("{ run: \"echo x > ${params.dir}/new; echo > o\", outputs: [o] }", "");
    let text = fs::read_to_string(sandbox.file("p.yaml")).unwrap();
    sandbox.write("p.yaml", format!("params: {{ dir: {} }}\n{text}", sandbox.path().display()));
    says(&fails(&sandbox), &["it writes to", "outside of its folder"]);
    assert!(!sandbox.file("new").exists());
    let sandbox = stage(
        "{ run: \"echo x > ../in/data/data.csv; echo > o\", outputs: [o] }",
        "    inputs: { data: ./data.csv }\n",
    );
    says(&fails(&sandbox), &["inputs can only be read"]);
    assert_eq!(sandbox.read("data.csv"), b"one\n");
}

#[test]
fn the_network_is_off_unless_asked_for() {
    if !confined() || !Path::new("/usr/bin/python3").exists() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script =
        format!("import socket; socket.create_connection(('127.0.0.1', {port}), 5); open('o', 'w').write('x')");
    let with = |network| format!("{{ run: [python3, -c, \"{script}\"], network: {network}, outputs: [o] }}");
    let sandbox = stage(&with(false), "");
    says(&fails(&sandbox), &["it exited with code 1: it uses the network", "add `network: true`"]);
    let sandbox = stage(&with(true), "");
    assert_eq!(sandbox.run(&[])["executed"], 1);
}

#[test]
fn a_missing_output_is_a_failure_that_lists_what_is_there() {
    let sandbox = stage("{ run: \"mkdir d; echo > d/rate.csv; echo > log\", outputs: { rates: rates.csv } }", "");
    says(&fails(&sandbox), &["left no `rates.csv` (its output `rates`)", "there are `d/rate.csv`, `log`"]);
    let sandbox = stage("{ run: \"true\", outputs: { rates: rates.csv } }", "");
    says(&fails(&sandbox), &["its working folder is empty"]);
    let sandbox = stage("{ run: \"echo > d\", outputs: [d/] }", "");
    says(&fails(&sandbox), &["declared as the folder `d/`, but it is a file"]);
}

#[test]
fn what_a_failed_command_left_is_kept_aside() {
    let sandbox = stage("{ run: \"echo half > o; echo oh no >&2; exit 3\", outputs: [o] }", "");
    let stderr = fails(&sandbox);
    says(&stderr, &["it exited with code 3", "oh no", "partial outputs"]);
    let left = files(&sandbox.file(".palinode/failed"));
    let half = left.iter().find(|path| path.ends_with("work/o")).expect("its folder is kept");
    assert_eq!(fs::read_to_string(half).unwrap(), "half\n");
    assert_eq!(files(&sandbox.file(".palinode/records")), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn symlinks_may_not_leave_its_folder() {
    for (run, message) in [
        ("ln -s /etc/passwd o", "`o` is a symlink that leaves the stage's folder"),
        ("ln -s /etc d; ln -s d/passwd o", "`o` is a symlink that leaves the stage's folder"),
        ("ln -s nowhere o", "`o` is a symlink to nowhere, which is not there"),
        ("mkdir o; ln -s /etc/passwd o/x", "`o/x` is a symlink that leaves the stage's folder"),
        ("mkdir d o; ln -s ../d o/x", "`o/x` is a symlink to a folder"),
        ("mkfifo o", "is a pipe"),
    ] {
        says(&fails(&stage(&format!("{{ run: \"{run}\", outputs: [o] }}"), "")), &[message]);
    }
    let sandbox = stage("{ run: \"ln -s /etc d; true\", outputs: [d/passwd] }", "");
    says(&fails(&sandbox), &["a symlink that leaves the stage's folder, to"]);
    // One that stays is what it leads to.
    let sandbox = stage("{ run: \"echo RESULT > a; ln -s a o\", outputs: [o] }", "");
    sandbox.run(&[]);
    assert_eq!(result(&sandbox), "RESULT\n");
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (with, more, words) in [
        ("{ run: x, outputs: { a: ../a } }", "", ["p.yaml:5:", "no `..` in it"]),
        ("{ run: x, outputs: { a: /a } }", "", ["p.yaml:5:", "`/a` is absolute"]),
        ("{ run: x }", "", ["p.yaml:5:", "needs the param `outputs`"]),
        ("{ outputs: [a] }", "", ["p.yaml:5:", "needs the param `run`"]),
        ("{ run: x, outputs: [a], tools: [pythn3] }", "", ["p.yaml:5:", "no program `pythn3` on PATH"]),
        ("{ run: x, outputs: [a], sandbox: loose }", "", ["p.yaml:5:", "`strict` or `off`"]),
        (
            "{ run: x, outputs: [a] }",
            "    inputs: { d: ./none.csv }\n",
            ["p.yaml:6:", "none.csv: no such file or folder"],
        ),
        (
            "{ run: x, outputs: [a] }",
            "    inputs: { d: { files: '*.tsv' } }\n",
            ["p.yaml:6:", "no file matches `*.tsv`"],
        ),
        ("{ run: x, outputs: [a] }", "    inputs: { d: data/x.csv }\n", ["p.yaml:6:", "a path begins with `./`"]),
        (
            "{ run: x, outputs: [a] }",
            "    inputs: { ../d: ./data.csv }\n",
            ["p.yaml:6:", "can't be the name of an input"],
        ),
    ] {
        let ran = stage(with, more).call(&["run", "p.yaml"]).code(2);
        says(&ran.stderr, &words);
    }
}

#[test]
fn dropping_or_changing_anything_makes_another_result() {
    let base = (
        "{ run: \"echo $A > o; echo > o2\", env: { A: 1 }, outputs: { o: o, o2: o2 } }",
        "    inputs: { d: ./data.csv, e: { files: [p.yml, '*.csv'] } }\n",
    );
    let sandbox = stage(base.0, base.1);
    sandbox.write("p.yml", "x");
    let yaml = fs::read_to_string(sandbox.file("p.yaml")).unwrap();
    sandbox.run(&[]);
    for (from, to) in [
        ("env: { A: 1 }", "env: { A: 2 }"),
        ("env: { A: 1 }", "env: { A: 1, B: 1 }"),
        (", o2: o2 }", " }"),
        ("d: ./data.csv, ", ""),
        ("[p.yml, '*.csv']", "['*.csv']"),
        ("echo > o2", "echo > o2 "),
        ("outputs:", "network: true, outputs:"),
        ("outputs:", "sandbox: off, outputs:"),
        ("outputs:", "tools: [sh], outputs:"),
        ("outputs:", "workdir: sub, outputs:"),
    ] {
        let changed = yaml.replace(from, to);
        assert_ne!(changed, yaml, "{from}");
        sandbox.write("p.yaml", changed);
        assert_eq!(sandbox.run(&[])["executed"], 1, "{from} -> {to}");
        sandbox.write("p.yaml", &yaml);
        assert_eq!(sandbox.run(&[])["executed"], 0, "{from} -> {to}, and back");
    }
    sandbox.write("new.csv", "x");
    assert_eq!(sandbox.run(&[])["executed"], 1, "a file that now matches");
    says(&sandbox.call(&["why", "p.yaml", "s"]).ok().stdout, &["input `e` changed"]);
}

#[test]
fn axes_and_params_reach_everything() {
    let sandbox = Sandbox::with(
        "
name: p
params: { greeting: hi }
axes: { lang: [en, de], rate: [0.00005, 1] }
stages:
  word:
    uses: command
    over: [lang]
    inputs: { words: './words/${lang}.txt' }
    with: { run: \"echo ${params.greeting} $NAME $(cat ../in/words/${lang}.txt) > w\", env: { NAME: '${lang}' }, outputs: [w] }
  rated: { uses: command, over: [rate], inputs: { word: word }, with: { run: [sh, -c, 'cat ../in/word/w > r; echo $0 >> r', '${rate}'], outputs: [r] } }
  all:
    uses: command
    inputs: { rated: rated }
    gather: [lang, rate]
    with: { run: \"cd ../in/rated; cat lang=en,rate=0.00005/r lang=de,rate=1/r > ../../work/t; cat table.json >> ../../work/t\", outputs: { t: { path: t, type: table } } }
",
    );
    sandbox.write("words/en.txt", "hello");
    sandbox.write("words/de.txt", "hallo");
    let ran = sandbox.call(&["run", "p.yaml"]);
    if ran.code != 0 {
        panic!("{}", ran.stderr);
    }
    let text = fs::read_to_string(sandbox.file("out/all.t")).unwrap();
    says(&text, &["hi en hello", "hi de hallo", "\"lang\": \"en\"", "\"path\": \"lang=de,rate=1\""]);
}

#[test]
fn its_environment_is_small_and_always_the_same() {
    let sandbox =
        stage("{ run: \"(echo RESULT; env | sort; pwd) > o\", env: { MINE: x }, workdir: a/b, outputs: [o] }", "");
    let ran = sandbox.command(&["run", "p.yaml"]).env("SECRET", "1").output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = result(&sandbox);
    let names: Vec<_> =
        text.lines().filter_map(|line| Some(line.split_once('=')?.0)).filter(|name| *name != "PWD").collect();
    assert_eq!(names, ["CUDA_VISIBLE_DEVICES", "HOME", "LANG", "MINE", "PALINODE_IN", "PATH", "TMPDIR"]);
    says(&text, &["CUDA_VISIBLE_DEVICES=\n", "LANG=C.UTF-8", "/work/a/b\n"]);
}

#[test]
fn its_end_is_told_in_words() {
    for (run, message) in [
        ("exit 7", "it exited with code 7"),
        ("kill -SEGV $$", "it was ended by SIGSEGV"),
        ("kill -KILL $$", "it was ended by SIGKILL"),
        ("no-such-program", "it exited with code 127"),
        ("echo $UNSET", "it exited with code 2"),
        ("false; echo > o", "it exited with code 1"),
    ] {
        says(&fails(&stage(&format!("{{ run: \"{run}\", outputs: [o] }}"), "")), &[message]);
    }
    says(&fails(&stage("{ run: [no-such-program], outputs: [o] }", "")), &["`no-such-program` can't be started"]);
}

#[test]
fn tools_bring_what_they_need_and_their_version() {
    if !confined() {
        return;
    }
    let sandbox = Sandbox::new();
    let bin = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::create_dir_all(bin.path().join("bin")).unwrap();
    fs::create_dir_all(bin.path().join("share")).unwrap();
    fs::write(bin.path().join("share/data"), "RESULT").unwrap();
    let tool = bin.path().join("bin/mytool");
    let script = |version: u32| {
        let text = format!("#!/bin/sh\n# {version}\ncat {}/share/data\n", bin.path().display());
        fs::write(&tool, text).unwrap();
        fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    script(1);
    let yaml = |tools: &str| {
        format!("stages: {{ s: {{ uses: command, with: {{ run: \"mytool > o\", tools: [{tools}], outputs: [o] }} }} }}")
    };
    let path = format!("{}/bin:/usr/bin:/bin", bin.path().display());
    let call = || {
        let output = sandbox.command(&["run", "p.yaml", "--format", "json"]).env("PATH", &path).output();
        crate::support::Ran::from(output.unwrap())
    };
    sandbox.write("p.yaml", yaml(""));
    says(&call().code(1).stderr, &["it runs `mytool`, which is not declared; add `tools: [mytool]`"]);
    sandbox.write("p.yaml", yaml("mytool"));
    assert_eq!(call().ok().json()["executed"], 1);
    assert_eq!(call().ok().json()["executed"], 0);
    script(2);
    assert_eq!(call().ok().json()["executed"], 1, "another version");
    // A program that says of itself what it said before, but was built again.
    let build = |mark: &[u8]| {
        fs::remove_file(&tool).unwrap();
        fs::write(&tool, [&fs::read("/bin/true").unwrap(), mark].concat()).unwrap();
        fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    for mark in [b"1", b"2"] {
        build(mark);
        assert_eq!(call().ok().json()["executed"], 1);
        assert_eq!(call().ok().json()["executed"], 0);
    }
}

#[test]
fn an_edit_while_it_runs_is_noticed_though_its_time_is_put_back() {
    let sandbox = stage("{ run: \"touch o; sleep 1\", outputs: [o] }", "    inputs: { d: ./data.csv }\n");
    let mut running = sandbox.command(&["run", "p.yaml"]).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    let path = sandbox.file("data.csv");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "two\n").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    let mut stderr = String::new();
    running.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(1), "{stderr}");
    says(&stderr, &["(at the input `d`) changed since this run began", "nothing was recorded"]);
    assert_eq!(sandbox.run(&[])["executed"], 1);
}

/// A stage that tells the number of a process which it starts, in a file that is no output.
fn endless() -> Sandbox {
    let sandbox = stage(
        "{ run: \"sleep 1000 & echo $! > ${params.dir}/pid; trap '' TERM; wait; sleep 1000\", sandbox: off, outputs: [o] }",
        "",
    );
    let text = fs::read_to_string(sandbox.file("p.yaml")).unwrap();
    sandbox.write("p.yaml", format!("params: {{ dir: {} }}\n{text}", sandbox.path().display()));
    sandbox
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn child_of(sandbox: &Sandbox) -> Pid {
    wait_for("the command starts", || {
        Pid::from_raw(fs::read_to_string(sandbox.file("pid")).ok()?.strip_suffix('\n')?.parse().ok()?)
    })
}

/// Gone, or a zombie that nobody has reaped yet.
fn gone(pid: Pid) -> Option<()> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    (test_kill_process(pid).is_err() || stat.contains(") Z ")).then_some(())
}

#[test]
fn it_ends_with_all_that_it_started() {
    // Ctrl-C once would let it end by itself, which it doesn't.
    for signal in [Signal::INT, Signal::KILL] {
        let sandbox = endless();
        let mut running = sandbox.command(&["run", "p.yaml"]).stderr(Stdio::null()).spawn().unwrap();
        let child = child_of(&sandbox);
        wait_for("it ends", || {
            kill_process(Pid::from_child(&running), signal).unwrap();
            thread::sleep(Duration::from_millis(100));
            running.try_wait().unwrap()
        });
        wait_for("what it started is gone", || gone(child));
    }
}

#[test]
fn a_timeout_ends_it_too() {
    let sandbox = endless();
    let text = fs::read_to_string(sandbox.file("p.yaml")).unwrap();
    sandbox.write("p.yaml", text.replace("    uses: command\n", "    uses: command\n    timeout: 1s\n"));
    says(&fails(&sandbox), &["timed out"]);
    wait_for("what it started is gone", || gone(child_of(&sandbox)));
}

#[test]
fn what_it_left_running_ends_with_it() {
    let sandbox = stage("{ run: \"(sleep 1; echo late > o) & echo RESULT > o\", outputs: [o] }", "");
    sandbox.run(&[]);
    assert_eq!(result(&sandbox), "RESULT\n");
    // One that hides in a session of its own keeps the run no longer than a moment.
    let sandbox = stage("{ run: \"echo RESULT > o; setsid sleep 20 &\", outputs: [o] }", "");
    let started = Instant::now();
    sandbox.run(&[]);
    assert!(started.elapsed() < Duration::from_secs(10));
}
