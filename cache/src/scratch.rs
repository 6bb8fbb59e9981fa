//! Temporary folders. Each process that writes has one folder `tmp/<pid>-<start>-<random>` with a locked file in it;
//! the lock dies with the process, and then the next one to open the cache removes the folder.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
const ASIDE: &str = ".aside";

/// One process's folder under `tmp/`.
pub(crate) struct Session {
    dir: TempDir,
    _lock: File,
    /// How many scratch folders' contents go when the session does.
    left: AtomicUsize,
    /// Names what is moved aside.
    moved: AtomicUsize,
    /// Scratch folders to be taken again, by the folders in them.
    stock: Mutex<HashMap<Vec<String>, Vec<TempDir>>>,
}

/// The contents of so many scratch folders are left lying until the session ends, if they are next to nothing. ext4
/// gives a deleted file's inode to nobody for some seconds, and each new file searches past all of these: removing the
/// folders of a thousand small stages as they end takes more time than the stages. Making folders is dear too, so those
/// that are as they were made are taken again.
const MOST_LEFT: usize = 4096;
/// Next to nothing: so many entries, of so many bytes together.
const FEW: usize = 64;
const SMALL: u64 = 1 << 20;
/// Threads that remove what is left in the end.
const REMOVERS: usize = 4;

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
        let aside = dir.path().join(ASIDE);
        fs::create_dir(&aside).map_err(io("create", aside))?;
        Ok(Self {
            dir,
            _lock: lock,
            left: AtomicUsize::default(),
            moved: AtomicUsize::default(),
            stock: Mutex::default(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn stock(&self) -> MutexGuard<'_, HashMap<Vec<String>, Vec<TempDir>>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves aside what is in `dir`, which is `at` in a scratch folder, except for `folders`; counts these.
    fn empty(&self, dir: &Path, at: &str, folders: &[String]) -> std::io::Result<usize> {
        let mut found = 0;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().map(|name| if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") });
            let leads = |name: &String| {
                folders.iter().any(|folder| folder.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
            };
            match name {
                Some(name) if entry.file_type()?.is_dir() && (folders.contains(&name) || leads(&name)) => {
                    found += usize::from(folders.contains(&name)) + self.empty(&entry.path(), &name, folders)?;
                }
                _ => {
                    let number = self.moved.fetch_add(1, Ordering::Relaxed);
                    fs::rename(entry.path(), self.path().join(ASIDE).join(number.to_string()))?;
                }
            }
        }
        Ok(found)
    }
}

impl Drop for Session {
    /// What its stages left is many small things, each a few calls: some threads remove it faster than one, at the end of
    /// a run, when nothing else is to be done. What can't be removed is tried again with the folder itself.
    fn drop(&mut self) {
        let children = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        let all: Vec<_> = children(&self.path().join(ASIDE)).chain(children(self.path())).collect();
        let next = AtomicUsize::default();
        let remove = || {
            while let Some(entry) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let kept = [LOCK, ASIDE].iter().any(|kept| entry.file_name() == *kept);
                let _ = match (kept, folder) {
                    (true, _) => Ok(()),
                    (false, true) => fs::remove_dir_all(entry.path()),
                    (false, false) => fs::remove_file(entry.path()),
                };
            }
        };
        if all.len() > FEW {
            std::thread::scope(|scope| {
                (0..REMOVERS).for_each(|_| {
                    scope.spawn(remove);
                });
            });
        }
    }
}

/// A fresh folder on the cache's file system, removed when dropped, or with this process's other ones if it holds next
/// to nothing.
pub struct Scratch {
    /// There until it is dropped.
    dir: Option<TempDir>,
    folders: Vec<String>,
    /// Nobody writes to it any more.
    done: bool,
    session: Arc<Session>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(mut dir) = self.dir.take() else { return };
        let session = &self.session;
        if session.left.load(Ordering::Relaxed) >= MOST_LEFT
            || !holds_little(dir.path(), &mut FEW.clone(), &mut SMALL.clone())
        {
            return;
        }
        session.left.fetch_add(1, Ordering::Relaxed);
        dir.disable_cleanup(true);
        let folders = std::mem::take(&mut self.folders);
        if self.done
            && !folders.is_empty()
            && session.empty(dir.path(), "", &folders).is_ok_and(|found| found == folders.len())
        {
            session.stock().entry(folders).or_default().push(dir);
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
        self.dir.as_ref().map_or(Path::new(""), TempDir::path)
    }
}

impl Scratch {
    /// Drops it where its user has ended, so that others may take it. Only then: a stage that didn't hear that it is to
    /// stop may write to it still.
    pub fn give_back(mut self) {
        self.done = true;
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
        self.scratch_with(Vec::new())
    }

    /// The same, with `folders` in it: paths below it, without `..`. One that was [given back](Scratch::give_back) goes to
    /// who wants the same folders next, empty but for these, so they are to be such that only the engine writes to them.
    ///
    /// # Errors
    /// If they can't be made.
    pub fn scratch_with(&self, folders: Vec<String>) -> Result<Scratch, CacheError> {
        let session = self.session()?;
        let used = session.stock().get_mut(&folders).and_then(Vec::pop);
        let dir = match used {
            Some(mut dir) => {
                dir.disable_cleanup(false);
                dir
            }
            None => {
                let dir = TempDir::new_in(session.path()).map_err(io("make a folder in", session.path()))?;
                for folder in &folders {
                    let path = dir.path().join(folder);
                    fs::create_dir_all(&path).map_err(io("create", path))?;
                }
                dir
            }
        };
        Ok(Scratch { dir: Some(dir), folders, done: false, session })
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
    fn folders_that_are_as_they_were_made_are_taken_again_without_what_was_in_them() {
        let (_dir, cache) = cache();
        let folders = || vec!["in/a".to_owned(), "out/b".to_owned()];
        let listing = |scratch: &Scratch| {
            let all = walk(scratch.path()).into_iter();
            all.map(|path| path.strip_prefix(scratch.path()).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        let first = cache.scratch_with(folders()).unwrap();
        let fresh = listing(&first);
        assert_eq!(fresh, ["in", "in/a", "out", "out/b"]);
        let inode = |scratch: &Scratch| std::os::unix::fs::MetadataExt::ino(&fs::metadata(scratch).unwrap());
        let (place, node) = (first.path().to_owned(), inode(&first));
        for name in ["in/a/file", "in/x", "out/b/deep/file", "work/file", "in/a.b"] {
            fs::create_dir_all(place.join(name).parent().unwrap()).unwrap();
            fs::write(place.join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("/", place.join("out/b/link")).unwrap();
        first.give_back();
        let other = cache.scratch_with(vec!["in/a".to_owned()]).unwrap();
        assert_ne!(other.path(), place, "its folders are others");
        let again = cache.scratch_with(folders()).unwrap();
        assert_eq!((again.path(), inode(&again), listing(&again)), (&*place, node, fresh.clone()));
        let meanwhile = cache.scratch_with(folders()).unwrap();
        assert_ne!(meanwhile.path(), place);

        // One whose folder was replaced is not.
        fs::remove_dir(again.path().join("out/b")).unwrap();
        fs::write(again.path().join("out/b"), "a file").unwrap();
        again.give_back();
        let new = cache.scratch_with(folders()).unwrap();
        assert_ne!(new.path(), place);
        assert_eq!(listing(&new), fresh);

        // Nor one that was dropped: who had it may not have ended.
        let place = new.path().to_owned();
        drop(new);
        assert_ne!(cache.scratch_with(folders()).unwrap().path(), place);
    }

    fn walk(dir: &Path) -> Vec<PathBuf> {
        let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all.into_iter()
            .flat_map(|path| if path.is_dir() { [vec![path.clone()], walk(&path)].concat() } else { vec![path] })
            .collect()
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
