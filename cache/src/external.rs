//! External inputs: a file or folder of the user's, identified by its content. Symlinks are followed.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    Cache, FileTree,
    error::{CacheError, Refusal, io, refuse},
    stat::{self, Seen, Stat},
};

/// An external input as it was when it was hashed.
#[derive(Debug, Clone)]
pub struct External {
    /// Names and contents. A single file has the name `file.<ext>`, so that its own name doesn't matter.
    pub tree: FileTree,
    /// Where each file of `tree` lies; absolute.
    pub places: BTreeMap<String, PathBuf>,
    root: PathBuf,
    seen: BTreeMap<String, Seen>,
}

impl Cache {
    /// Identifies the file or folder at `path`. Of a folder only the files that `reads` accepts (by relative path)
    /// count. Files whose stat is known and not racy are not read again.
    ///
    /// # Errors
    /// If something can't be read, is neither file nor folder, leads in a circle, or is being changed.
    pub fn hash_path(&self, path: &Path, reads: &dyn Fn(&str) -> bool) -> Result<External, CacheError> {
        let root = std::path::absolute(path).map_err(io("find", path))?;
        let places = list(&root, reads)?;
        let mut seen = BTreeMap::new();
        let mut fresh = Vec::new();
        for (name, place) in &places {
            let (now, new) = self.look_fresh(place)?;
            if new && now.settled {
                fresh.push((now.stat, now.entry.blob));
            }
            seen.insert(name.clone(), now);
        }
        self.index().add(&fresh);
        let tree = FileTree(seen.iter().map(|(name, seen)| (name.clone(), seen.entry)).collect());
        Ok(External { tree, places, root, seen })
    }

    /// The content of a file, through the stat index.
    pub(crate) fn look(&self, path: &Path) -> Result<Seen, CacheError> {
        let (seen, new) = self.look_fresh(path)?;
        if new && seen.settled {
            self.index().add(&[(seen.stat, seen.entry.blob)]);
        }
        Ok(seen)
    }

    /// The same, but the caller adds what is new to the index.
    fn look_fresh(&self, path: &Path) -> Result<(Seen, bool), CacheError> {
        let meta = fs::metadata(path).map_err(io("read", path))?;
        stat::expect_file(path, &meta)?;
        let stat = Stat::of(&meta);
        match self.index().get(&stat) {
            Some(blob) => {
                let entry = crate::FileEntry { blob, size: stat.size };
                Ok((Seen { entry, stat, settled: true }, false))
            }
            None => Ok((stat::hash_file(path)?, true)),
        }
    }
}

impl External {
    /// The files that are no longer as they were: changed, added or removed. `reads` as for [`Cache::hash_path`].
    /// Files whose stat is the same and was not racy are not read again.
    ///
    /// # Errors
    /// If the folder can't be read any more.
    pub fn recheck(&self, cache: &Cache, reads: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>, CacheError> {
        let now = match list(&self.root, reads) {
            Ok(now) => now,
            Err(CacheError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let mut changed = Vec::new();
        for (name, place) in &now {
            let same = match self.seen.get(name) {
                None => false,
                Some(seen) => unchanged(cache, place, seen)?,
            };
            if !same {
                changed.push(place.clone());
            }
        }
        let gone = self.places.iter().filter(|(name, _)| !now.contains_key(*name));
        changed.extend(gone.map(|(_, place)| place.clone()));
        Ok(changed)
    }
}

fn unchanged(cache: &Cache, place: &Path, seen: &Seen) -> Result<bool, CacheError> {
    let stat = match fs::metadata(place) {
        Ok(meta) => Stat::of(&meta),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io("read", place)(error)),
    };
    if stat == seen.stat && seen.settled {
        return Ok(true);
    }
    match cache.look(place) {
        Ok(now) => Ok(now.entry == seen.entry),
        Err(CacheError::Changing { .. } | CacheError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Every file to read, by its name in the tree.
fn list(root: &Path, reads: &dyn Fn(&str) -> bool) -> Result<BTreeMap<String, PathBuf>, CacheError> {
    let meta = follow(root)?;
    let mut files = BTreeMap::new();
    if meta.is_dir() {
        walk(root, "", &mut vec![(meta.dev(), meta.ino(), root.to_owned())], reads, &mut files)?;
    } else {
        stat::expect_file(root, &meta)?;
        let extension = match root.extension() {
            None => String::new(),
            Some(extension) => format!(".{}", extension.to_str().ok_or_else(|| refuse(root, Refusal::NotUtf8))?),
        };
        files.insert(format!("file{extension}"), root.to_owned());
    }
    Ok(files)
}

fn walk(
    dir: &Path,
    prefix: &str,
    above: &mut Vec<(u64, u64, PathBuf)>,
    reads: &dyn Fn(&str) -> bool,
    files: &mut BTreeMap<String, PathBuf>,
) -> Result<(), CacheError> {
    for entry in fs::read_dir(dir).map_err(io("read the folder", dir))? {
        let entry = entry.map_err(io("read the folder", dir))?;
        let path = entry.path();
        let name = entry.file_name();
        let relative = format!("{prefix}{}", name.to_string_lossy());
        let is_dir = match entry.file_type().map_err(io("read", &path))? {
            kind if kind.is_symlink() => fs::metadata(&path).is_ok_and(|meta| meta.is_dir()),
            kind => kind.is_dir(),
        };
        // What is not read can't be wrong.
        if !is_dir && !reads(&relative) {
            continue;
        }
        if name.to_str().is_none() {
            return Err(refuse(path, Refusal::NotUtf8));
        }
        let meta = follow(&path)?;
        if !is_dir {
            stat::expect_file(&path, &meta)?;
            files.insert(relative, path);
            continue;
        }
        if let Some((.., folder)) = above.iter().find(|(dev, ino, _)| (*dev, *ino) == (meta.dev(), meta.ino())) {
            return Err(refuse(path, Refusal::Cycle(folder.clone())));
        }
        above.push((meta.dev(), meta.ino(), path.clone()));
        walk(&path, &format!("{relative}/"), above, reads, files)?;
        above.pop();
    }
    Ok(())
}

/// The stat of what `path` leads to.
fn follow(path: &Path) -> Result<fs::Metadata, CacheError> {
    fs::metadata(path).map_err(|error| match fs::read_link(path) {
        Ok(to) if error.kind() == std::io::ErrorKind::NotFound => refuse(path, Refusal::Dangling(to)),
        Ok(to) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            refuse(path, Refusal::Cycle(to))
        }
        _ => io("read", path)(error),
    })
}
