//! Several processes on one cache, and what is left when one is killed. Each test runs itself again as its children.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use palinode_cache::{Cache, FileEntry, KeyParts, Published, Record};

const DIR: &str = "PALINODE_TEST_CACHE";

/// The cache to work on, if this process is a child.
fn child() -> Option<Cache> {
    env::var_os(DIR).map(|dir| Cache::open(Path::new(&dir)).expect("opens"))
}

/// Runs the test `name` of this file as a child.
fn spawn(name: &str, root: &Path) -> Child {
    Command::new(env::current_exe().expect("known"))
        .args(["--exact", name, "--nocapture"])
        .env(DIR, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts")
}

/// A line of this child's own for its parent; the test harness prints lines too.
fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nsays {text}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Waits for the next line of the child's own.
fn hear(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    let said = lines.find_map(|line| line.ok()?.strip_prefix("says ").map(str::to_owned));
    said.expect("the child says something")
}

fn record(cache: &Cache, host: &str) -> Record {
    let parts = KeyParts {
        kind: "test".to_owned(),
        revision: 1,
        numerics: Default::default(),
        params: Default::default(),
        files: Default::default(),
        inputs: Default::default(),
    };
    let execution = serde_json::json!({
        "host": host, "os": "linux", "arch": "x86_64", "palinode": "0.1.0", "git": null, "determinism": "bitwise",
        "device": "cpu", "started": "2026-01-02T03:04:05Z", "seconds": 1.0, "peak_memory_mib": null, "places": {},
        "address": "a",
    });
    Record {
        format: Record::FORMAT,
        key: parts.key(),
        parts,
        sources: Default::default(),
        outputs: Default::default(),
        summary: Default::default(),
        log: cache.put_bytes(b"log").expect("stored"),
        execution: serde_json::from_value(execution).expect("decodes"),
    }
}

fn blobs() -> impl Iterator<Item = Vec<u8>> {
    (0..40u8).map(|n| vec![n; 20_000])
}

#[test]
fn two_processes_put_and_publish_the_same() {
    if let Some(cache) = child() {
        say("ready");
        std::io::stdin().read_line(&mut String::new()).expect("told to go");
        for bytes in blobs() {
            let file = cache.put_bytes(&bytes).expect("stored");
            assert!(cache.locate(&file).expect("readable").is_some());
        }
        let record = record(&cache, &std::process::id().to_string());
        say(if cache.publish(&record).expect("published") == Published::New { "first" } else { "second" });
        return;
    }
    let dir = tempfile::tempdir().expect("made");
    let root = dir.path().join("cache");
    let mut children = [(); 2].map(|()| spawn("two_processes_put_and_publish_the_same", &root));
    let mut outs = children.each_mut().map(|child| BufReader::new(child.stdout.take().expect("piped")).lines());
    outs.iter_mut().for_each(|out| assert_eq!(hear(out), "ready"));
    children.iter_mut().for_each(|child| writeln!(child.stdin.as_mut().expect("piped"), "go").expect("heard"));
    let mut said = outs.each_mut().map(hear);
    said.sort();
    assert_eq!(said, ["first", "second"]);
    children.iter_mut().for_each(|child| assert!(child.wait().expect("ends").success()));

    let cache = Cache::open(&root).expect("opens");
    assert!(cache.record(&record(&cache, "").key).expect("readable").is_some());
    for bytes in blobs() {
        let file = cache.put_bytes(&bytes).expect("stored");
        assert!(cache.locate(&file).expect("readable").is_some());
    }
    assert_eq!(entries(&root.join("corrupt")), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_process_leaves_nothing_that_matters() {
    let name = "a_killed_process_leaves_nothing_that_matters";
    if let Some(cache) = child() {
        let scratch = cache.scratch().expect("made");
        std::fs::write(scratch.path().join("half"), "half a resu").expect("written");
        let _lock = cache.lock(&record(&cache, "child").key).expect("locked");
        say("ready");
        // The parent kills this process in the middle of these.
        for n in 0u64.. {
            cache.put_bytes(&n.to_le_bytes().repeat(1000)).expect("stored");
        }
    }
    let dir = tempfile::tempdir().expect("made");
    let root = dir.path().join("cache");
    let mut first = spawn(name, &root);
    let mut out = BufReader::new(first.stdout.take().expect("piped")).lines();
    assert_eq!(hear(&mut out), "ready");

    let cache = Cache::open(&root).expect("opens");
    let key = record(&cache, "parent").key;
    let session = |id: u32| {
        let prefix = format!("{id}-");
        entries(&root.join("tmp")).into_iter().find(|path| name_of(path).starts_with(&prefix))
    };
    assert!(cache.try_lock(&key).expect("lockable").is_none(), "held by the child");
    assert!(session(first.id()).is_some(), "opening leaves the folders of the living alone");

    first.kill().expect("killed");
    first.wait().expect("ends");
    assert!(cache.try_lock(&key).expect("lockable").is_some(), "given back by the system");
    assert!(session(first.id()).is_some(), "kill leaves no time to tidy up");
    let cache = Cache::open(&root).expect("opens");
    assert_eq!(session(first.id()), None);

    // Every blob that has a name is whole.
    let folders = entries(&root.join("objects"));
    for path in folders.iter().flat_map(|folder| entries(folder)) {
        let hex = format!("{}{}", name_of(path.parent().expect("a folder")), name_of(&path));
        let size = path.metadata().expect("there").len();
        let entry = FileEntry { blob: hex.parse().expect("a digest"), size };
        assert_eq!(cache.locate(&entry).expect("readable"), Some(path));
    }
    assert_eq!(cache.publish(&record(&cache, "parent")).expect("published"), Published::New);
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("readable").path()).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}
