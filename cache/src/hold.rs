//! Who may remove and who relies on nothing being removed: holds are shared by those that read a result and will name
//! it as a root only later; [`Exclusive`] is the collector's. Both are `flock`s, which die with their process.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    sync::{Arc, PoisonError},
};

use crate::{
    Cache, StageKey,
    error::{CacheError, io},
};

/// While it lives, nothing is collected. Held from finding or storing a result until that is told in the run's log,
/// from where the collector takes its roots; so for moments only, and a long run does not keep the collector out.
#[derive(Debug)]
pub struct Hold {
    /// None if the cache can't be written and was never collected: then there is nothing to lock.
    _file: Option<File>,
}

/// The right to remove what no one needs.
#[derive(Debug)]
pub struct Exclusive {
    _file: File,
}

impl Cache {
    /// Keeps the collector out. Waits while it is at work.
    ///
    /// Holds of one process share one lock: one that waited behind a collector that waits for another of the same
    /// process would wait for ever.
    ///
    /// # Errors
    /// If the lock file can't be made or locked.
    pub fn hold(&self) -> Result<Arc<Hold>, CacheError> {
        let mut held = self.held().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hold) = held.upgrade() {
            return Ok(hold);
        }
        let path = self.dir("locks").join("gc");
        let file = self.collectors_lock(&path)?;
        file.as_ref().map_or(Ok(()), File::lock_shared).map_err(io("lock", path))?;
        let hold = Arc::new(Hold { _file: file });
        *held = Arc::downgrade(&hold);
        Ok(hold)
    }

    /// The same, or `None` at once where a collector is at work or nobody can tell.
    pub(crate) fn try_hold(&self) -> Option<Arc<Hold>> {
        let mut held = self.held().try_lock().ok()?;
        if let Some(hold) = held.upgrade() {
            return Some(hold);
        }
        let file = self.collectors_lock(&self.dir("locks").join("gc")).ok()?;
        file.as_ref().map_or(Ok(()), File::try_lock_shared).ok()?;
        let hold = Arc::new(Hold { _file: file });
        *held = Arc::downgrade(&hold);
        Some(hold)
    }

    fn collectors_lock(&self, path: &Path) -> Result<Option<File>, CacheError> {
        let file = if self.is_read_only() {
            match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                // Whoever may not even see the lock may see the blobs; they are verified when read.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
                Err(error) => return Err(io("open", path)(error)),
            }
        } else {
            self.open_lock("gc")?.0
        };
        Ok(Some(file))
    }

    /// Waits until no one holds the cache; `waiting` is called once if that takes a while.
    ///
    /// # Errors
    /// If the cache is read-only, or the lock file can't be made or locked.
    pub fn exclusive(&self, waiting: impl FnOnce()) -> Result<Exclusive, CacheError> {
        let (file, path) = self.open_lock("gc")?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().map_err(io("lock", path))?;
            }
            Err(TryLockError::Error(error)) => return Err(io("lock", path)(error)),
        }
        Ok(Exclusive { _file: file })
    }

    /// Whether some process is computing `key` now. Makes nothing.
    pub fn is_locked(&self, key: &StageKey) -> bool {
        let Ok(file) = File::open(self.dir("locks").join(key.hex())) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Cache,
        testing::{cache, collector, record},
    };

    #[test]
    fn who_holds_keeps_the_collector_out_and_the_other_way_round() {
        let (_dir, cache) = cache();
        let other = Cache::open(cache.root()).unwrap();
        let hold = cache.hold().unwrap();
        // Shared, also within a process and while a collector waits.
        let second = other.hold().unwrap();
        std::thread::scope(|scope| {
            let receive = collector(scope, &cache);
            assert_eq!(receive.recv().unwrap(), "waits");
            let third = cache.hold().unwrap();
            drop((hold, second));
            assert!(receive.try_recv().is_err());
            drop(third);
            assert_eq!(receive.recv().unwrap(), "has it");
        });
        let _again = cache.hold().unwrap();
    }

    #[test]
    fn a_lock_that_someone_has_is_seen_without_making_one() {
        let (_dir, cache) = cache();
        let other = Cache::open(cache.root()).unwrap();
        let key = record(1).key;
        assert!(!other.is_locked(&key));
        assert_eq!(crate::testing::names(&cache, "locks"), [""; 0]);
        let lock = cache.lock(&key).unwrap();
        assert!(other.is_locked(&key));
        drop(lock);
        assert!(!other.is_locked(&key));
    }
}
