//! External inputs: a file or folder of the user's, identified by its content. Symlinks are followed.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    Cache, FileEntry, FileTree,
    error::{CacheError, Refusal, io, refuse},
    stat::{self, Seen, Stat},
};

/// An external input as it was when it was hashed.
#[derive(Debug, Clone)]
pub struct External {
    /// Names and contents. A single file has the name `file.<ext>` (`file.<ext>.gz` if compressed), so that its own name
    /// doesn't matter.
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
        let files = list(&root, reads)?;
        self.hash_listing(files, root)
    }

    /// Identifies files by these names; symlinks are followed. For what [`Cache::hash_path`] can't find by itself.
    ///
    /// # Errors
    /// If one can't be read, is no regular file, or is being changed.
    pub fn hash_files(&self, files: &BTreeMap<String, PathBuf>) -> Result<External, CacheError> {
        self.hash_listing(list_files(files)?, PathBuf::new())
    }

    fn hash_listing(&self, files: Listing, root: PathBuf) -> Result<External, CacheError> {
        let (mut places, mut seen) = (BTreeMap::new(), BTreeMap::new());
        let mut fresh = Vec::new();
        for (name, (place, stat)) in files {
            let (now, new) = self.look_from(&place, stat)?;
            if new && now.settled {
                fresh.push((now.stat, now.entry.blob));
            }
            seen.insert(name.clone(), now);
            places.insert(name, place);
        }
        self.index().add(&fresh);
        let tree = FileTree(seen.iter().map(|(name, seen)| (name.clone(), seen.entry)).collect());
        Ok(External { tree, places, root, seen })
    }

    /// The content of a file, through the stat index.
    pub(crate) fn look(&self, path: &Path) -> Result<Seen, CacheError> {
        let meta = fs::metadata(path).map_err(io("read", path))?;
        stat::expect_file(path, &meta)?;
        let (seen, new) = self.look_from(path, Stat::of(&meta))?;
        if new && seen.settled {
            self.index().add(&[(seen.stat, seen.entry.blob)]);
        }
        Ok(seen)
    }

    /// The content of a regular file with this stat, and whether it was read. The caller adds it to the index.
    fn look_from(&self, path: &Path, stat: Stat) -> Result<(Seen, bool), CacheError> {
        match self.index().get(&stat) {
            Some(blob) => Ok((Seen { entry: FileEntry { blob, size: stat.size }, stat, settled: true }, false)),
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
        self.compare(cache, &now)
    }

    /// The same for an input of [`Cache::hash_files`], which would be `files` by now.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn recheck_files(&self, cache: &Cache, files: &BTreeMap<String, PathBuf>) -> Result<Vec<PathBuf>, CacheError> {
        self.compare(cache, &list_files(files)?)
    }

    fn compare(&self, cache: &Cache, now: &Listing) -> Result<Vec<PathBuf>, CacheError> {
        let mut changed = Vec::new();
        for (name, (place, stat)) in now {
            let same = match self.seen.get(name) {
                None => false,
                Some(seen) => unchanged(cache, place, *stat, seen)?,
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

fn unchanged(cache: &Cache, place: &Path, stat: Stat, seen: &Seen) -> Result<bool, CacheError> {
    if stat == seen.stat && seen.settled {
        return Ok(true);
    }
    match cache.look(place) {
        Ok(now) => Ok(now.entry == seen.entry),
        Err(CacheError::Changing { .. } | CacheError::Refused { .. }) => Ok(false),
        Err(CacheError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The content of the file at `path` by its bytes alone, whatever its stat says.
///
/// # Errors
/// If it can't be read, is no regular file, or is being changed.
pub fn hash_file(path: &Path) -> Result<FileEntry, CacheError> {
    Ok(stat::hash_file(path)?.entry)
}

/// Regular files, by their names in the tree.
type Listing = BTreeMap<String, (PathBuf, Stat)>;

/// The stats of files that are known by name.
fn list_files(files: &BTreeMap<String, PathBuf>) -> Result<Listing, CacheError> {
    let one = |(name, path): (&String, &PathBuf)| {
        let meta = follow(path)?;
        stat::expect_file(path, &meta)?;
        Ok((name.clone(), (path.clone(), Stat::of(&meta))))
    };
    files.iter().map(one).collect()
}

/// What says of which kind a file is: `.tsv`, and `.tsv.zst` of one that is compressed. None if it is no text.
fn extensions(path: &Path) -> Option<String> {
    let Some(last) = path.extension() else { return Some(String::new()) };
    let last = last.to_str()?;
    let inner = path.file_stem().and_then(|stem| Path::new(stem).extension());
    match inner.map(|inner| inner.to_str()) {
        Some(inner) if ["gz", "zst", "bz2", "xz"].contains(&last) => Some(format!(".{}.{last}", inner?)),
        _ => Some(format!(".{last}")),
    }
}

/// Every file to read.
fn list(root: &Path, reads: &dyn Fn(&str) -> bool) -> Result<Listing, CacheError> {
    let meta = follow(root)?;
    let mut files = BTreeMap::new();
    if meta.is_dir() {
        walk(root, "", &mut vec![(meta.dev(), meta.ino(), root.to_owned())], reads, &mut files)?;
    } else {
        stat::expect_file(root, &meta)?;
        let extensions = extensions(root).ok_or_else(|| refuse(root, Refusal::NotUtf8))?;
        files.insert(format!("file{extensions}"), (root.to_owned(), Stat::of(&meta)));
    }
    Ok(files)
}

fn walk(
    dir: &Path,
    prefix: &str,
    above: &mut Vec<(u64, u64, PathBuf)>,
    reads: &dyn Fn(&str) -> bool,
    files: &mut Listing,
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
            files.insert(relative, (path, Stat::of(&meta)));
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

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use tempfile::TempDir;

    use super::*;
    use crate::testing::{cache, entry, later, rewrite};

    /// What the error says, and what makes it.
    type Bad = (&'static str, fn(&Path));

    /// A cache, and a folder with two files and a hidden one.
    fn setup() -> (TempDir, Cache, PathBuf) {
        let (dir, cache) = cache();
        let input = dir.path().join("input");
        fs::create_dir_all(input.join("sub")).unwrap();
        for (name, text) in [("a.txt", "a"), ("sub/b.txt", "b"), (".hidden", "h")] {
            fs::write(input.join(name), text).unwrap();
        }
        (dir, cache, input)
    }

    fn visible(name: &str) -> bool {
        !name.split('/').any(|part| part.starts_with('.'))
    }

    fn names(external: &External) -> Vec<&str> {
        external.tree.0.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_folder_is_the_files_that_are_read() {
        let (_dir, cache, input) = setup();
        let all = cache.hash_path(&input, &visible).unwrap();
        assert_eq!(names(&all), ["a.txt", "sub/b.txt"]);
        assert_eq!(all.tree.0["sub/b.txt"], entry(b"b"));
        assert_eq!(all.places["sub/b.txt"], input.join("sub/b.txt"));
        let some = cache.hash_path(&input, &|name| name.starts_with("sub/")).unwrap();
        assert_eq!(names(&some), ["sub/b.txt"]);
    }

    #[test]
    fn a_file_has_no_name_but_its_extension() {
        let (_dir, cache, input) = setup();
        let file = cache.hash_path(&input.join("a.txt"), &|_| false).unwrap();
        assert_eq!(names(&file), ["file.txt"]);
        fs::rename(input.join("a.txt"), input.join("c.txt")).unwrap();
        assert_eq!(cache.hash_path(&input.join("c.txt"), &visible).unwrap().tree, file.tree);
        let hidden = cache.hash_path(&input.join(".hidden"), &visible).unwrap();
        assert_eq!(names(&hidden), ["file"]);
        fs::write(input.join("a.b.tsv.zst"), "").unwrap();
        assert_eq!(names(&cache.hash_path(&input.join("a.b.tsv.zst"), &visible).unwrap()), ["file.tsv.zst"]);
    }

    #[test]
    fn symlinks_are_followed() {
        let (dir, cache, input) = setup();
        fs::write(dir.path().join("blob"), "far").unwrap();
        symlink("../blob", input.join("c.txt")).unwrap();
        symlink("sub", input.join("again")).unwrap();
        let external = cache.hash_path(&input, &visible).unwrap();
        assert_eq!(names(&external), ["a.txt", "again/b.txt", "c.txt", "sub/b.txt"]);
        assert_eq!(external.tree.0["c.txt"], entry(b"far"));
        fs::write(dir.path().join("blob"), "new").unwrap();
        assert_eq!(external.recheck(&cache, &visible).unwrap(), [input.join("c.txt")]);
    }

    #[test]
    fn what_is_no_file_is_refused_if_it_is_read() {
        let bad: [Bad; 4] = [
            ("leads back to", |dir| symlink("..", dir.join("sub/z")).unwrap()),
            ("leads back to z", |dir| symlink("z", dir.join("z")).unwrap()),
            ("is a symlink to nowhere, which does not exist", |dir| symlink("nowhere", dir.join("z")).unwrap()),
            ("is a socket, not a file or folder", |dir| drop(UnixListener::bind(dir.join("z")).unwrap())),
        ];
        for (message, make) in bad {
            let (_dir, cache, input) = setup();
            make(&input);
            let error = cache.hash_path(&input, &visible).unwrap_err();
            assert!(matches!(error, CacheError::Refused { .. }), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
        let (_dir, cache, input) = setup();
        UnixListener::bind(input.join(".socket")).unwrap();
        symlink("nowhere", input.join(".link")).unwrap();
        assert_eq!(names(&cache.hash_path(&input, &visible).unwrap()), ["a.txt", "sub/b.txt"]);
        let error = cache.hash_path(&input.join("none"), &visible).unwrap_err().to_string();
        assert!(error.ends_with("none: no such file or folder"), "{error}");
    }

    #[test]
    fn an_edit_of_the_same_size_with_its_time_put_back_is_noticed() {
        for settle in [false, true] {
            let (_dir, cache, input) = setup();
            let path = input.join("a.txt");
            let hash = || cache.hash_path(&input, &visible).unwrap();
            let before = if settle { later(hash) } else { hash() };
            assert_eq!(before.seen["a.txt"].settled, settle);
            rewrite(&path, b"A", &fs::metadata(&path).unwrap());
            assert_eq!(before.recheck(&cache, &visible).unwrap(), [path]);
            assert_eq!(hash().tree.0["a.txt"], entry(b"A"));
        }
    }

    #[test]
    fn a_touched_file_is_not_changed() {
        let (_dir, cache, input) = setup();
        let before = later(|| cache.hash_path(&input, &visible)).unwrap();
        let file = fs::File::options().write(true).open(input.join("a.txt")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(before.recheck(&cache, &visible).unwrap(), [""; 0].map(PathBuf::from));
        assert_eq!(cache.hash_path(&input, &visible).unwrap().tree, before.tree);
    }

    #[test]
    fn added_and_removed_files_are_changes() {
        let (_dir, cache, input) = setup();
        let before = later(|| cache.hash_path(&input, &visible)).unwrap();
        fs::write(input.join("new"), "n").unwrap();
        fs::write(input.join(".swap"), "s").unwrap();
        fs::remove_file(input.join("a.txt")).unwrap();
        assert_eq!(before.recheck(&cache, &visible).unwrap(), [input.join("new"), input.join("a.txt")]);
        fs::remove_dir_all(&input).unwrap();
        assert_eq!(before.recheck(&cache, &visible).unwrap(), [input.join("a.txt"), input.join("sub/b.txt")]);
    }

    #[test]
    fn a_known_file_is_not_read_again() {
        let (_dir, cache, input) = setup();
        let path = input.join("a.txt");
        let stat = Stat::of(&fs::metadata(&path).unwrap());
        cache.hash_path(&path, &visible).unwrap();
        assert_eq!(cache.index().get(&stat), None, "too new to be trusted");
        later(|| cache.hash_path(&path, &visible)).unwrap();
        assert_eq!(cache.index().get(&stat), Some(entry(b"a").blob));

        // A lie shows that the index was asked, also by the next process.
        cache.index().add(&[(stat, entry(b"lie").blob)]);
        let next = Cache::open(cache.root()).unwrap();
        assert_eq!(next.hash_path(&path, &visible).unwrap().tree.0["file.txt"].blob, entry(b"lie").blob);
    }
}
