//! Damaged files are moved to `corrupt/`, never deleted: they are evidence, and may be someone's only copy.

use std::{fs, io::ErrorKind, path::Path};

use crate::{Cache, CacheError, error::io, stat};

impl Cache {
    /// Moves `path` to `corrupt/` if it `still` is what made the caller want that, once no one else moves things.
    /// Failing to is no error: the caller has already decided not to use the file.
    pub(crate) fn set_aside(&self, path: &Path, still: impl FnOnce() -> Result<bool, CacheError>) {
        if self.is_read_only() {
            return;
        }
        if let Err(error) = self.try_set_aside(path, still) {
            tracing::warn!(path = %path.display(), %error, "can't set a damaged file aside");
        }
    }

    fn try_set_aside(&self, path: &Path, still: impl FnOnce() -> Result<bool, CacheError>) -> Result<(), CacheError> {
        let _lock = self.repair_lock()?;
        if !still()? {
            return Ok(());
        }
        let parts: Vec<_> = path.iter().rev().take(3).map(|part| part.to_string_lossy()).collect();
        let name = parts.into_iter().rev().collect::<Vec<_>>().join("-");
        let dir = self.dir("corrupt");
        fs::create_dir_all(&dir).map_err(io("make the folder", &dir))?;
        let to = dir.join(format!("{name}.{}", stat::now()));
        crate::failpoint::step();
        match fs::rename(path, &to) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io("move aside", path)(error)),
        }
    }
}
