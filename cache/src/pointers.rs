//! Which result an address had last: mutable, a hint for explaining misses, never the truth about anything.

use std::{fs, path::PathBuf};

use crate::{
    Cache, Digest, StageKey,
    digest::Pointer,
    encode,
    error::{CacheError, io},
};

impl Cache {
    /// The key that `address` of `pipeline` had last, if known.
    pub fn last(&self, pipeline: &str, address: &str) -> Option<StageKey> {
        fs::read_to_string(self.pointer(pipeline, address)).ok()?.parse().ok()
    }

    /// Remembers the key that `address` of `pipeline` has now.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn set_last(&self, pipeline: &str, address: &str, key: &StageKey) -> Result<(), CacheError> {
        if self.last(pipeline, address).as_ref() == Some(key) {
            return Ok(());
        }
        let path = self.pointer(pipeline, address);
        let file = self.temporary(key.hex().as_bytes())?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io("make the folder", dir))?;
        }
        file.persist(&path).map_err(|error| io("write", &path)(error.error))?;
        Ok(())
    }

    fn pointer(&self, pipeline: &str, address: &str) -> PathBuf {
        let mut hasher = Digest::<Pointer>::hasher();
        encode::text(&mut hasher, pipeline);
        encode::text(&mut hasher, address);
        self.spread("pointers", &Digest::<Pointer>::finish(&hasher))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::testing::{cache, record};

    #[test]
    fn the_last_key_of_an_address_is_remembered() {
        let (_dir, cache) = cache();
        let [one, two] = [record(1).key, record(2).key];
        assert_eq!(cache.last("p", "tuned[rank=8]"), None);
        for key in [one, two, two] {
            cache.set_last("p", "tuned[rank=8]", &key).unwrap();
            assert_eq!(cache.last("p", "tuned[rank=8]"), Some(key));
        }
        assert_eq!(cache.last("pt", "uned[rank=8]"), None);
        fs::write(cache.pointer("p", "tuned[rank=8]"), "garbage").unwrap();
        assert_eq!(cache.last("p", "tuned[rank=8]"), None);
    }
}
