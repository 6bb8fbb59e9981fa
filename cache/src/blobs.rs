//! Blobs: files named by the digest of their bytes, read-only, in `objects/` whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    Cache, FileEntry, FileTree, durable,
    error::{CacheError, Refusal, io, refuse},
    stat::{self, Seen, Stat},
};

impl Cache {
    /// Takes a finished file: it is gone from `path` afterwards. No one may have it open for writing.
    ///
    /// # Errors
    /// If it is not a regular file, or can't be read, or there is no room for it.
    pub fn put_file(&self, path: &Path) -> Result<FileEntry, CacheError> {
        Ok(self.put_files(&[path.to_owned()])?[0])
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// If there is no room for them.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<FileEntry, CacheError> {
        let file = self.temporary(bytes)?;
        let (_, path) = file.keep().map_err(|error| io("write in", self.root())(error.error))?;
        self.put_file(&path)
    }

    /// Takes every file below `dir`; empty folders are not kept.
    ///
    /// # Errors
    /// If there is a symlink, special file or name that isn't UTF-8 below it (then nothing was taken), or a file
    /// can't be stored.
    pub fn put_dir(&self, dir: &Path) -> Result<FileTree, CacheError> {
        let mut files = BTreeMap::new();
        list(dir, "", &mut files)?;
        let (names, paths): (Vec<String>, Vec<PathBuf>) = files.into_iter().unzip();
        Ok(FileTree(names.into_iter().zip(self.put_files(&paths)?).collect()))
    }

    /// Where the bytes of `entry` lie now, verified: in the cache, or at an external place told by
    /// [`Cache::refer`]. A damaged blob is set aside.
    ///
    /// # Errors
    /// If the blob is there but can't be read.
    pub fn locate(&self, entry: &FileEntry) -> Result<Option<PathBuf>, CacheError> {
        let path = self.spread("objects", &entry.blob);
        if self.verified(&path, entry)? {
            return Ok(Some(path));
        }
        Ok(self.external_place(entry))
    }

    /// Whether the blob at `path` is there and whole.
    fn verified(&self, path: &Path, entry: &FileEntry) -> Result<bool, CacheError> {
        if matches(path, entry, |path| self.look(path))? {
            return Ok(true);
        }
        if fs::symlink_metadata(path).is_err() {
            return Ok(false);
        }
        // The index is never the truth: only the bytes condemn.
        if matches(path, entry, stat::hash_file)? {
            return Ok(true);
        }
        tracing::warn!(path = %path.display(), "a blob is damaged; it counts as lost");
        self.set_aside(path, || Ok(!matches(path, entry, stat::hash_file)?));
        Ok(false)
    }

    /// Stores files so that all syncs of one kind come together.
    fn put_files(&self, paths: &[PathBuf]) -> Result<Vec<FileEntry>, CacheError> {
        self.writable()?;
        let own: Vec<Own> = paths.iter().map(|path| self.take(path)).collect::<Result<_, _>>()?;
        let mut dirs = BTreeSet::new();
        for file in &own {
            let to = self.spread("objects", &file.seen.entry.blob);
            let dir = to.parent().unwrap_or(self.root()).to_owned();
            // Also for a blob that is there: whoever put it may not have come to sync its name yet.
            dirs.insert(dir.clone());
            if self.verified(&to, &file.seen.entry)? {
                fs::remove_file(&file.path).map_err(io("remove", &file.path))?;
                continue;
            }
            durable::sync_file(&file.path)?;
            durable::make_dir(&dir)?;
            fs::rename(&file.path, &to).map_err(io("create", &to))?;
            // A writer that was still at it would make the name a lie.
            let now = Stat::of(&fs::metadata(&to).map_err(io("read", &to))?);
            if (now.size, now.mtime) != (file.seen.stat.size, file.seen.stat.mtime) {
                self.set_aside(&to, || Ok(true));
                return Err(CacheError::Changing { path: file.path.clone() });
            }
        }
        dirs.iter().try_for_each(|dir| durable::sync_dir(dir))?;
        Ok(own.into_iter().map(|file| file.seen.entry).collect())
    }

    /// Makes `path` a read-only file of our own on our file system, and hashes it.
    fn take(&self, path: &Path) -> Result<Own, CacheError> {
        let meta = fs::symlink_metadata(path).map_err(io("read", path))?;
        stat::expect_file(path, &meta)?;
        let path = if meta.nlink() == 1 && self.same_file_system(&meta) {
            path.to_owned()
        } else {
            // Another name of the same file could be written through later; another file system can't be renamed from.
            let (_, copy) = self.temporary(&[])?.keep().map_err(|error| io("write in", self.root())(error.error))?;
            fs::copy(path, &copy).map_err(io("copy", path))?;
            fs::remove_file(path).map_err(io("remove", path))?;
            copy
        };
        durable::read_only(&path)?;
        let seen = stat::hash_file(&path)?;
        Ok(Own { path, seen })
    }
}

struct Own {
    path: PathBuf,
    seen: Seen,
}

fn matches(
    path: &Path,
    entry: &FileEntry,
    look: impl FnOnce(&Path) -> Result<Seen, CacheError>,
) -> Result<bool, CacheError> {
    // The size is enough to condemn.
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() == entry.size => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io("read", path)(error)),
    }
    match look(path) {
        Ok(seen) => Ok(seen.entry == *entry),
        Err(CacheError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        // EIO: the disk can't give the bytes back.
        Err(CacheError::Io { source, .. }) if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            Ok(false)
        }
        Err(CacheError::Changing { .. } | CacheError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn list(dir: &Path, prefix: &str, files: &mut BTreeMap<String, PathBuf>) -> Result<(), CacheError> {
    for entry in fs::read_dir(dir).map_err(io("read the folder", dir))? {
        let entry = entry.map_err(io("read the folder", dir))?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| refuse(&path, Refusal::NotUtf8))?;
        let relative = format!("{prefix}{name}");
        let meta = fs::symlink_metadata(&path).map_err(io("read", &path))?;
        if meta.is_dir() {
            list(&path, &format!("{relative}/"), files)?;
        } else {
            stat::expect_file(&path, &meta)?;
            files.insert(relative, path);
        }
    }
    Ok(())
}
