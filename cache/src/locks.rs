//! Locks between processes, by `flock`: they die with their process. Lock files stay behind, empty.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    Cache, StageKey,
    error::{CacheError, io},
};

/// The right to compute one result; given back when dropped, or by the system when the process dies.
#[derive(Debug)]
pub struct KeyLock {
    _file: File,
}

impl Cache {
    /// Waits for the right to compute `key`.
    ///
    /// # Errors
    /// If the lock file can't be made or locked.
    pub fn lock(&self, key: &StageKey) -> Result<KeyLock, CacheError> {
        loop {
            let (file, path) = self.open_lock(&key.hex())?;
            file.lock().map_err(io("lock", &path))?;
            if still_named(&file, &path) {
                return Ok(KeyLock { _file: file });
            }
        }
    }

    /// The right to compute `key`, or `None` if someone has it.
    ///
    /// # Errors
    /// If the lock file can't be made or locked.
    pub fn try_lock(&self, key: &StageKey) -> Result<Option<KeyLock>, CacheError> {
        loop {
            let (file, path) = self.open_lock(&key.hex())?;
            match file.try_lock() {
                Ok(()) if still_named(&file, &path) => return Ok(Some(KeyLock { _file: file })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(io("lock", path)(error)),
            }
        }
    }

    /// Held while something is set aside: two processes that see the same damage must not both move the file, else
    /// the second one moves its replacement.
    pub(crate) fn repair_lock(&self) -> Result<KeyLock, CacheError> {
        let (file, path) = self.open_lock("repair")?;
        file.lock().map_err(io("lock", path))?;
        Ok(KeyLock { _file: file })
    }

    pub(crate) fn open_lock(&self, name: &str) -> Result<(File, PathBuf), CacheError> {
        self.writable()?;
        let path = self.dir("locks").join(name);
        let file = File::options().create(true).append(true).open(&path).map_err(io("open", &path))?;
        Ok((file, path))
    }
}

/// The collector removes lock files: one that it removed between our opening and locking it locks nothing any more.
fn still_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use crate::{
        Cache,
        testing::{cache, record},
    };

    #[test]
    fn one_at_a_time_holds_a_key() {
        let (_dir, cache) = cache();
        let other = Cache::open(cache.root()).unwrap();
        let (key, second) = (record(1).key, record(2).key);
        let lock = cache.lock(&key).unwrap();
        assert!(other.try_lock(&key).unwrap().is_none());
        assert!(cache.try_lock(&key).unwrap().is_none());
        assert!(other.try_lock(&second).unwrap().is_some());
        drop(lock);
        assert!(other.try_lock(&key).unwrap().is_some());
    }

    #[test]
    fn who_waits_gets_it_next() {
        let (_dir, cache) = cache();
        let key = record(1).key;
        let lock = cache.lock(&key).unwrap();
        let (send, receive) = mpsc::channel();
        std::thread::scope(|scope| {
            let cache = cache.clone();
            scope.spawn(move || {
                let _lock = cache.lock(&key).unwrap();
                send.send("waiter").unwrap();
            });
            std::thread::yield_now();
            assert!(receive.try_recv().is_err());
            drop(lock);
            assert_eq!(receive.recv().unwrap(), "waiter");
        });
    }
}
