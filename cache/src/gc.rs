//! Garbage collection: what no root leads to is removed. A root keeps its record, the records of all that it was made
//! from, and their blobs. Records go before blobs, so that a collector killed half way leaves no result without bytes.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    Blob, BlobDigest, Cache, CacheError, Exclusive, Key, Part, StageKey, Usage, Usages, durable,
    error::io,
    scratch,
    stat::Stat,
    walk::{Named, entries},
};

/// What else to remove.
#[derive(Debug, Clone, Copy, Default)]
pub struct GcOptions {
    /// Also what was set aside: damaged files and records that others took the place of.
    pub aside: bool,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Gone.
    pub removed: Usages,
    /// Still there.
    pub kept: Usages,
}

impl GcReport {
    /// Counts `usage`.
    pub fn count(&mut self, part: Part, removed: bool, usage: Usage) {
        let usages = if removed { &mut self.removed } else { &mut self.kept };
        usages.add(part, usage);
    }
}

impl Cache {
    /// Removes what none of `roots` needs; without the lock, only says what that would be.
    ///
    /// What was made since the oldest living process began to write is kept, whether it is a root's or not: that
    /// process may be about to name it.
    ///
    /// # Errors
    /// If something can't be read, so that it isn't known what is needed (then nothing was removed), or not be removed.
    pub fn gc(
        &self,
        roots: &BTreeSet<StageKey>,
        options: GcOptions,
        lock: Option<&Exclusive>,
    ) -> Result<GcReport, CacheError> {
        let since = scratch::oldest_living(&self.dir("tmp"));
        let young = |meta: &fs::Metadata| since.is_some_and(|since| Stat::of(meta).ctime >= since);
        let records: Vec<Named<Key>> = self.walk("records")?;
        let fresh = records.iter().filter(|record| young(&record.meta)).map(|record| record.digest);
        let needed = self.mark(roots.iter().copied().chain(fresh))?;

        let mut report = GcReport::default();
        let mut sweep = Sweep { report: &mut report, really: lock.is_some(), emptied: BTreeSet::new() };
        for record in &records {
            sweep.file(Part::Records, needed.records.contains(&record.digest), &record.path, &record.meta)?;
        }
        // Else a power cut could bring a record back whose blobs are gone.
        durable::sync_dirs(sweep.emptied.iter().map(PathBuf::as_path))?;
        for blob in self.walk::<Blob>("objects")? {
            let keep = needed.blobs.contains(&blob.digest) || young(&blob.meta);
            sweep.file(Part::Blobs, keep, &blob.path, &blob.meta)?;
        }
        for place in self.walk::<Blob>("places")? {
            sweep.tree(Part::Places, needed.blobs.contains(&place.digest) || young(&place.meta), &place.path)?;
        }
        // They may have cost money, and no record says who will ask for them again.
        let answers = self.answers();
        if answers.exists() {
            sweep.tree(Part::Answers, true, &answers)?;
        }
        for entry in entries(&self.dir("corrupt"))? {
            sweep.tree(Part::Aside, !options.aside, &entry.path())?;
        }
        if lock.is_some() {
            self.remove_locks(&needed)?;
        }
        Ok(report)
    }

    /// What `roots` need.
    fn mark(&self, roots: impl Iterator<Item = StageKey>) -> Result<Needed, CacheError> {
        let mut needed = Needed::default();
        let mut open: Vec<StageKey> = roots.collect();
        while let Some(key) = open.pop() {
            if !needed.records.insert(key) {
                continue;
            }
            let Some(record) = self.record(&key)? else { continue };
            open.extend(record.sources.values().flatten());
            needed.blobs.extend(record.outputs.values().flat_map(|tree| tree.0.values()).map(|file| file.blob));
            needed.blobs.insert(record.log.blob);
        }
        Ok(needed)
    }

    /// Removes the lock files of results that are gone, unless someone has them.
    fn remove_locks(&self, needed: &Needed) -> Result<(), CacheError> {
        for entry in entries(&self.dir("locks"))? {
            let Some(Ok(key)) = entry.file_name().to_str().map(str::parse::<StageKey>) else { continue };
            if needed.records.contains(&key) {
                continue;
            }
            // Removed while it is locked: whoever waits for it sees that it is another file than the name leads to.
            if let Some(_lock) = self.try_lock(&key)? {
                remove(&entry.path(), |path| fs::remove_file(path))?;
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Needed {
    records: BTreeSet<StageKey>,
    blobs: BTreeSet<BlobDigest>,
}

struct Sweep<'a> {
    report: &'a mut GcReport,
    really: bool,
    /// Folders in which something was removed.
    emptied: BTreeSet<PathBuf>,
}

impl Sweep<'_> {
    fn file(&mut self, part: Part, keep: bool, path: &Path, meta: &fs::Metadata) -> Result<(), CacheError> {
        if !keep && self.really {
            crate::failpoint::step();
            remove(path, |path| if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) })?;
            self.emptied.extend(path.parent().map(Path::to_owned));
        }
        self.report.count(part, !keep, Usage::file(meta.len()));
        Ok(())
    }

    fn tree(&mut self, part: Part, keep: bool, path: &Path) -> Result<(), CacheError> {
        let usage = Usage::of(path)?;
        if !keep && self.really {
            crate::failpoint::step();
            remove(path, |path| if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) })?;
        }
        self.report.count(part, !keep, usage);
        Ok(())
    }
}

fn remove(path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), CacheError> {
    match remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        FileTree, Record,
        testing::{cache, entry, flip_bit, names, record},
    };

    /// A published result of its own bytes, made from `sources`.
    fn result(cache: &Cache, seed: u64, sources: &[StageKey]) -> Record {
        let mut record = record(seed);
        let file = cache.put_bytes(format!("output {seed}").as_bytes()).unwrap();
        record.outputs = BTreeMap::from([("out".to_owned(), FileTree(BTreeMap::from([("a".to_owned(), file)])))]);
        record.log = cache.put_bytes(b"the same log").unwrap();
        record.sources = BTreeMap::from([("in".to_owned(), sources.to_vec())]);
        cache.publish(&record).unwrap();
        record
    }

    fn there(cache: &Cache, record: &Record) -> bool {
        let blobs = record.outputs["out"].0.values().all(|file| cache.locate(file).unwrap().is_some());
        let found = cache.record(&record.key).unwrap().is_some();
        assert_eq!(blobs, found);
        found
    }

    /// As if the process that made all of it had ended.
    fn reopened((dir, cache): (tempfile::TempDir, Cache)) -> (tempfile::TempDir, Cache) {
        let root = cache.root().to_owned();
        drop(cache);
        (dir, Cache::open(&root).unwrap())
    }

    fn collect(cache: &Cache, roots: &[&Record], really: bool) -> GcReport {
        let lock = really.then(|| cache.exclusive(|| ()).unwrap());
        let roots = roots.iter().map(|record| record.key).collect();
        cache.gc(&roots, GcOptions::default(), lock.as_ref()).unwrap()
    }

    #[test]
    fn a_root_keeps_all_that_it_was_made_from() {
        let (dir, cache) = cache();
        let [a, old] = [result(&cache, 1, &[]), result(&cache, 2, &[])];
        let b = result(&cache, 3, &[a.key]);
        let c = result(&cache, 4, &[b.key]);
        let (_dir, cache) = reopened((dir, cache));

        let plan = collect(&cache, &[&c], false);
        assert_eq!(plan.removed.0[&Part::Records].files, 1);
        assert_eq!(plan.removed.0[&Part::Blobs], Usage::file("output 2".len() as u64));
        assert!(there(&cache, &old), "only told");

        let done = collect(&cache, &[&c], true);
        assert_eq!(done, plan);
        assert!([&a, &b, &c].iter().all(|record| there(&cache, record)));
        assert!(!there(&cache, &old));
        assert!(cache.locate(&c.log).unwrap().is_some(), "the log is shared");
        let again = collect(&cache, &[&c], true);
        assert_eq!(again.removed, Usages::default());
        assert_eq!(collect(&cache, &[], true).kept, Usages::default());
    }

    #[test]
    fn what_was_made_since_a_living_process_began_is_kept() {
        let (dir, cache) = cache();
        let old = result(&cache, 1, &[]);
        let (_dir, cache) = reopened((dir, cache));
        std::thread::sleep(std::time::Duration::from_millis(30));
        let living = Cache::open(cache.root()).unwrap();
        let loose = living.put_bytes(b"not named yet").unwrap();
        let new = result(&living, 2, &[]);
        collect(&cache, &[], true);
        assert!(there(&cache, &new) && !there(&cache, &old));
        assert!(cache.locate(&loose).unwrap().is_some());
        drop(living);
        collect(&cache, &[], true);
        assert!(!there(&cache, &new));
        assert!(cache.locate(&loose).unwrap().is_none());
    }

    #[test]
    fn a_missing_root_is_no_error_and_a_record_that_can_not_be_read_is() {
        let (dir, cache) = cache();
        let [a, b] = [result(&cache, 1, &[]), result(&cache, 2, &[])];
        let (_dir, cache) = reopened((dir, cache));
        flip_bit(&cache.spread("records", &a.key));
        let done = collect(&cache, &[&a, &b, &record(9)], true);
        assert_eq!(done.removed.0.get(&Part::Records), None);
        assert_eq!(done.removed.0[&Part::Blobs].files, 1, "a's");
        assert_eq!(names(&cache, "corrupt").len(), 1);
        assert!(there(&cache, &b));
    }

    #[test]
    fn places_go_with_their_blobs_and_locks_with_their_results() {
        let (dir, cache) = cache();
        let weights = dir.path().join("weights");
        fs::write(&weights, "w").unwrap();
        cache.refer(&weights, &entry(b"w")).unwrap();
        let key = record(7).key;
        let lock = cache.lock(&key).unwrap();
        drop(cache.lock(&record(8).key).unwrap());
        let (_dir, cache) = reopened((dir, cache));
        let done = collect(&cache, &[], true);
        assert_eq!(done.removed.0[&Part::Places].files, 1);
        assert!(weights.exists() && cache.locate(&entry(b"w")).unwrap().is_none());
        assert_eq!(names(&cache, "locks"), [key.hex(), "gc".to_owned()]);
        drop(lock);
        collect(&cache, &[], true);
        assert_eq!(names(&cache, "locks"), ["gc"]);
    }

    #[test]
    fn what_was_set_aside_goes_only_if_asked_for() {
        let (_dir, cache) = cache();
        cache.publish(&record(1)).unwrap();
        cache.forget(&record(1).key).unwrap();
        assert_eq!(collect(&cache, &[], true).kept.0[&Part::Aside].files, 1);
        let lock = cache.exclusive(|| ()).unwrap();
        let done = cache.gc(&BTreeSet::new(), GcOptions { aside: true }, Some(&lock)).unwrap();
        assert_eq!(done.removed.0[&Part::Aside].files, 1);
        assert_eq!(names(&cache, "corrupt"), [""; 0]);
    }
}
