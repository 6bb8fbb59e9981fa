//! Verifying: every blob is read and hashed again, past the index. What is bad is set aside, and the results that
//! need it are forgotten, so that the next run makes them again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use serde::Serialize;

use crate::{
    Blob, BlobDigest, Cache, CacheError, FileEntry, Key, StageKey,
    stat::{self, Seen},
    walk::Named,
};

/// How far verifying is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Blobs that were read.
    pub blobs: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes that there are to read.
    pub total: u64,
}

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Blobs that were read.
    pub blobs: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Records that were read.
    pub records: u64,
    /// What is bad, in order of name.
    pub damaged: Vec<Damage>,
    /// Results that need a bad blob, by key: forgotten.
    pub forgotten: BTreeMap<StageKey, String>,
    /// Results of which a blob is in neither the cache nor the place it was referred to, by key. They stay: the place
    /// may come back, and else the next run makes them again.
    pub lost: BTreeMap<StageKey, String>,
}

impl VerifyReport {
    /// Whether all is well.
    pub fn sound(&self) -> bool {
        self.damaged.is_empty() && self.forgotten.is_empty() && self.lost.is_empty()
    }
}

/// Something that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damage {
    /// Its file, relative to the cache.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Cache {
    /// Verifies all blobs and records. In a cache that can't be written, bad ones are only told.
    ///
    /// # Errors
    /// If a folder can't be read, or another version wrote a record.
    pub fn verify(&self, progress: &(dyn Fn(VerifyProgress) + Sync)) -> Result<VerifyReport, CacheError> {
        let _hold = self.hold()?;
        let mut report = VerifyReport::default();
        let checked = self.verify_blobs(progress)?;
        let mut bad = BTreeSet::new();
        let mut good = BTreeMap::new();
        for (named, found) in checked {
            match found {
                Found::Gone => continue,
                Found::Good(seen) => drop(good.insert(named.digest, seen)),
                Found::Bad(problem) => {
                    bad.insert(named.digest);
                    report.damaged.push(Damage { file: self.relative(&named), problem });
                }
            }
            report.blobs += 1;
            report.bytes += named.meta.len();
        }
        let settled: Vec<_> =
            good.values().filter(|seen| seen.settled).map(|seen| (seen.stat, seen.entry.blob)).collect();
        self.index().add(&settled);
        let whole = good.iter().map(|(digest, seen)| (*digest, seen.entry.size)).collect();
        self.verify_records(&whole, &bad, &mut report)?;
        report.damaged.sort();
        Ok(report)
    }

    /// Reads all blobs, the largest first, so that no thread is left alone with one at the end.
    fn verify_blobs(
        &self,
        progress: &(dyn Fn(VerifyProgress) + Sync),
    ) -> Result<Vec<(Named<Blob>, Found)>, CacheError> {
        let mut blobs = self.walk::<Blob>("objects")?;
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.meta.len()));
        let total = blobs.iter().map(|blob| blob.meta.len()).sum();
        let (next, count, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let found: Mutex<Vec<(usize, Found)>> = Mutex::default();
        let work = || {
            let take = || {
                let i = next.fetch_add(1, Ordering::Relaxed);
                blobs.get(i).map(|blob| (i, blob))
            };
            while let Some((i, blob)) = take() {
                let outcome = self.verify_blob(blob);
                found.lock().unwrap_or_else(PoisonError::into_inner).push((i, outcome));
                let blobs = count.fetch_add(1, Ordering::Relaxed) + 1;
                let bytes = bytes.fetch_add(blob.meta.len(), Ordering::Relaxed) + blob.meta.len();
                progress(VerifyProgress { blobs, bytes, total });
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(i, _)| *i);
        Ok(blobs.into_iter().zip(found.into_iter().map(|(_, found)| found)).collect())
    }

    fn verify_blob(&self, blob: &Named<Blob>) -> Found {
        let judge = || match stat::hash_file(&blob.path) {
            Ok(seen) if seen.entry.blob == blob.digest => Found::Good(seen),
            Ok(seen) => Found::Bad(format!("its bytes have the digest {}", seen.entry.blob)),
            Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Found::Gone,
            Err(error) => Found::Bad(error.to_string()),
        };
        let found = judge();
        if matches!(found, Found::Bad(_)) {
            self.set_aside(&blob.path, || Ok(matches!(judge(), Found::Bad(_))));
        }
        found
    }

    fn verify_records(
        &self,
        whole: &BTreeMap<BlobDigest, u64>,
        bad: &BTreeSet<BlobDigest>,
        report: &mut VerifyReport,
    ) -> Result<(), CacheError> {
        for named in self.walk::<Key>("records")? {
            let Some(record) = self.record(&named.digest)? else {
                // Set aside just now, or by another process.
                let problem = "its bytes are no whole record of its name".to_owned();
                report.damaged.push(Damage { file: self.relative(&named), problem });
                continue;
            };
            report.records += 1;
            let address = record.execution.address.clone();
            let files = record.outputs.values().flat_map(|tree| tree.0.values()).chain([&record.log]);
            let missing: Vec<&FileEntry> = files.filter(|file| whole.get(&file.blob) != Some(&file.size)).collect();
            // A bad blob that could not be set aside is still there, and the index may vouch for it.
            let elsewhere = |file: &FileEntry| {
                !(self.is_read_only() && bad.contains(&file.blob)) && matches!(self.locate(file), Ok(Some(_)))
            };
            let gone: Vec<_> = missing.into_iter().filter(|file| !elsewhere(file)).collect();
            if gone.is_empty() {
                continue;
            }
            if gone.iter().any(|file| bad.contains(&file.blob)) {
                if !self.is_read_only() {
                    self.forget(&record.key)?;
                }
                report.forgotten.insert(record.key, address);
            } else {
                report.lost.insert(record.key, address);
            }
        }
        Ok(())
    }

    fn relative<K>(&self, named: &Named<K>) -> String {
        named.path.strip_prefix(self.root()).unwrap_or(&named.path).display().to_string()
    }
}

enum Found {
    Good(Seen),
    Bad(String),
    /// Removed meanwhile.
    Gone,
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::testing::{cache, entry, flip_bit, later, names, record};

    /// A cache with two results of the same blobs and one of others.
    fn setup() -> (tempfile::TempDir, Cache) {
        let (dir, cache) = cache();
        for bytes in [&b"a"[..], b"log", b"other"] {
            cache.put_bytes(bytes).unwrap();
        }
        let mut other = record(3);
        other.outputs.values_mut().for_each(|tree| _ = tree.0.insert("a".to_owned(), entry(b"other")));
        for record in [record(1), record(2), other] {
            cache.publish(&record).unwrap();
        }
        (dir, cache)
    }

    fn blob(cache: &Cache, bytes: &[u8]) -> PathBuf {
        cache.spread("objects", &entry(bytes).blob)
    }

    #[test]
    fn a_sound_cache_is_said_to_be_sound() {
        let (_dir, cache) = setup();
        let seen = Mutex::new(Vec::new());
        let report = cache.verify(&|progress| seen.lock().unwrap().push(progress)).unwrap();
        assert!(report.sound(), "{report:?}");
        assert_eq!((report.blobs, report.bytes, report.records), (3, 9, 3));
        let last = VerifyProgress { blobs: 3, bytes: 9, total: 9 };
        assert!(seen.into_inner().unwrap().contains(&last));
    }

    #[test]
    fn a_flipped_bit_is_found_though_the_index_vouches_for_the_file() {
        let (_dir, cache) = setup();
        flip_bit(&blob(&cache, b"a"));
        let stat = crate::stat::Stat::of(&fs::metadata(blob(&cache, b"a")).unwrap());
        cache.index().add(&[(stat, entry(b"a").blob)]);
        assert!(later(|| cache.locate(&entry(b"a"))).unwrap().is_some(), "the index is fooled");
        let report = cache.verify(&|_| ()).unwrap();
        assert_eq!(report.damaged.len(), 1);
        assert!(report.damaged[0].problem.starts_with("its bytes have the digest"), "{report:?}");
        assert_eq!(report.forgotten.len(), 2);
        assert!(report.lost.is_empty());
        assert!(!blob(&cache, b"a").exists());
        assert_eq!(names(&cache, "corrupt").len(), 3, "a blob and two records");
        assert!(cache.record(&record(3).key).unwrap().is_some());
        assert!(cache.verify(&|_| ()).unwrap().sound(), "told once, then it is out of the way");
    }

    #[test]
    fn records_are_verified_too() {
        let (_dir, cache) = setup();
        flip_bit(&cache.spread("records", &record(1).key));
        fs::remove_file(blob(&cache, b"other")).unwrap();
        let report = cache.verify(&|_| ()).unwrap();
        assert_eq!(report.damaged.len(), 1);
        assert!(report.damaged[0].file.starts_with("records/"), "{report:?}");
        assert_eq!(report.lost, BTreeMap::from([(record(3).key, "completions[seed=3]".to_owned())]));
        assert!(cache.record(&record(3).key).unwrap().is_some(), "a lost place may come back");
    }

    #[test]
    fn a_blob_that_lies_elsewhere_is_not_lost() {
        let (dir, cache) = setup();
        fs::remove_file(blob(&cache, b"other")).unwrap();
        fs::write(dir.path().join("elsewhere"), "other").unwrap();
        cache.refer(&dir.path().join("elsewhere"), &entry(b"other")).unwrap();
        assert!(cache.verify(&|_| ()).unwrap().sound());
    }

    #[test]
    fn a_cache_that_can_not_be_written_is_left_as_it_is() {
        let (_dir, cache) = setup();
        flip_bit(&blob(&cache, b"a"));
        let report = cache.as_read_only().verify(&|_| ()).unwrap();
        assert_eq!((report.damaged.len(), report.forgotten.len()), (1, 2));
        assert!(blob(&cache, b"a").exists());
        assert_eq!(names(&cache, "corrupt"), [""; 0]);
    }
}
