//! What a stage that takes long keeps of itself, to go on from if it is broken off: `checkpoints/ab/cdef.../`, by the key
//! of the result that it works at. Not part of any result; gone when that is recorded.
//!
//! A checkpoint is a folder `<number>-<digest>` that was written under another name, synced and renamed. Its name tells
//! what must be in it: one that was torn, or damaged since, is passed over.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    Cache, FileTree, Key, StageKey, TreeDigest, durable,
    error::{CacheError, io},
    stat,
    walk::entries,
};

/// Beginning of the names of checkpoints that are being written.
const TEMPORARY: &str = ".new-";

/// The checkpoints of one result. Whoever makes it (its lock is held) is the only one who uses them.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// In the folder `dir`, which need not be there.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder of the newest whole checkpoint, if there is one.
    ///
    /// # Errors
    /// If a folder can't be read.
    pub fn latest(&self) -> Result<Option<PathBuf>, CacheError> {
        let mut found = self.found()?;
        found.sort_by_key(|(number, ..)| std::cmp::Reverse(*number));
        for (_, digest, path) in found {
            // One that can't be read is as good as none.
            if tree(&path).is_ok_and(|tree| tree.digest() == digest) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Adds a checkpoint: `write` fills a fresh folder. When it is on disk, what was there before goes. Killed at any
    /// time, the one before is there, or this one.
    ///
    /// # Errors
    /// If it can't be written, or `write` says so; then the one before stays.
    pub fn save<E: From<CacheError>>(&self, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
        fs::create_dir_all(&self.dir).map_err(io("make the folder", &self.dir))?;
        let mut builder = tempfile::Builder::new();
        let new = builder.prefix(TEMPORARY).tempdir_in(&self.dir).map_err(io("make a folder in", &self.dir))?;
        write(new.path())?;
        self.name(new.path()).map_err(E::from)?;
        Ok(())
    }

    /// Gives a written folder its name, and removes all others.
    fn name(&self, new: &Path) -> Result<(), CacheError> {
        let tree = tree(new)?;
        tree.0.keys().try_for_each(|name| durable::sync_file(&new.join(name)))?;
        durable::sync_dirs([new])?;
        let last = self.found()?.into_iter().map(|(number, ..)| number).max();
        let name = format!("{:08}-{}", last.map_or(0, |last| last + 1), tree.digest().hex());
        let place = self.dir.join(&name);
        crate::failpoint::step();
        fs::rename(new, &place).map_err(io("rename", new))?;
        durable::sync_dirs([self.dir.as_path()])?;
        for entry in entries(&self.dir)? {
            if *entry.file_name() != *name {
                crate::failpoint::step();
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Number, digest and place of what looks like a checkpoint.
    fn found(&self) -> Result<Vec<(u64, TreeDigest, PathBuf)>, CacheError> {
        let parse = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let (number, digest) = name.to_str()?.split_once('-')?;
            Some((number.parse().ok()?, digest.parse().ok()?, entry.path()))
        };
        Ok(entries(&self.dir)?.into_iter().filter_map(parse).collect())
    }
}

impl Cache {
    /// Where the checkpoints of the result `key` are.
    pub fn checkpoints(&self, key: &StageKey) -> PathBuf {
        self.spread("checkpoints", key)
    }

    /// Removes the checkpoints of the result `key`: it is there now, or is to be made from the beginning.
    ///
    /// # Errors
    /// If they can't be removed.
    pub fn remove_checkpoints(&self, key: &StageKey) -> Result<(), CacheError> {
        remove(&self.checkpoints(key))
    }

    /// All results that there are checkpoints of, and where these are.
    ///
    /// # Errors
    /// If a folder can't be read.
    pub fn checkpointed(&self) -> Result<Vec<(StageKey, PathBuf)>, CacheError> {
        Ok(self.walk::<Key>("checkpoints")?.into_iter().map(|named| (named.digest, named.path)).collect())
    }
}

/// The files of a checkpoint, all in one folder.
fn tree(dir: &Path) -> Result<FileTree, CacheError> {
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok((name, stat::hash_file(&entry.path())?.entry))
    };
    Ok(FileTree(entries(dir)?.into_iter().map(file).collect::<Result<_, CacheError>>()?))
}

fn remove(path: &Path) -> Result<(), CacheError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cache, flip_bit, record};

    fn save(checkpoints: &Checkpoints, text: &str) {
        let write = |dir: &Path| fs::write(dir.join("state"), text).map_err(io("write", dir));
        checkpoints.save::<CacheError>(write).unwrap();
    }

    fn read(checkpoints: &Checkpoints) -> Option<String> {
        Some(fs::read_to_string(checkpoints.latest().unwrap()?.join("state")).unwrap())
    }

    fn names(checkpoints: &Checkpoints) -> Vec<String> {
        let entries = entries(&checkpoints.dir).unwrap();
        entries.iter().map(|entry| entry.file_name().to_string_lossy()[..8].to_owned()).collect()
    }

    #[test]
    fn the_newest_is_found_and_is_the_only_one() {
        let (_dir, cache) = cache();
        let checkpoints = Checkpoints::at(cache.checkpoints(&record(1).key));
        assert_eq!(read(&checkpoints), None);
        for text in ["one", "two", "two"] {
            save(&checkpoints, text);
            assert_eq!(read(&checkpoints).as_deref(), Some(text));
        }
        assert_eq!(names(&checkpoints), ["00000002"]);
        assert_eq!(cache.checkpointed().unwrap(), [(record(1).key, checkpoints.dir.clone())]);
        cache.remove_checkpoints(&record(1).key).unwrap();
        cache.remove_checkpoints(&record(1).key).unwrap();
        assert_eq!((read(&checkpoints), cache.checkpointed().unwrap().len()), (None, 0));
    }

    #[test]
    fn what_is_torn_or_damaged_is_passed_over() {
        let (_dir, cache) = cache();
        let checkpoints = Checkpoints::at(cache.checkpoints(&record(1).key));
        save(&checkpoints, "one");
        let one = checkpoints.latest().unwrap().unwrap();
        // As if killed between the renaming of the second and the removal of the first.
        let kept = checkpoints.dir.with_extension("kept");
        fs::create_dir(&kept).unwrap();
        fs::copy(one.join("state"), kept.join("state")).unwrap();
        save(&checkpoints, "two");
        fs::rename(&kept, &one).unwrap();
        assert_eq!(read(&checkpoints).as_deref(), Some("two"));
        // A power cut may leave a name without its bytes.
        let two = checkpoints.latest().unwrap().unwrap();
        fs::write(two.join("state"), "tw").unwrap();
        assert_eq!(read(&checkpoints).as_deref(), Some("one"));
        flip_bit(&one.join("state"));
        assert_eq!(read(&checkpoints), None);
        // The next one is newer than all of them.
        fs::create_dir(checkpoints.dir.join(".new-left")).unwrap();
        save(&checkpoints, "three");
        assert_eq!(read(&checkpoints).as_deref(), Some("three"));
        assert_eq!(names(&checkpoints), ["00000002"]);
    }

    #[test]
    fn one_that_can_not_be_written_leaves_the_one_before() {
        let (_dir, cache) = cache();
        let checkpoints = Checkpoints::at(cache.checkpoints(&record(1).key));
        save(&checkpoints, "one");
        let refused = checkpoints.save::<CacheError>(|dir| {
            fs::write(dir.join("state"), "tw").unwrap();
            Err(io("write", dir)(io::Error::other("no room")))
        });
        assert!(refused.is_err());
        assert_eq!(read(&checkpoints).as_deref(), Some("one"));
        assert_eq!(names(&checkpoints), ["00000000"]);
    }
}
