//! Locks between processes, by `flock`: they die with their process. Lock files stay behind, empty.

use std::{
    fs::{File, TryLockError},
    path::PathBuf,
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
        let (file, path) = self.lock_file(&key.hex())?;
        file.lock().map_err(io("lock", path))?;
        Ok(KeyLock { _file: file })
    }

    /// The right to compute `key`, or `None` if someone has it.
    ///
    /// # Errors
    /// If the lock file can't be made or locked.
    pub fn try_lock(&self, key: &StageKey) -> Result<Option<KeyLock>, CacheError> {
        let (file, path) = self.lock_file(&key.hex())?;
        match file.try_lock() {
            Ok(()) => Ok(Some(KeyLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(io("lock", path)(error)),
        }
    }

    /// Held while something is set aside: two processes that see the same damage must not both move the file, else
    /// the second one moves its replacement.
    pub(crate) fn repair_lock(&self) -> Result<KeyLock, CacheError> {
        let (file, path) = self.lock_file("repair")?;
        file.lock().map_err(io("lock", path))?;
        Ok(KeyLock { _file: file })
    }

    fn lock_file(&self, name: &str) -> Result<(File, PathBuf), CacheError> {
        self.writable()?;
        let path = self.dir("locks").join(name);
        let file = File::options().create(true).append(true).open(&path).map_err(io("open", &path))?;
        Ok((file, path))
    }
}
