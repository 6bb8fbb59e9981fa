//! Bad days: a full disk, a cache that may not be written, damaged files, clocks that go back, many processes at once.
//! Each ends with a message that says what is wrong, and with a cache from which the next run goes on.

use std::{
    fs::{self, File, FileTimes, Permissions},
    io::{self, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use crate::support::{Ran, Sandbox, files};

/// Two quick stages, one after the other.
const SMALL: &str = "
name: small
stages:
  world: { uses: corpus.planted, with: { identities: 4, contexts: 2, traits: 4, sentences: 200, seed: 1 } }
  tokenizer: { uses: tokenizer.train, inputs: { dataset: world.corpus }, with: { model: word } }
";

/// An account without rights.
const NOBODY: u32 = 65534;

/// A small file system of its own, where the test may mount one.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&at).expect("a folder to mount on");
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            let _ = writeln!(io::stderr(), "skipped: a file system can't be mounted here");
        }
        mounted.then_some(Self(at))
    }

    fn grow(&self, size: &str) {
        let remount = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &remount]).arg(&self.0).status().expect("it could mount before");
        assert!(status.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Calls palinode as someone who may read everything in the sandbox, but write only what is theirs: root may write
/// anything, so that as root such a test would show nothing.
fn call_as_nobody(sandbox: &Sandbox, args: &[&str]) -> Ran {
    let binary = sandbox.file("palinode");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_palinode"), &binary).expect("the binary can be copied");
        fs::set_permissions(sandbox.path(), Permissions::from_mode(0o755)).expect("the sandbox is ours");
    }
    let mut command = Command::new(binary);
    command.current_dir(sandbox.path()).args(args).env_remove("PALINODE_CACHE").env("NO_COLOR", "1");
    command.env("HOME", sandbox.path()).env("TMPDIR", sandbox.path());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.output().expect("palinode starts").into()
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").expect("Linux").uid() == 0
}

#[track_caller]
fn says(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is missing in:\n{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

/// The files of `folder` in the sandbox's cache, largest first.
fn largest(sandbox: &Sandbox, folder: &str) -> Vec<PathBuf> {
    let mut found = files(&sandbox.file(".palinode").join(folder));
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).expect("listed").len()));
    found
}

/// Writes to a file that is read-only for others, and puts its time back.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let meta = fs::metadata(path).expect("is there");
    let mut bytes = fs::read(path).expect("can be read");
    change(&mut bytes);
    fs::set_permissions(path, Permissions::from_mode(0o644)).expect("is ours");
    fs::write(path, bytes).expect("can be written");
    fs::set_permissions(path, meta.permissions()).expect("is ours");
    let times = FileTimes::new().set_modified(meta.modified().expect("known"));
    File::open(path).and_then(|file| file.set_times(times)).expect("is ours");
}

#[test]
fn a_command_that_fills_the_disk_is_not_tried_again() {
    let sandbox = Sandbox::with(
        "stages: { s: { uses: command, retries: 3, with: { run: 'head -c 9000000 /dev/zero > o', outputs: [o] } } }",
    );
    let Some(_disk) = Disk::mount(sandbox.file("small"), "3m") else { return };
    let ran = sandbox.call(&["run", "p.yaml", "--cache", "small/cache"]).code(1);
    says(&ran, &["it exited with code 1; its disk is full: free some space"]);
    assert!(!ran.stderr.contains("attempt"), "{}", ran.stderr);
}

#[test]
fn a_full_disk_fails_the_stage_and_the_next_run_goes_on() {
    let sandbox = Sandbox::with(&SMALL.replace("sentences: 200", "sentences: 100000"));
    let Some(disk) = Disk::mount(sandbox.file("small"), "1m") else { return };
    let ran = sandbox.call(&["run", "p.yaml", "--cache", "small/cache"]);
    assert_ne!(ran.code, 0);
    says(&ran, &["the disk is full"]);
    disk.grow("64m");
    sandbox.call(&["run", "p.yaml", "--cache", "small/cache"]).ok();
    let again = sandbox.call(&["run", "p.yaml", "--cache", "small/cache", "--format", "json"]).ok().json();
    assert_eq!(again["executed"], 0);
}

#[test]
fn a_disk_that_fills_up_later_keeps_what_was_done() {
    let sandbox = Sandbox::with(SMALL);
    let Some(_disk) = Disk::mount(sandbox.file("small"), "1m") else { return };
    sandbox.call(&["run", "p.yaml", "--cache", "small/cache"]).ok();
    // Nothing is left for the next result.
    let mut size = 1 << 20;
    while size > 0 {
        if fs::write(sandbox.file("small/ballast"), vec![0; size]).is_ok() {
            break;
        }
        size -= 4096;
    }
    sandbox.write("p.yaml", SMALL.replace("seed: 1", "seed: 2"));
    let ran = sandbox.call(&["run", "p.yaml", "--cache", "small/cache"]);
    assert_ne!(ran.code, 0);
    says(&ran, &["the disk is full"]);
    sandbox.write("p.yaml", SMALL);
    let plan = sandbox.call(&["plan", "p.yaml", "--cache", "small/cache"]).ok().stdout;
    assert!(plan.contains("2 cached, 0 to run"), "{plan}");
    fs::remove_file(sandbox.file("small/ballast")).unwrap();
    sandbox.write("p.yaml", SMALL.replace("seed: 1", "seed: 2"));
    sandbox.call(&["run", "p.yaml", "--cache", "small/cache"]).ok();
}

#[test]
fn a_cache_that_may_only_be_read_gives_hits_and_says_why_it_takes_nothing() {
    let sandbox = Sandbox::with(SMALL);
    sandbox.run(&[]);
    if !is_root() {
        for path in files(&sandbox.file(".palinode")).iter().filter_map(|path| path.parent()) {
            fs::set_permissions(path, Permissions::from_mode(0o555)).unwrap();
        }
        fs::set_permissions(sandbox.file(".palinode"), Permissions::from_mode(0o555)).unwrap();
    }
    let plan = call_as_nobody(&sandbox, &["plan", "p.yaml"]).ok().stdout;
    assert!(plan.contains("2 cached, 0 to run"), "{plan}");
    call_as_nobody(&sandbox, &["run", "p.yaml", "--out", "out"]).ok();
    sandbox.write("p.yaml", SMALL.replace("seed: 1", "seed: 2"));
    let ran = call_as_nobody(&sandbox, &["run", "p.yaml"]);
    assert_ne!(ran.code, 0);
    says(&ran, &["read-only"]);
}

#[test]
fn a_folder_without_permission_is_named() {
    let sandbox = Sandbox::with(SMALL);
    fs::create_dir(sandbox.file("closed")).unwrap();
    fs::set_permissions(sandbox.file("closed"), Permissions::from_mode(if is_root() { 0o700 } else { 0 })).unwrap();
    let ran = call_as_nobody(&sandbox, &["run", "p.yaml", "--cache", "closed/cache"]);
    assert_ne!(ran.code, 0);
    says(&ran, &["closed", "permission denied"]);
    fs::set_permissions(sandbox.file("closed"), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_flipped_bit_is_noticed_and_its_result_made_again() {
    let sandbox = Sandbox::with(SMALL);
    sandbox.run(&[]);
    let before = sandbox.call(&["plan", "p.yaml"]).ok().stdout;
    assert!(before.contains("2 cached"), "{before}");
    let blob = largest(&sandbox, "objects").remove(0);
    let whole = fs::read(&blob).unwrap();
    rewrite(&blob, |bytes| bytes[17] ^= 4);
    let plan = sandbox.call(&["plan", "p.yaml"]).ok();
    assert!(plan.stdout.contains("output lost"), "{}", plan.stdout);
    let summary = sandbox.run(&[]);
    assert_eq!((&summary["executed"], &summary["cached"]), (&1.into(), &1.into()), "what is below comes out the same");
    assert_eq!(fs::read(&blob).unwrap(), whole);
}

#[test]
fn a_record_that_was_cut_short_is_no_result() {
    let sandbox = Sandbox::with(SMALL);
    sandbox.run(&[]);
    for record in largest(&sandbox, "records") {
        for keep in [0, 100] {
            rewrite(&record, |bytes| bytes.truncate(keep));
            let summary = sandbox.run(&[]);
            assert_eq!((&summary["executed"], &summary["cached"]), (&1.into(), &1.into()));
        }
    }
}

#[test]
fn clocks_may_go_back() {
    let sandbox = Sandbox::with(SMALL);
    let ahead = SystemTime::now() + Duration::from_secs(40 * 24 * 3600);
    sandbox.run(&[]);
    // As if the clock had been a month ahead when all of this was written.
    for path in files(&sandbox.file(".palinode")) {
        let times = FileTimes::new().set_modified(ahead).set_accessed(ahead);
        File::open(&path).and_then(|file| file.set_times(times)).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(sandbox.run(&[])["executed"], 0);
    }
    let blob = largest(&sandbox, "objects").remove(0);
    rewrite(&blob, |bytes| bytes[17] ^= 4);
    assert_eq!(sandbox.run(&[])["executed"], 1, "a time in the future vouches for nothing");
}

#[test]
fn eight_processes_on_one_cache_run_each_stage_once() {
    let sandbox = Sandbox::with(SMALL);
    let start = |_| {
        let mut command = sandbox.command(&["run", "p.yaml", "--format", "json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("palinode starts")
    };
    let children: Vec<_> = (0..8).map(start).collect();
    let mut executed = 0;
    for child in children {
        let ran = Ran::from(child.wait_with_output().unwrap()).ok();
        executed += ran.json()["executed"].as_u64().unwrap();
    }
    assert_eq!(executed, 2);
}
