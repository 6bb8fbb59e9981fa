//! Blobs: files named by the digest of their bytes, read-only, in `objects/` whole or not at all.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    Cache, Digest, FileEntry, FileTree, durable,
    error::{CacheError, Refusal, io, refuse},
    stat::{self, Seen, Stat},
};

const ATTEMPTS: usize = 3;

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
        self.writable()?;
        let entry = FileEntry { blob: Digest::of(bytes), size: bytes.len() as u64 };
        let to = self.spread("objects", &entry.blob);
        // As an empty log mostly is. Making a file just to throw it away costs more than the look.
        if self.verified(&to, &entry)? {
            if self.batch().is_none() {
                durable::sync_dirs(to.parent())?;
            }
            return Ok(entry);
        }
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

    /// Whether the bytes of `entry` are to be had, verified as by [`Cache::locate`].
    ///
    /// # Errors
    /// If the blob is there but can't be read.
    pub fn has(&self, entry: &FileEntry) -> Result<bool, CacheError> {
        Ok(self.verified(&self.spread("objects", &entry.blob), entry)? || self.external_place(entry).is_some())
    }

    /// Whether the blob at `path` is there and whole.
    fn verified(&self, path: &Path, entry: &FileEntry) -> Result<bool, CacheError> {
        // What mostly holds takes one look.
        if let Ok(meta) = fs::symlink_metadata(path)
            && meta.is_file()
            && meta.len() == entry.size
            && self.index().get(&Stat::of(&meta)) == Some(entry.blob)
        {
            return Ok(true);
        }
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
    pub(crate) fn put_files(&self, paths: &[PathBuf]) -> Result<Vec<FileEntry>, CacheError> {
        self.writable()?;
        let own: Vec<Own> = paths.iter().map(|path| self.take(path)).collect::<Result<_, _>>()?;
        for file in &own {
            self.install(file)?;
        }
        // In a batch that comes with the record. Also of a blob that was there: whoever put it may not have come to
        // sync its name yet.
        if self.batch().is_none() {
            durable::sync_dirs(own.iter().filter_map(|file| file.to.parent()))?;
        }
        Ok(own.into_iter().map(|file| file.seen.entry).collect())
    }

    /// Moves a file to its name, unless a whole blob has it.
    fn install(&self, file: &Own) -> Result<(), CacheError> {
        let to = &file.to;
        for _ in 0..ATTEMPTS {
            if self.verified(to, &file.seen.entry)? {
                return fs::remove_file(&file.path).map_err(io("remove", &file.path));
            }
            if self.batch().is_none() {
                durable::sync_file(&file.path)?;
            }
            let dir = to.parent().unwrap_or(self.root());
            fs::create_dir_all(dir).map_err(io("make the folder", dir))?;
            if durable::move_new(&file.path, to)? {
                // A writer that was still at it would make the name a lie.
                let now = Stat::of(&fs::metadata(to).map_err(io("read", to))?);
                if (now.size, now.mtime) == (file.seen.stat.size, file.seen.stat.mtime) {
                    self.fresh().add(now, file.seen.entry.blob);
                    return Ok(());
                }
                self.set_aside(to, || Ok(!matches(to, &file.seen.entry, stat::hash_file)?));
                return Err(CacheError::Changing { path: file.path.clone() });
            }
        }
        // There is a damaged blob that could not be set aside.
        Err(io("replace", to)(io::ErrorKind::AlreadyExists.into()))
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
        #[cfg(test)]
        durable::journal::tell(&path, durable::journal::Op::Written(seen.stat.ino));
        Ok(Own { path, seen, to: self.spread("objects", &seen.entry.blob) })
    }
}

struct Own {
    path: PathBuf,
    seen: Seen,
    /// Its name in the cache.
    to: PathBuf,
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

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Barrier};

    use super::*;
    use crate::testing::{cache, entry, flip_bit, later, names, rewrite};

    /// What the error says, and what makes it.
    type Bad = (&'static str, fn(&Path));

    fn blob(cache: &Cache, bytes: &[u8]) -> PathBuf {
        cache.spread("objects", &entry(bytes).blob)
    }

    #[test]
    fn a_file_is_taken_and_can_only_be_read() {
        let (_dir, cache) = cache();
        let scratch = cache.scratch().unwrap();
        let path = scratch.path().join("a");
        fs::write(&path, "hello").unwrap();
        let file = cache.put_file(&path).unwrap();
        assert_eq!(file, entry(b"hello"));
        assert!(!path.exists());
        let place = cache.locate(&file).unwrap().unwrap();
        assert!(place.ends_with(format!("objects/{}/{}", &file.blob.hex()[..2], &file.blob.hex()[2..])));
        assert_eq!(fs::read(&place).unwrap(), b"hello");
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o444);
    }

    #[test]
    fn equal_files_are_one_blob() {
        let (_dir, cache) = cache();
        let a = cache.put_bytes(b"same").unwrap();
        let inode = fs::metadata(blob(&cache, b"same")).unwrap().ino();
        assert_eq!(cache.put_bytes(b"same").unwrap(), a);
        assert_eq!(fs::metadata(blob(&cache, b"same")).unwrap().ino(), inode);
        assert_eq!(cache.put_bytes(b"").unwrap(), entry(b""));
        assert!(cache.locate(&entry(b"")).unwrap().is_some());
    }

    #[test]
    fn a_large_file_has_the_digest_of_its_bytes() {
        let (_dir, cache) = cache();
        let bytes: Vec<u8> = (0..9_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(cache.put_bytes(&bytes).unwrap(), entry(&bytes));
    }

    #[test]
    fn a_folder_is_taken_file_by_file() {
        let (_dir, cache) = cache();
        let scratch = cache.scratch().unwrap();
        let dir = scratch.path().join("out");
        fs::create_dir_all(dir.join("base/empty")).unwrap();
        fs::write(dir.join("base/b"), "same").unwrap();
        fs::write(dir.join("a"), "same").unwrap();
        let tree = cache.put_dir(&dir).unwrap();
        let same = entry(b"same");
        assert_eq!(tree.0, BTreeMap::from([("a".to_owned(), same), ("base/b".to_owned(), same)]));
        assert!(cache.locate(&same).unwrap().is_some());
    }

    #[test]
    fn a_folder_with_anything_but_files_is_left_as_it_is() {
        let (_dir, cache) = cache();
        let scratch = cache.scratch().unwrap();
        let bad: [Bad; 3] = [
            ("is a symlink: an output holds files only", |dir| {
                std::os::unix::fs::symlink("a", dir.join("z")).unwrap();
            }),
            ("is a socket, not a file or folder", |dir| {
                std::os::unix::net::UnixListener::bind(dir.join("z")).unwrap();
            }),
            ("its name is not valid UTF-8: rename it", |dir| {
                use std::os::unix::ffi::OsStrExt;
                fs::write(dir.join(std::ffi::OsStr::from_bytes(b"z\xff")), "").unwrap();
            }),
        ];
        for (i, (message, make)) in bad.into_iter().enumerate() {
            let dir = scratch.path().join(i.to_string());
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("a"), "a").unwrap();
            make(&dir);
            let error = cache.put_dir(&dir).unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
            assert!(dir.join("a").exists());
        }
        let error = cache.put_file(scratch.path()).unwrap_err().to_string();
        assert!(error.ends_with("is a folder, not a file"), "{error}");
    }

    #[test]
    fn a_file_with_another_name_is_copied() {
        let (dir, cache) = cache();
        let scratch = cache.scratch().unwrap();
        let (own, taken) = (dir.path().join("own"), scratch.path().join("taken"));
        fs::write(&own, "mine").unwrap();
        fs::hard_link(&own, &taken).unwrap();
        let file = cache.put_file(&taken).unwrap();
        fs::write(&own, "else").unwrap();
        assert!(!taken.exists());
        assert_eq!(fs::read(cache.locate(&file).unwrap().unwrap()).unwrap(), b"mine");
    }

    #[test]
    fn a_flipped_bit_is_noticed_although_the_time_was_put_back() {
        let (_dir, cache) = cache();
        let file = cache.put_bytes(b"precious bytes").unwrap();
        let path = blob(&cache, b"precious bytes");
        // Known to the index, so that only the stat can tell.
        assert!(later(|| cache.locate(&file)).unwrap().is_some());
        let stat = Stat::of(&fs::metadata(&path).unwrap());
        assert_eq!(cache.index().get(&stat), Some(file.blob));

        flip_bit(&path);
        assert_eq!(Stat::of(&fs::metadata(&path).unwrap()).mtime, stat.mtime);
        assert_eq!(cache.locate(&file).unwrap(), None);
        assert!(!path.exists());
        assert_eq!(names(&cache, "corrupt").len(), 1);

        cache.put_bytes(b"precious bytes").unwrap();
        assert_eq!(cache.locate(&file).unwrap(), Some(path));
    }

    #[test]
    fn a_new_blob_is_not_trusted_by_its_stat() {
        let (_dir, cache) = cache();
        let file = cache.put_bytes(b"new").unwrap();
        cache.locate(&file).unwrap();
        assert_eq!(cache.index().get(&Stat::of(&fs::metadata(blob(&cache, b"new")).unwrap())), None);
    }

    #[test]
    fn putting_over_a_damaged_blob_heals_it() {
        for damage in [&b"b"[..], b"longer", b""] {
            let (_dir, cache) = cache();
            let file = cache.put_bytes(b"a").unwrap();
            let path = blob(&cache, b"a");
            rewrite(&path, damage, &fs::metadata(&path).unwrap());
            assert_eq!(cache.put_bytes(b"a").unwrap(), file);
            assert_eq!(fs::read(cache.locate(&file).unwrap().unwrap()).unwrap(), b"a");
        }
    }

    #[test]
    fn a_blob_that_is_gone_or_no_file_is_none() {
        let (_dir, cache) = cache();
        let file = cache.put_bytes(b"a").unwrap();
        let path = blob(&cache, b"a");
        fs::remove_file(&path).unwrap();
        assert_eq!(cache.locate(&file).unwrap(), None);
        fs::create_dir(&path).unwrap();
        assert_eq!(cache.locate(&file).unwrap(), None);
        assert!(!path.exists());
        cache.put_bytes(b"a").unwrap();
        assert_eq!(cache.locate(&file).unwrap(), Some(path));
    }

    #[test]
    fn a_wrong_row_in_the_index_condemns_nothing() {
        let (_dir, cache) = cache();
        let file = cache.put_bytes(b"a").unwrap();
        let path = blob(&cache, b"a");
        cache.index().add(&[(Stat::of(&fs::metadata(&path).unwrap()), entry(b"b").blob)]);
        assert_eq!(cache.locate(&file).unwrap(), Some(path));
    }

    #[test]
    fn a_read_only_cache_finds_but_takes_nothing() {
        let (dir, cache) = cache();
        let file = cache.put_bytes(b"a").unwrap();
        let damaged = cache.put_bytes(b"damaged").unwrap();
        flip_bit(&blob(&cache, b"damaged"));
        let cache = cache.as_read_only();
        assert!(cache.is_read_only());
        assert!(later(|| cache.locate(&file)).unwrap().is_some());
        assert_eq!(cache.locate(&damaged).unwrap(), None);
        assert!(blob(&cache, b"damaged").exists());
        assert_eq!(cache.record(&crate::testing::record(1).key).unwrap(), None);
        assert_eq!(cache.last("p", "a"), None);
        fs::write(dir.path().join("input"), "x").unwrap();
        assert_eq!(later(|| cache.hash_path(&dir.path().join("input"), &|_| true)).unwrap().tree.size(), 1);

        let key = crate::testing::record(1).key;
        let refused = [
            cache.put_bytes(b"b").err(),
            cache.scratch().err(),
            cache.lock(&key).err(),
            cache.publish(&crate::testing::record(1)).err(),
            cache.set_last("p", "a", &key).err(),
            cache.forget(&key).err(),
        ];
        for error in refused {
            assert!(matches!(error, Some(CacheError::ReadOnly { .. })), "{error:?}");
        }
    }

    #[test]
    fn eight_may_put_the_same_blobs_at_once() {
        let (_dir, cache) = cache();
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (cache, barrier) = (Cache::open(cache.root()).unwrap(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for n in 0..20u8 {
                        let file = cache.put_bytes(&[n; 5000]).unwrap();
                        assert!(cache.locate(&file).unwrap().is_some());
                    }
                });
            }
        });
        assert_eq!(names(&cache, "corrupt"), [""; 0]);
        assert!((0..20u8).all(|n| cache.locate(&entry(&[n; 5000])).unwrap().is_some()));
    }
}
