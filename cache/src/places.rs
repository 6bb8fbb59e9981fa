//! External places of blobs: large inputs are remembered by digest and place, not copied in.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    Blob, Cache, Digest, FileEntry,
    error::{CacheError, io},
};

impl Cache {
    /// Remembers that the bytes of `entry` lie at `path`. They are verified again whenever they are looked for.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn refer(&self, path: &Path, entry: &FileEntry) -> Result<(), CacheError> {
        let path = std::path::absolute(path).map_err(io("find", path))?;
        let bytes = path.as_os_str().as_bytes();
        // One file per place: processes that remember different places don't get in each other's way.
        let dir = self.spread("places", &entry.blob);
        let note = dir.join(&Digest::<Blob>::of(bytes).hex()[..16]);
        if fs::read(&note).is_ok_and(|known| known == bytes) {
            return Ok(());
        }
        let file = self.temporary(bytes)?;
        fs::create_dir_all(&dir).map_err(io("make the folder", &dir))?;
        file.persist(&note).map_err(|error| io("write", &note)(error.error))?;
        Ok(())
    }

    /// A remembered place that still holds the bytes of `entry`.
    pub(crate) fn external_place(&self, entry: &FileEntry) -> Option<PathBuf> {
        let notes = fs::read_dir(self.spread("places", &entry.blob)).ok()?;
        let mut notes: Vec<PathBuf> = notes.flatten().map(|note| note.path()).collect();
        notes.sort();
        notes.iter().find_map(|note| {
            let path = PathBuf::from(OsStr::from_bytes(&fs::read(note).ok()?));
            let size = fs::metadata(&path).ok()?.len();
            // A place that can't be read now may be readable later (an unmounted disk): it stays remembered.
            (size == entry.size && self.look(&path).ok()?.entry == *entry).then_some(path)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cache, entry};

    #[test]
    fn bytes_outside_the_cache_are_found_while_they_are_there() {
        let (dir, cache) = cache();
        let file = entry(b"weights");
        assert_eq!(cache.locate(&file).unwrap(), None);
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        for path in [&a, &b] {
            fs::write(path, "weights").unwrap();
            cache.refer(path, &file).unwrap();
            cache.refer(path, &file).unwrap();
        }
        assert_eq!(fs::read_dir(cache.spread("places", &file.blob)).unwrap().count(), 2);
        assert!(cache.locate(&file).unwrap().is_some());

        fs::write(&a, "WEIGHTS").unwrap();
        assert_eq!(cache.locate(&file).unwrap(), Some(b.clone()));
        fs::remove_file(&b).unwrap();
        assert_eq!(cache.locate(&file).unwrap(), None);
        fs::write(&b, "weights").unwrap();
        assert_eq!(cache.locate(&file).unwrap(), Some(b));
        assert!(a.exists(), "a user's file is never moved");
    }

    #[test]
    fn garbage_in_a_note_is_ignored() {
        let (_dir, cache) = cache();
        let file = entry(b"x");
        let dir = cache.spread("places", &file.blob);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("note"), b"\xff\0garbage").unwrap();
        assert_eq!(cache.locate(&file).unwrap(), None);
    }
}
