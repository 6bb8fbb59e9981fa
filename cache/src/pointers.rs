//! Which result an address had last: mutable, a hint for explaining misses, never the truth about anything. One
//! append-only file for each pipeline; the last row of an address counts.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    hash::BuildHasherDefault,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    Cache, Digest, StageKey,
    digest::Pointer,
    encode,
    error::{CacheError, io},
    frames,
    results::Prefix,
};

const HEADER: &[u8] = b"palinode pointers 1; deleting this file costs just explanations\n";
/// Digest of the address; key.
const ROW: usize = 64;
/// Rows out of date that are let be.
const SLACK: usize = 4096;

type Address = Digest<Pointer>;
type Known = HashMap<Address, StageKey, BuildHasherDefault<Prefix>>;

/// The pointers of each pipeline that was asked for.
#[derive(Default)]
pub(crate) struct Pointers(Mutex<HashMap<String, Known>>);

impl Cache {
    /// The key that `address` of `pipeline` had last, if known.
    pub fn last(&self, pipeline: &str, address: &str) -> Option<StageKey> {
        self.known(pipeline).get(pipeline)?.get(&digest(address)).copied()
    }

    /// The keys that the addresses of `pipeline` had last, all that are known.
    pub(crate) fn lasts(&self, pipeline: &str) -> Vec<StageKey> {
        self.known(pipeline).get(pipeline).map(|known| known.values().copied().collect()).unwrap_or_default()
    }

    /// How many of them there may be, without reading them.
    pub(crate) fn lasts_at_most(&self, pipeline: &str) -> usize {
        fs::metadata(self.pointers_path(pipeline)).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0) / ROW)
    }

    /// Remembers the key that `address` of `pipeline` has now.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn set_last(&self, pipeline: &str, address: &str, key: &StageKey) -> Result<(), CacheError> {
        self.set_last_all(pipeline, &[(address, *key)])
    }

    /// Remembers the keys that addresses of `pipeline` have now, in one write.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn set_last_all(&self, pipeline: &str, lasts: &[(&str, StageKey)]) -> Result<(), CacheError> {
        self.writable()?;
        let mut all = self.known(pipeline);
        let known = all.entry(pipeline.to_owned()).or_default();
        let mut rows = Vec::new();
        for (address, key) in lasts {
            let address = digest(address);
            if known.insert(address, *key) != Some(*key) {
                rows.extend_from_slice(address.as_bytes());
                rows.extend_from_slice(key.as_bytes());
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let path = self.pointers_path(pipeline);
        let frames: Vec<&[u8]> = rows.chunks(1024 * ROW).collect();
        frames::append(&path, HEADER, &frames).map_err(io("write", path))
    }

    /// Loaded when first needed.
    fn known(&self, pipeline: &str) -> MutexGuard<'_, HashMap<String, Known>> {
        let mut all = self.pointers().0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Vacant(new) = all.entry(pipeline.to_owned()) {
            new.insert(self.load_pointers(pipeline));
        }
        all
    }

    fn load_pointers(&self, pipeline: &str) -> Known {
        let path = self.pointers_path(pipeline);
        let file = frames::load(&path, HEADER);
        let rows = || file.frames.iter().flat_map(|frame| file.bytes[frame.clone()].as_chunks::<ROW>().0);
        let mut known = Known::default();
        known.reserve(rows().count());
        known.extend(rows().filter_map(|row| {
            let (address, key) = row.split_first_chunk::<32>()?;
            Some((Digest::from_bytes(*address), Digest::from_bytes(*key.first_chunk()?)))
        }));
        if rows().count() > 2 * known.len() + SLACK && !self.is_read_only() {
            let rows: Vec<u8> =
                known.iter().flat_map(|(address, key)| [*address.as_bytes(), *key.as_bytes()]).flatten().collect();
            let frames: Vec<&[u8]> = rows.chunks(1024 * ROW).collect();
            if let Err(error) = frames::rewrite(&path, HEADER, &frames) {
                tracing::debug!(path = %path.display(), %error, "can't compact the pointers");
            }
        }
        known
    }

    fn pointers_path(&self, pipeline: &str) -> PathBuf {
        self.dir("pointers").join(digest(pipeline).hex())
    }
}

/// Of an address or the name of a pipeline.
fn digest(text: &str) -> Address {
    let mut bytes = Vec::with_capacity(64);
    encode::text(&mut bytes, text);
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::SLACK;
    use crate::{
        Cache,
        testing::{cache, record},
    };

    #[test]
    fn the_last_key_of_an_address_is_remembered() {
        let (_dir, cache) = cache();
        let again = || Cache::open(cache.root()).unwrap();
        let [one, two] = [record(1).key, record(2).key];
        assert_eq!(cache.last("p", "tuned[rank=8]"), None);
        for key in [one, two, two] {
            cache.set_last("p", "tuned[rank=8]", &key).unwrap();
            assert_eq!(cache.last("p", "tuned[rank=8]"), Some(key));
            assert_eq!(again().last("p", "tuned[rank=8]"), Some(key));
        }
        assert_eq!(again().last("pt", "uned[rank=8]"), None);
        assert_eq!(again().last("q", "tuned[rank=8]"), None);
        again().set_last_all("p", &[("a", one), ("b", two), ("a", two)]).unwrap();
        assert_eq!(["a", "b", "tuned[rank=8]"].map(|address| again().last("p", address)), [Some(two); 3]);
    }

    #[test]
    fn garbage_is_no_pointer_and_is_written_over() {
        let (_dir, cache) = cache();
        let key = record(1).key;
        fs::write(cache.pointers_path("p"), "garbage").unwrap();
        assert_eq!(cache.last("p", "a"), None);
        cache.set_last("p", "a", &key).unwrap();
        assert_eq!(Cache::open(cache.root()).unwrap().last("p", "a"), Some(key));
    }

    #[test]
    fn pointers_out_of_date_go() {
        let (_dir, cache) = cache();
        let keys = [record(1).key, record(2).key];
        for i in 0..SLACK + 10 {
            cache.set_last("p", "a", &keys[i % 2]).unwrap();
        }
        cache.set_last("p", "b", &keys[0]).unwrap();
        let size = || fs::metadata(cache.pointers_path("p")).unwrap().len();
        let before = size();
        let again = Cache::open(cache.root()).unwrap();
        assert_eq!(again.last("p", "a"), cache.last("p", "a"));
        assert!(size() < 1000 && before > 100_000);
        assert_eq!(Cache::open(cache.root()).unwrap().last("p", "b"), Some(keys[0]));
    }
}
