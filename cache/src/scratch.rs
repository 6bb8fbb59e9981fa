//! Temporary folders. Each process that writes has one folder `tmp/<pid>-<start>-<random>` with a locked file in it;
//! the lock dies with the process, and then the next one to open the cache removes the folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;

use crate::{
    Cache,
    error::{CacheError, io},
    stat::Stat,
};

const LOCK: &str = ".lock";
const GUARD: &str = ".guard";

/// One process's folder under `tmp/`.
pub(crate) struct Session {
    dir: TempDir,
    _lock: File,
    /// Scratch folders that go when the session does.
    left: AtomicUsize,
}

/// So many scratch folders are left lying until the session ends, if they hold next to nothing. ext4 gives a deleted
/// file's inode to nobody for some seconds, and each new file searches past all of these: removing the folders of a
/// thousand small stages as they end takes more time than the stages.
const MOST_LEFT: usize = 4096;
/// Next to nothing: so many entries, of so many bytes together.
const FEW: usize = 64;
const SMALL: u64 = 1 << 20;

impl Session {
    pub(crate) fn start(tmp: &Path) -> Result<Self, CacheError> {
        // Between making the folder and locking it, it looks dead: keep removers out.
        let guard = guard(tmp)?;
        guard.lock_shared().map_err(io("lock", tmp))?;
        let start = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S");
        let prefix = format!("{}-{start}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(tmp).map_err(io("make a folder in", tmp))?;
        let path = dir.path().join(LOCK);
        let lock = File::create(&path).map_err(io("create", &path))?;
        lock.lock().map_err(io("lock", &path))?;
        Ok(Self { dir, _lock: lock, left: AtomicUsize::new(0) })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A fresh folder on the cache's file system, removed when dropped, or with this process's other ones if it holds next
/// to nothing.
pub struct Scratch {
    dir: TempDir,
    session: Arc<Session>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let left = &self.session.left;
        if left.load(Ordering::Relaxed) < MOST_LEFT
            && holds_little(self.dir.path(), &mut FEW.clone(), &mut SMALL.clone())
        {
            left.fetch_add(1, Ordering::Relaxed);
            self.dir.disable_cleanup(true);
        }
    }
}

/// Whether there are at most `entries` of `bytes` below `dir`.
fn holds_little(dir: &Path, entries: &mut usize, bytes: &mut u64) -> bool {
    fs::read_dir(dir).into_iter().flatten().all(|entry| {
        let Ok((entry, meta)) = entry.and_then(|entry| entry.metadata().map(|meta| (entry, meta))) else {
            return false;
        };
        let (Some(fewer), Some(less)) = (entries.checked_sub(1), bytes.checked_sub(meta.len())) else { return false };
        (*entries, *bytes) = (fewer, less);
        !meta.is_dir() || holds_little(&entry.path(), entries, bytes)
    })
}

impl Scratch {
    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scratch({})", self.path().display())
    }
}

impl Cache {
    /// A fresh folder whose files [`Cache::put_file`] can take without copying.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn scratch(&self) -> Result<Scratch, CacheError> {
        let session = self.session()?;
        let dir = TempDir::new_in(session.path()).map_err(io("make a folder in", session.path()))?;
        Ok(Scratch { dir, session })
    }
}

/// Removes the folders of dead processes. Whatever goes wrong here can wait for the next time.
pub(crate) fn remove_stale(tmp: &Path) {
    let Ok(guard) = guard(tmp) else { return };
    if guard.try_lock().is_err() {
        return;
    }
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        if entry.file_name() == GUARD {
            continue;
        }
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if is_dead(&path) {
            match fs::remove_dir_all(&path) {
                Ok(()) => tracing::debug!(path = %path.display(), "removed what a dead process left"),
                Err(error) => tracing::debug!(path = %path.display(), %error, "can't remove a stale folder"),
            }
        }
    }
}

/// When the oldest process that now writes to the cache began to, in nanoseconds since 1970; `None` if none does.
pub(crate) fn oldest_living(tmp: &Path) -> Option<i64> {
    let sessions = fs::read_dir(tmp).into_iter().flatten().flatten().map(|entry| entry.path());
    let began = |session: PathBuf| fs::metadata(session.join(LOCK)).ok().map(|meta| Stat::of(&meta).mtime);
    sessions.filter(|session| session.is_dir() && !is_dead(session)).filter_map(began).min()
}

/// Whether no living process owns the folder; in doubt it lives.
fn is_dead(session: &Path) -> bool {
    match File::open(session.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn guard(tmp: &Path) -> Result<File, CacheError> {
    let path = tmp.join(GUARD);
    File::options().create(true).append(true).open(&path).map_err(io("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cache, names};

    #[test]
    fn folders_go_when_they_are_dropped() {
        let (_dir, cache) = cache();
        let [a, b] = [cache.scratch().unwrap(), cache.scratch().unwrap()];
        assert_ne!(a.path(), b.path());
        fs::write(a.path().join("x"), "x").unwrap();
        let (gone, root) = (a.path().to_owned(), cache.root().to_owned());
        drop(a);
        assert!(gone.exists(), "there is next to nothing in it");
        let [large, many] = [cache.scratch().unwrap(), cache.scratch().unwrap()];
        fs::write(large.path().join("x"), vec![0; 2 << 20]).unwrap();
        fs::create_dir(many.path().join("y")).unwrap();
        (0..FEW).for_each(|n| fs::write(many.path().join(format!("y/{n}")), "").unwrap());
        let paths = [large.path().to_owned(), many.path().to_owned()];
        drop((large, many));
        assert!(paths.iter().all(|path| !path.exists()));
        let sessions = names(&cache, "tmp");
        assert!(sessions[0].starts_with(&format!("{}-2", std::process::id())), "{sessions:?}");
        drop(cache);
        assert!(b.path().exists(), "a folder outlives the handle it came from");
        drop(b);
        assert_eq!(names(&Cache::open(&root).unwrap(), "tmp"), [""; 0]);
    }

    #[test]
    fn opening_removes_what_the_dead_left_and_nothing_else() {
        let (_dir, cache) = cache();
        let live = cache.scratch().unwrap();
        for (name, with_lock) in [("1-20260101T000000-dead", true), ("2-20260101T000000-dead", false)] {
            let dir = cache.root().join("tmp").join(name);
            fs::create_dir_all(dir.join("half/written")).unwrap();
            fs::write(dir.join("half/written/file"), "half").unwrap();
            if with_lock {
                fs::write(dir.join(LOCK), "").unwrap();
            }
        }
        Cache::open(cache.root()).unwrap();
        assert!(live.path().exists());
        assert_eq!(names(&cache, "tmp").len(), 1);
    }
}
