//! Results in batches, and what a power cut at any moment leaves of them: a store in which whatever was not synced may
//! be there, half there, or gone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env, fs,
    path::{Path, PathBuf},
};

use crate::{
    Cache, FileTree, Record,
    durable::journal::{self, Op},
    testing::{cache, record},
};

/// A record whose blobs are in `cache`.
fn made(cache: &Cache, n: u64) -> Record {
    let mut record = record(n);
    record.log = cache.put_bytes(b"the log of all").unwrap();
    let files = [("a", vec![n as u8; 100 + n as usize]), ("b", n.to_le_bytes().to_vec())];
    let tree = files.map(|(name, bytes)| (name.to_owned(), cache.put_bytes(&bytes).unwrap()));
    record.outputs = BTreeMap::from([("out".to_owned(), FileTree(tree.into()))]);
    record
}

#[test]
fn a_result_counts_here_at_once_and_elsewhere_when_it_is_recorded() {
    let (_dir, cache) = cache();
    let other = Cache::open(cache.root()).unwrap();
    let batched = cache.batched();
    let records: Vec<_> = (0..300).map(|n| made(&batched, n)).collect();
    for record in &records {
        let lock = batched.try_lock(&record.key).unwrap().map(std::sync::Arc::new);
        assert!(lock.is_some());
        batched.publish_held(record, lock).unwrap();
        assert!(batched.check(&record.key).unwrap().unwrap().lost.is_empty());
        // Either it is recorded, or nobody else may make it.
        assert!(other.try_lock(&record.key).unwrap().is_none() || other.record(&record.key).unwrap().is_some());
    }
    batched.flush().unwrap();
    for record in &records {
        assert_eq!(other.record(&record.key).unwrap().as_ref(), Some(record));
        assert!(other.check(&record.key).unwrap().unwrap().lost.is_empty());
        assert!(other.try_lock(&record.key).unwrap().is_some());
    }
}

#[test]
fn dropping_a_batch_records_what_waits() {
    let (_dir, cache) = cache();
    let batched = cache.batched();
    let record = made(&batched, 1);
    batched.publish(&record).unwrap();
    drop(batched);
    assert_eq!(cache.record(&record.key).unwrap(), Some(record));
}

#[test]
fn what_can_not_be_recorded_is_told_and_no_result() {
    let (_dir, cache) = cache();
    let batched = cache.batched();
    let record = made(&batched, 1);
    // A file where a folder of records belongs.
    let path = cache.spread("records", &record.key);
    let dir = path.parent().unwrap();
    batched.publish(&record).unwrap();
    batched.flush().unwrap();
    fs::remove_dir_all(dir).unwrap();
    fs::write(dir, "").unwrap();
    let batch = batched.batch().unwrap();
    let file = cache.temporary(&record.to_bytes().unwrap()).unwrap();
    batched.announce(batch, &record, file, None).unwrap();
    let error = batched.flush().unwrap_err().to_string();
    assert!(error.contains("can't make the folder"), "{error}");
    assert_eq!(batched.stored(&record.key).unwrap(), None);
    fs::remove_file(dir).unwrap();
    batched.publish(&record).unwrap();
    batched.flush().unwrap();
    assert_eq!(cache.record(&record.key).unwrap(), Some(record));
}

/// A small generator, so that a failing round can be told and repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What was done to a cache, and the bytes that each file had.
struct History {
    root: PathBuf,
    ops: Vec<Op>,
    bytes: HashMap<u64, Vec<u8>>,
}

impl History {
    /// The cache as it may be found after the power went before `ops[cut]`.
    fn after_power_cut(&self, cut: usize, dice: &mut Dice, to: &Path) {
        let done = &self.ops[..cut];
        Cache::open(to).unwrap();
        let last = |wanted: &Op| done.iter().rposition(|op| op == wanted);
        for (at, op) in done.iter().enumerate() {
            let Op::Named(inode, name) = op else { continue };
            let folders = [name.parent().unwrap(), name.parent().unwrap().parent().unwrap()];
            let synced = |folder: &Path| last(&Op::Names(folder.to_owned())).is_some_and(|sync| sync > at);
            let all = last(&Op::All);
            let named = all.is_some_and(|all| all > at) || folders.iter().all(|folder| synced(folder));
            if !named && dice.roll(2) == 0 {
                continue;
            }
            // The inode may have been another file's before.
            let written = done[..at].iter().rposition(|op| *op == Op::Written(*inode)).unwrap_or(at);
            let safe = [last(&Op::Bytes(*inode)), all].into_iter().flatten().any(|sync| sync > written);
            let mut bytes = self.bytes[inode].clone();
            if !safe {
                match dice.roll(4) {
                    0 => bytes.clear(),
                    1 => bytes.truncate(bytes.len() / 2),
                    2 => bytes.fill(0),
                    _ => {}
                }
            }
            let path = to.join(name.strip_prefix(&self.root).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

/// Makes results in batches, small and large, and notes what was done.
fn history(dice: &mut Dice) -> (tempfile::TempDir, History, Vec<Record>) {
    let (dir, cache) = cache();
    journal::start(cache.root());
    let batched = cache.batched();
    let mut records = Vec::new();
    for n in 0..40 {
        records.push(made(&batched, n));
        batched.publish(&records[n as usize]).unwrap();
        if dice.roll(6) == 0 {
            batched.flush().unwrap();
        }
    }
    batched.flush().unwrap();
    drop(batched);
    let ops = journal::stop(cache.root());
    let names = ops.iter().filter_map(|op| if let Op::Named(inode, name) = op { Some((*inode, name)) } else { None });
    let bytes = names.map(|(inode, name)| (inode, fs::read(name).unwrap())).collect();
    (dir, History { root: cache.root().to_owned(), ops, bytes }, records)
}

/// How many of `records` are there after each of `cuts` power cuts, and whether all that are there are whole.
fn survivors(history: &History, records: &[Record], cuts: u64, dice: &mut Dice) -> (HashSet<usize>, bool) {
    let mut counts = HashSet::new();
    let mut whole = true;
    for _ in 0..cuts {
        let dir = tempfile::tempdir().unwrap();
        let cut = dice.roll(history.ops.len() as u64 + 1) as usize;
        history.after_power_cut(cut, dice, dir.path());
        let cache = Cache::open(dir.path()).unwrap();
        let mut count = 0;
        for record in records {
            // A damaged record is no result, but with syncs in order there is none.
            let there = cache.spread("records", &record.key).exists();
            let found = cache.record(&record.key).unwrap();
            whole &= there == found.is_some() && found.as_ref().is_none_or(|found| found == record);
            whole &= cache.check(&record.key).unwrap().is_none_or(|checked| checked.lost.is_empty());
            count += usize::from(found.is_some());
        }
        counts.insert(count);
    }
    (counts, whole)
}

#[test]
fn a_power_cut_at_any_moment_leaves_whole_results_only() {
    let rounds = env::var("PALINODE_POWER_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    for seed in 0..rounds {
        let dice = &mut Dice(seed);
        let (_dir, history, records) = history(dice);
        let (counts, whole) = survivors(&history, &records, 40, dice);
        assert!(whole, "seed {seed}");
        assert!(counts.len() > 3, "the cuts come at different moments: {counts:?}");
        // What was flushed is there for good.
        let dir = tempfile::tempdir().unwrap();
        history.after_power_cut(history.ops.len(), dice, dir.path());
        let cache = Cache::open(dir.path()).unwrap();
        assert!(records.iter().all(|record| cache.record(&record.key).unwrap().is_some()), "seed {seed}");
    }
}

#[test]
fn without_any_of_the_syncs_the_power_cuts_do_harm() {
    let without: [fn(&Op) -> bool; 2] =
        [|op| !matches!(op, Op::All | Op::Bytes(_)), |op| !matches!(op, Op::All | Op::Names(_))];
    for keep in without {
        let dice = &mut Dice(7);
        let (_dir, mut history, records) = history(dice);
        history.ops.retain(keep);
        let (_, whole) = survivors(&history, &records, 60, dice);
        assert!(!whole);
    }
}
