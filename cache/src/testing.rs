//! What the tests of several files need.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::mpsc::{Receiver, channel},
    thread::Scope,
};

use serde_json::json;
use tempfile::TempDir;

use crate::{Cache, Digest, Execution, FileEntry, FileTree, KeyParts, PortContent, Record, stat::AHEAD};

/// A cache in a folder of its own.
pub(crate) fn cache() -> (TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    (dir, cache)
}

/// What `f` sees, ten seconds from now.
pub(crate) fn later<T>(f: impl FnOnce() -> T) -> T {
    AHEAD.set(10_000_000_000);
    let value = f();
    AHEAD.set(0);
    value
}

/// A collector on a thread of its own, which tells that it "waits", and when it "has it".
pub(crate) fn collector<'s>(scope: &'s Scope<'s, '_>, cache: &Cache) -> Receiver<&'static str> {
    let (send, receive) = channel();
    let cache = Cache::open(cache.root()).unwrap();
    scope.spawn(move || {
        let exclusive = cache.exclusive(|| send.send("waits").unwrap()).unwrap();
        send.send("has it").unwrap();
        drop(exclusive);
    });
    receive
}

pub(crate) fn entry(bytes: &[u8]) -> FileEntry {
    FileEntry { blob: Digest::of(bytes), size: bytes.len() as u64 }
}

pub(crate) fn parts(seed: u64) -> KeyParts {
    let tree = FileTree(BTreeMap::from([("prompts.jsonl".to_owned(), entry(b"prompts"))]));
    KeyParts {
        kind: "generate".to_owned(),
        revision: 1,
        numerics: BTreeMap::from([("models".to_owned(), json!(3))]),
        params: BTreeMap::from([("seed".to_owned(), json!(seed)), ("rate".to_owned(), json!(5e-5))]),
        files: BTreeMap::from([("source".to_owned(), tree.digest())]),
        inputs: BTreeMap::from([("prompts".to_owned(), PortContent::One(tree.digest()))]),
    }
}

pub(crate) fn record(seed: u64) -> Record {
    let parts = parts(seed);
    Record {
        format: Record::FORMAT,
        key: parts.key(),
        sources: BTreeMap::from([("prompts".to_owned(), vec![Digest::of(b"key of prompts")])]),
        outputs: BTreeMap::from([(
            "completions".to_owned(),
            FileTree(BTreeMap::from([("a".to_owned(), entry(b"a"))])),
        )]),
        summary: BTreeMap::from([("toxic".to_owned(), json!(0.125))]),
        log: entry(b"log"),
        execution: Execution {
            host: "host".to_owned(),
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            palinode: "0.1.0".to_owned(),
            git: None,
            determinism: "bitwise".to_owned(),
            device: "cpu".to_owned(),
            started: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            seconds: 0.1,
            peak_memory_mib: Some(20),
            places: BTreeMap::new(),
            address: format!("completions[seed={seed}]"),
        },
        parts,
    }
}

/// Changes one bit in the middle of a file and puts its time back, as a failing disk would.
pub(crate) fn flip_bit(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    rewrite(path, &bytes, &meta);
}

/// Writes over a file, read-only or not, and puts its time and rights back.
pub(crate) fn rewrite(path: &Path, bytes: &[u8], meta: &fs::Metadata) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
}

/// Names in a folder of the cache, without hidden ones.
pub(crate) fn names(cache: &Cache, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(cache.root().join(dir)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}
