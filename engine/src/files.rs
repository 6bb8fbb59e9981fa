//! Files from outside at an input port: a file, a folder, or what matches some patterns. Unlike a path in `with`, which
//! is known by its content alone, they keep their names: a program sees the names of what it reads, so they count.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobMatcher};
use palinode_cache::{Cache, CacheError, External};

/// Which files are at a port; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileSet {
    /// A file, under its own name, or all files in a folder, by their paths in it.
    Path(PathBuf),
    /// The files that match one of these patterns, under the names that the patterns give them.
    Globs {
        /// What the patterns are relative to.
        folder: PathBuf,
        /// As written.
        patterns: Vec<String>,
    },
}

/// Why files can't be had.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A pattern is wrong.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// As written.
        pattern: String,
        /// In a few words.
        reason: String,
    },
    /// A pattern gives no file.
    #[error("no file matches `{pattern}` in {}", folder.display())]
    Nothing {
        /// As written.
        pattern: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A folder gives no file.
    #[error("{} holds no files (hidden ones, and caches, don't count)", .0.display())]
    Empty(PathBuf),
    /// Two files would have one name.
    #[error("{} and {} would both be `{name}`", first.display(), second.display())]
    Twice {
        /// The name.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A symlink leads back to a folder that it lies in.
    #[error("{} leads back to a folder that it lies in", .0.display())]
    Circle(PathBuf),
    /// A name is no text.
    #[error("{}: its name is not valid UTF-8: rename it", .0.display())]
    NotUtf8(PathBuf),
    /// The system refused.
    #[error("can't read {}: {}", path.display(), palinode_cache::reason(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The files can't be hashed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl FileSet {
    /// Whether there is anything at all; stops at the first file.
    ///
    /// # Errors
    /// If there is not, or a pattern is wrong.
    pub fn check(&self) -> Result<(), FilesError> {
        match self {
            Self::Path(path) => match fs::metadata(path).map_err(failed(path))? {
                meta if meta.is_dir() => {
                    let mut found = Found { first: true, ..Found::default() };
                    found.folder(path, "", &mut Vec::new(), &|_| true, false)?;
                    if found.files.is_empty() { Err(FilesError::Empty(path.clone())) } else { Ok(()) }
                }
                meta if meta.is_file() => Ok(()),
                _ => Err(failed(path)(io::Error::other("it is neither a file nor a folder"))),
            },
            Self::Globs { folder, patterns } => patterns.iter().try_for_each(|pattern| {
                let mut found = Found { first: true, ..Found::default() };
                Pattern::new(pattern)?.find(folder, &mut found)?;
                found.expect(pattern, folder)
            }),
        }
    }

    /// The files, by name.
    ///
    /// # Errors
    /// If there are none, or a folder can't be read.
    pub fn find(&self) -> Result<BTreeMap<String, PathBuf>, FilesError> {
        let mut found = Found::default();
        match self {
            Self::Path(path) if fs::metadata(path).map_err(failed(path))?.is_dir() => {
                found.folder(path, "", &mut Vec::new(), &|_| true, false)?;
                if found.files.is_empty() {
                    return Err(FilesError::Empty(path.clone()));
                }
            }
            Self::Path(path) => {
                let name = path.file_name().unwrap_or_default().to_str();
                found.add(name.ok_or_else(|| FilesError::NotUtf8(path.clone()))?.to_owned(), path.clone())?;
            }
            Self::Globs { folder, patterns } => {
                for pattern in patterns {
                    let before = found.files.len();
                    Pattern::new(pattern)?.find(folder, &mut found)?;
                    // What another pattern has found already is no mistake.
                    if found.files.len() == before {
                        let mut alone = Found { first: true, ..Found::default() };
                        Pattern::new(pattern)?.find(folder, &mut alone)?;
                        alone.expect(pattern, folder)?;
                    }
                }
            }
        }
        Ok(found.files)
    }

    /// The files and their contents.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn hash(&self, cache: &Cache) -> Result<External, FilesError> {
        Ok(cache.hash_files(&self.find()?)?)
    }

    /// The files that are no longer as they were: changed, added or removed.
    ///
    /// # Errors
    /// If they can't be read any more.
    pub fn recheck(&self, before: &External, cache: &Cache) -> Result<Vec<PathBuf>, FilesError> {
        let now = match self.find() {
            Err(FilesError::Nothing { .. } | FilesError::Empty(_)) => BTreeMap::new(),
            Err(FilesError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            now => now?,
        };
        Ok(before.recheck_files(cache, &now)?)
    }

    /// As a person would write it, for messages and records.
    pub fn place(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Globs { folder, patterns } => {
                let patterns = patterns.iter().map(|pattern| folder.join(pattern).display().to_string());
                patterns.collect::<Vec<_>>().join(" ")
            }
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.to_owned();
    move |source| FilesError::Io { path, source }
}

/// A pattern: a folder without wildcards, and what is matched in it.
struct Pattern {
    folder: String,
    /// `None`: the folder is all there is, and may be a file.
    rest: Option<GlobMatcher>,
    /// Whether hidden names were asked for.
    hidden: bool,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, FilesError> {
        let wild = |part: &&str| part.contains(['*', '?', '[', '{']);
        let parts: Vec<_> = pattern.split('/').collect();
        let literal = parts.iter().take_while(|part| !wild(part)).count();
        let folder = match parts[..literal].join("/") {
            folder if folder.is_empty() && pattern.starts_with('/') => "/".to_owned(),
            folder => folder,
        };
        let rest = parts[literal..].join("/");
        let wrong = |reason: String| FilesError::Pattern { pattern: pattern.to_owned(), reason };
        if pattern.is_empty() {
            return Err(wrong("it is empty".to_owned()));
        }
        if parts[literal..].contains(&"..") {
            return Err(wrong("`..` can't come after a wildcard".to_owned()));
        }
        let glob = GlobBuilder::new(&rest).literal_separator(true).build();
        let glob = glob.map_err(|error| wrong(error.kind().to_string()))?.compile_matcher();
        let hidden = parts[literal..].iter().any(|part| part.starts_with('.'));
        Ok(Self { folder, rest: (!rest.is_empty()).then_some(glob), hidden })
    }

    fn find(&self, base: &Path, found: &mut Found) -> Result<(), FilesError> {
        let root = base.join(&self.folder);
        found.published = base.join("out");
        // Where the file lies above or outside of the base, its name begins where the two part.
        let plain = self.folder.split('/').filter(|part| !part.is_empty() && *part != "." && *part != "..");
        let prefix = if self.folder.starts_with('/') { String::new() } else { plain.collect::<Vec<_>>().join("/") };
        let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let meta = match fs::metadata(&root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            meta => meta.map_err(failed(&root))?,
        };
        match &self.rest {
            None if !meta.is_dir() => {
                let name = root.file_name().unwrap_or_default().to_str();
                let name = name.ok_or_else(|| FilesError::NotUtf8(root.clone()))?;
                let name = if prefix.is_empty() { name.to_owned() } else { prefix };
                found.add(name, root.clone())
            }
            None => found.folder(&root, &below, &mut Vec::new(), &|_| true, false),
            Some(glob) if meta.is_dir() => {
                let matches = |name: &str| glob.is_match(&name[below.len()..]);
                found.folder(&root, &below, &mut Vec::new(), &matches, self.hidden)
            }
            Some(_) => Ok(()),
        }
    }
}

/// Files found so far.
#[derive(Default)]
struct Found {
    files: BTreeMap<String, PathBuf>,
    /// Where figures and tables go: a wildcard that took them in would never find the same twice.
    published: PathBuf,
    /// One is enough.
    first: bool,
}

impl Found {
    fn expect(&self, pattern: &str, folder: &Path) -> Result<(), FilesError> {
        if self.files.is_empty() {
            return Err(FilesError::Nothing { pattern: pattern.to_owned(), folder: folder.to_owned() });
        }
        Ok(())
    }

    fn add(&mut self, name: String, path: PathBuf) -> Result<(), FilesError> {
        match self.files.get(&name) {
            Some(first) if *first != path => Err(FilesError::Twice { name, first: first.clone(), second: path }),
            _ => {
                self.files.insert(name, path);
                Ok(())
            }
        }
    }

    /// Adds the files below `dir` that `wanted` accepts by name. Symlinks are followed. Hidden names are left out, and
    /// so are folders that say of themselves that they are caches.
    fn folder(
        &mut self,
        dir: &Path,
        prefix: &str,
        above: &mut Vec<(u64, u64)>,
        wanted: &dyn Fn(&str) -> bool,
        hidden: bool,
    ) -> Result<(), FilesError> {
        let meta = fs::metadata(dir).map_err(failed(dir))?;
        let id = (meta.dev(), meta.ino());
        if above.contains(&id) {
            return Err(FilesError::Circle(dir.to_owned()));
        }
        if !above.is_empty() && dir.join("CACHEDIR.TAG").exists() {
            return Ok(());
        }
        above.push(id);
        for entry in fs::read_dir(dir).map_err(failed(dir))? {
            let entry = entry.map_err(failed(dir))?;
            let (path, name) = (entry.path(), entry.file_name());
            let shown = name.to_string_lossy();
            if !hidden && shown.starts_with('.') {
                continue;
            }
            let relative = format!("{prefix}{shown}");
            let is_dir = match entry.file_type().map_err(failed(&path))? {
                kind if kind.is_symlink() => fs::metadata(&path).is_ok_and(|meta| meta.is_dir()),
                kind => kind.is_dir(),
            };
            if is_dir && path == self.published {
                continue;
            }
            if is_dir {
                self.folder(&path, &format!("{relative}/"), above, wanted, hidden)?;
            } else if wanted(&relative) {
                if name.to_str().is_none() {
                    return Err(FilesError::NotUtf8(path));
                }
                self.add(relative, path)?;
            }
            if self.first && !self.files.is_empty() {
                break;
            }
        }
        above.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn setup() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "p/a.csv",
            "p/b.csv",
            "p/sub/c.csv",
            "p/.hidden.csv",
            "p/.git/d.csv",
            "up/e.csv",
            "p/cache/f.csv",
            "p/out/g.csv",
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        fs::write(dir.path().join("p/cache/CACHEDIR.TAG"), "").unwrap();
        dir
    }

    fn names(dir: &tempfile::TempDir, patterns: &[&str]) -> Result<Vec<String>, String> {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let set = FileSet::Globs { folder: dir.path().join("p"), patterns };
        let found = set.find().map(|files| files.into_keys().collect());
        let found = found.map_err(|error| error.to_string().replace(&*dir.path().to_string_lossy(), "DIR"));
        assert_eq!(set.check().is_err(), found.is_err());
        found
    }

    #[test]
    fn a_pattern_names_what_it_finds() {
        let dir = setup();
        assert_eq!(names(&dir, &["*.csv"]).unwrap(), ["a.csv", "b.csv"]);
        assert_eq!(names(&dir, &["**/*.csv"]).unwrap(), ["a.csv", "b.csv", "sub/c.csv"]);
        assert_eq!(names(&dir, &["./**/[abg].csv"]).unwrap(), ["a.csv", "b.csv"]);
        assert_eq!(names(&dir, &["out/*.csv"]).unwrap(), ["out/g.csv"]);
        assert_eq!(names(&dir, &["./sub/*.csv"]).unwrap(), ["sub/c.csv"]);
        assert_eq!(names(&dir, &["../up/*"]).unwrap(), ["up/e.csv"]);
        assert_eq!(names(&dir, &["{a,b}.csv", "a.csv", "sub"]).unwrap(), ["a.csv", "b.csv", "sub/c.csv"]);
        assert_eq!(names(&dir, &[".hidden*"]).unwrap(), [".hidden.csv"]);
        assert_eq!(names(&dir, &[".git/*"]).unwrap(), [".git/d.csv"]);
        let absolute = format!("{}/up/*", dir.path().display());
        assert_eq!(names(&dir, &[&absolute]).unwrap(), ["e.csv"]);
    }

    #[test]
    fn what_can_not_be_is_told() {
        let dir = setup();
        let say = |patterns: &[&str]| names(&dir, patterns).unwrap_err();
        assert_eq!(say(&["*.tsv"]), "no file matches `*.tsv` in DIR/p");
        assert_eq!(say(&["none/*.csv"]), "no file matches `none/*.csv` in DIR/p");
        assert_eq!(say(&[""]), "`` is not a pattern: it is empty");
        assert_eq!(say(&["*/../x"]), "`*/../x` is not a pattern: `..` can't come after a wildcard");
        assert!(say(&["[a"]).starts_with("`[a` is not a pattern: "), "{}", say(&["[a"]));
        symlink("..", dir.path().join("p/sub/back")).unwrap();
        let set = FileSet::Path(dir.path().join("p"));
        let error = set.find().unwrap_err().to_string();
        assert!(error.ends_with("sub/back leads back to a folder that it lies in"), "{error}");
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let dir = setup();
        fs::create_dir(dir.path().join("p/up")).unwrap();
        fs::write(dir.path().join("p/up/e.csv"), "").unwrap();
        let patterns = vec!["up/*".to_owned(), "../up/*".to_owned()];
        let error = FileSet::Globs { folder: dir.path().join("p"), patterns }.find().unwrap_err().to_string();
        assert!(error.ends_with("would both be `up/e.csv`"), "{error}");
    }

    #[test]
    fn a_folder_is_all_in_it_but_the_hidden_and_a_file_has_its_name() {
        let dir = setup();
        let find = |name: &str| FileSet::Path(dir.path().join(name)).find().map(|files| files.into_keys().collect());
        let folder: Vec<String> = find("p").unwrap();
        assert_eq!(folder, ["a.csv", "b.csv", "out/g.csv", "sub/c.csv"]);
        let file: Vec<String> = find("p/a.csv").unwrap();
        assert_eq!(file, ["a.csv"]);
        fs::create_dir(dir.path().join("empty")).unwrap();
        assert!(matches!(find("empty"), Err(FilesError::Empty(_))), "{:?}", find("empty"));
    }

    #[test]
    fn changes_are_noticed() {
        let dir = setup();
        let cache = Cache::open(&dir.path().join(".palinode")).unwrap();
        let set = FileSet::Globs { folder: dir.path().join("p"), patterns: vec!["*.csv".to_owned()] };
        let before = set.hash(&cache).unwrap();
        assert_eq!(set.recheck(&before, &cache).unwrap(), [""; 0].map(PathBuf::from));
        let [a, new] = ["p/a.csv", "p/new.csv"].map(|name| dir.path().join(name));
        fs::write(&a, "other").unwrap();
        fs::write(&new, "").unwrap();
        assert_eq!(set.recheck(&before, &cache).unwrap(), [a, new.clone()]);
        fs::rename(new, dir.path().join("p/b.csv")).unwrap();
        assert_ne!(set.hash(&cache).unwrap().tree.digest(), before.tree.digest());
        fs::remove_dir_all(dir.path().join("p")).unwrap();
        assert_eq!(set.recheck(&before, &cache).unwrap().len(), 2);
    }
}
