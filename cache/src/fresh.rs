//! Blobs put by this process. Their bytes are known from when they were put, but a file that changed a moment ago may
//! change again and look the same; so their stats go into the index a moment later, if they are still the same.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    BlobDigest, Cache,
    stat::{self, FINE, Stat, WORTH_WAITING},
};

/// More are not remembered; they are hashed again when they are next looked for.
const MOST: usize = 100_000;
/// So many go into the index at a time.
const ROWS: usize = 4096;

#[derive(Default)]
pub(crate) struct Fresh(Mutex<Vec<(Stat, BlobDigest)>>);

impl Fresh {
    pub(crate) fn add(&self, stat: Stat, blob: BlobDigest) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() < MOST {
            files.push((stat, blob));
        }
    }
}

impl Cache {
    /// Adds what was put to the index, for the next process, as far as its stat can vouch for it by now. For a large
    /// file this waits a moment: hashing it again would take longer.
    pub(crate) fn settle_fresh(&self) {
        let files = std::mem::take(&mut *self.fresh().0.lock().unwrap_or_else(PoisonError::into_inner));
        for some in files.chunks(ROWS) {
            let rows: Vec<_> = some.iter().copied().filter(|(stat, blob)| self.is_settled(stat, blob)).collect();
            self.index().append(&rows);
        }
    }

    fn is_settled(&self, stat: &Stat, blob: &BlobDigest) -> bool {
        let path = self.spread("objects", blob);
        if stat.racy(stat::now(), &path) && stat.size >= WORTH_WAITING {
            std::thread::sleep(Duration::from_nanos(FINE.unsigned_abs()));
        }
        let racy = stat.racy(stat::now(), &path);
        !racy && fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && Stat::of(&meta) == *stat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cache, entry, flip_bit, later};

    #[test]
    fn what_was_put_is_indexed_once_it_is_settled_and_unchanged() {
        let (_dir, cache) = cache();
        let files = [b"one", b"two", b"six"].map(|bytes| cache.put_bytes(bytes).unwrap());
        let stat = |n: usize| Stat::of(&fs::metadata(cache.spread("objects", &files[n].blob)).unwrap());
        flip_bit(&cache.spread("objects", &files[1].blob));
        fs::remove_file(cache.spread("objects", &files[2].blob)).unwrap();
        later(|| cache.settle_fresh());
        let known = |stat: &Stat| Cache::open(cache.root()).unwrap().index().get(stat);
        assert_eq!(known(&stat(0)), Some(files[0].blob));
        assert_eq!(known(&stat(1)), None);
        // Only once.
        cache.put_bytes(b"too new").unwrap();
        cache.settle_fresh();
        later(|| cache.settle_fresh());
        let new = cache.spread("objects", &entry(b"too new").blob);
        assert_eq!(known(&Stat::of(&fs::metadata(new).unwrap())), None);
    }
}
