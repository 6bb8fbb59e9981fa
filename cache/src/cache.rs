//! [`Cache`]: opening a cache folder, and where things lie in it.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
};

use rustix::fs::{Access, access};
use tempfile::NamedTempFile;

use crate::{
    Digest, Hold,
    ahead::Ahead,
    batch::Batch,
    durable,
    error::{CacheError, io},
    fresh::Fresh,
    pointers::Pointers,
    results::ResultIndex,
    scratch::{self, Session},
    stat_index::StatIndex,
};

const FORMAT: &str = "palinode cache 1\n";
const FOLDERS: [&str; 8] = ["objects", "records", "places", "index", "locks", "pointers", "tmp", "corrupt"];
/// `format` comes last: where it is, the rest is.
const FILES: [(&str, &str); 3] = [
    (".gitignore", "*\n"),
    ("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# A cache: see https://bford.info/cachedir/\n"),
    ("format", FORMAT),
];

/// A cache folder. Cheap to clone; may be used by many threads and many processes at once.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
    batch: Option<Arc<Batch>>,
}

struct Inner {
    root: PathBuf,
    read_only: bool,
    index: StatIndex,
    results: ResultIndex,
    pointers: Pointers,
    fresh: Fresh,
    session: Mutex<Option<Arc<Session>>>,
    held: Mutex<Weak<Hold>>,
    ahead: Mutex<Option<Ahead>>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({})", self.inner.root.display())
    }
}

impl Cache {
    /// Opens the cache in the folder `root`, making it if need be, and removes what dead processes left in it.
    /// A cache that can't be written is opened for reading.
    ///
    /// # Errors
    /// If the folder can be neither made nor read, or holds something else, or a cache of another format.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        let root = std::path::absolute(root).map_err(io("find", root))?;
        let found = read_format(&root)?;
        let read_only = found && access(&root, Access::WRITE_OK).is_err();
        if !read_only {
            make_layout(&root, found)?;
        }
        let cache = Self::new(root, read_only);
        if !read_only {
            scratch::remove_stale(&cache.dir("tmp"));
        }
        Ok(cache)
    }

    /// Opens the cache in the folder `root` for looking things up. Where there is none, nothing is made: it is then as
    /// an empty cache that can't be written.
    ///
    /// # Errors
    /// As for [`Cache::open`].
    pub fn open_existing(root: &Path) -> Result<Self, CacheError> {
        let root = std::path::absolute(root).map_err(io("find", root))?;
        if read_format(&root)? || is_made_meanwhile(&root)? {
            return Self::open(&root);
        }
        Ok(Self::new(root, true))
    }

    fn new(root: PathBuf, read_only: bool) -> Self {
        let (host, dir) = (host(), root.join("index"));
        let index = StatIndex::new(dir.join(format!("{host}.stat")), read_only);
        let results = ResultIndex::new(dir.join(format!("{host}.results")), read_only);
        let (pointers, fresh, session, held, ahead) = Default::default();
        let inner = Inner { root, read_only, index, results, pointers, fresh, session, held, ahead };
        Self { inner: Arc::new(inner), batch: None }
    }

    /// The same folder, as if it could not be written.
    #[cfg(test)]
    pub(crate) fn as_read_only(&self) -> Self {
        Self::new(self.root().to_owned(), true)
    }

    /// The cache folder.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Whether results can only be looked up, not added.
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.inner.root.join(name)
    }

    /// `dir/ab/cdef...`.
    pub(crate) fn spread<K>(&self, dir: &str, digest: &Digest<K>) -> PathBuf {
        let hex = blake3::Hash::from_bytes(*digest.as_bytes()).to_hex();
        let root = self.inner.root.as_os_str();
        // In one piece: thousands of these are made for each plan.
        let mut path = OsString::with_capacity(root.len() + dir.len() + hex.len() + 3);
        for part in [root, "/".as_ref(), dir.as_ref(), "/".as_ref(), hex[..2].as_ref(), "/".as_ref(), hex[2..].as_ref()]
        {
            path.push(part);
        }
        path.into()
    }

    pub(crate) fn held(&self) -> &Mutex<Weak<Hold>> {
        &self.inner.held
    }

    pub(crate) fn ahead(&self) -> &Mutex<Option<Ahead>> {
        &self.inner.ahead
    }

    pub(crate) fn index(&self) -> &StatIndex {
        &self.inner.index
    }

    pub(crate) fn results(&self) -> &ResultIndex {
        &self.inner.results
    }

    /// Where results wait to become durable together, if they do.
    pub(crate) fn batch(&self) -> Option<&Batch> {
        self.batch.as_deref()
    }

    pub(crate) fn with_batch(&self, batch: Arc<Batch>) -> Self {
        Self { batch: Some(batch), ..self.clone() }
    }

    pub(crate) fn fresh(&self) -> &Fresh {
        &self.inner.fresh
    }

    pub(crate) fn pointers(&self) -> &Pointers {
        &self.inner.pointers
    }

    pub(crate) fn writable(&self) -> Result<(), CacheError> {
        if self.inner.read_only { Err(CacheError::ReadOnly { root: self.inner.root.clone() }) } else { Ok(()) }
    }

    /// This process's folder under `tmp/`, made when first needed.
    pub(crate) fn session(&self) -> Result<Arc<Session>, CacheError> {
        self.writable()?;
        let mut session = self.inner.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(session) = &*session {
            return Ok(session.clone());
        }
        let new = Arc::new(Session::start(&self.dir("tmp"))?);
        *session = Some(new.clone());
        Ok(new)
    }

    /// A finished temporary file on the cache's file system, holding `bytes`.
    pub(crate) fn temporary(&self, bytes: &[u8]) -> Result<NamedTempFile, CacheError> {
        let session = self.session()?;
        temporary_in(session.path(), bytes)
    }

    /// Whether `path` can be renamed into the cache.
    pub(crate) fn same_file_system(&self, meta: &fs::Metadata) -> bool {
        fs::metadata(self.root()).is_ok_and(|root| root.dev() == meta.dev())
    }
}

/// Readable by others, as far as the umask lets them: a cache may be shared.
pub(crate) fn temporary_in(dir: &Path, bytes: &[u8]) -> Result<NamedTempFile, CacheError> {
    crate::failpoint::step();
    let mut builder = tempfile::Builder::new();
    let builder = builder.permissions(Permissions::from_mode(0o666));
    let mut file = builder.tempfile_in(dir).map_err(io("write in", dir))?;
    file.write_all(bytes).map_err(io("write", file.path()))?;
    Ok(file)
}

/// Tells whether there is a cache of our format.
fn read_format(root: &Path) -> Result<bool, CacheError> {
    let path = root.join("format");
    match fs::read_to_string(&path) {
        Ok(text) if text == FORMAT => Ok(true),
        Ok(text) => {
            Err(CacheError::Format { path, found: text.trim_end().to_owned(), expected: FORMAT.trim_end().to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Folders may be deleted at any time by hand, so they are made again at each start; the rest only once.
fn make_layout(root: &Path, found: bool) -> Result<(), CacheError> {
    let found = found || is_made_meanwhile(root)?;
    for name in FOLDERS {
        let dir = root.join(name);
        fs::create_dir_all(&dir).map_err(io("make the folder", &dir))?;
    }
    if found {
        return Ok(());
    }
    let session = Session::start(&root.join("tmp"))?;
    for (name, text) in FILES {
        let path = root.join(name);
        let file = temporary_in(session.path(), text.as_bytes())?;
        durable::sync_file(file.path())?;
        file.persist(&path).map_err(|error| io("write", &path)(error.error))?;
    }
    Ok(())
}

/// Whether another process has made the cache since its `format` was not found; what that process has put into it by
/// now (`runs`, say) must not count as foreign.
fn is_made_meanwhile(root: &Path) -> Result<bool, CacheError> {
    match refuse_foreign(root) {
        Err(error @ CacheError::Foreign { .. }) => {
            if read_format(root)? {
                Ok(true)
            } else {
                Err(error)
            }
        }
        refused => refused.map(|()| false),
    }
}

/// A folder that holds anything else is not made a cache by a slip in a path.
fn refuse_foreign(root: &Path) -> Result<(), CacheError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("read the folder", root)(error)),
    };
    for entry in entries {
        let name = entry.map_err(io("read the folder", root))?.file_name();
        let name = name.to_string_lossy();
        // Ours if another process is at this very point, or was killed there.
        let same =
            |file: &str, text: &str| *file == name && fs::read_to_string(root.join(file)).is_ok_and(|t| t == text);
        if !FOLDERS.contains(&&*name) && !FILES.iter().any(|(file, text)| same(file, text)) {
            return Err(CacheError::Foreign { root: root.to_owned(), found: name.into_owned() });
        }
    }
    Ok(())
}

/// Name of this machine, fit for a file name.
fn host() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(safe).take(64).collect();
    if name.trim_matches('.').is_empty() { "host".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_again_finds_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("new/.palinode");
        let file = Cache::open(&root).unwrap().put_bytes(b"a").unwrap();
        let again = Cache::open(&root).unwrap();
        assert!(again.locate(&file).unwrap().is_some());
        assert_eq!(again.root(), root);
        assert_eq!(fs::read_to_string(root.join(".gitignore")).unwrap(), "*\n");
        // Made again where a user tidied up.
        for name in FOLDERS {
            fs::remove_dir_all(root.join(name)).unwrap();
        }
        let empty = Cache::open(&root).unwrap();
        assert_eq!(empty.locate(&file).unwrap(), None);
        empty.put_bytes(b"a").unwrap();
    }

    #[test]
    fn looking_for_a_cache_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("none/.palinode");
        let cache = Cache::open_existing(&root).unwrap();
        assert_eq!(cache.locate(&crate::testing::entry(b"a")).unwrap(), None);
        assert_eq!(cache.record(&crate::testing::record(1).key).unwrap(), None);
        assert_eq!(cache.last("p", "a"), None);
        cache.hold().unwrap();
        fs::write(dir.path().join("input"), "x").unwrap();
        cache.hash_path(&dir.path().join("input"), &|_| true).unwrap();
        assert!(matches!(cache.put_bytes(b"a"), Err(CacheError::ReadOnly { .. })));
        assert!(!dir.path().join("none").exists());
        assert!(matches!(Cache::open_existing(dir.path()), Err(CacheError::Foreign { .. })));
        Cache::open(&root).unwrap();
        assert!(!Cache::open_existing(&root).unwrap().is_read_only());
    }

    #[test]
    fn an_interrupted_start_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        fs::write(dir.path().join(".gitignore"), "*\n").unwrap();
        Cache::open(dir.path()).unwrap();
        assert!(dir.path().join("format").exists());
    }

    #[test]
    fn a_cache_made_and_used_since_the_first_look_is_no_foreign_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!read_format(dir.path()).unwrap());
        // Another process is quicker, and has begun a run.
        Cache::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("runs")).unwrap();
        make_layout(dir.path(), false).unwrap();
        // While one that only looks like a cache stays what it is.
        fs::remove_file(dir.path().join("format")).unwrap();
        assert!(matches!(make_layout(dir.path(), false), Err(CacheError::Foreign { .. })));
    }

    #[test]
    fn a_folder_that_is_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".gitignore"), "/target\n").unwrap();
        let error = Cache::open(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("holds `.gitignore`, so it is not a cache: name a new or empty folder"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = Cache::open(&dir.path().join(".gitignore")).unwrap_err();
        assert!(matches!(error, CacheError::Io { .. }), "{error}");
    }

    #[test]
    fn another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Cache::open(dir.path()).unwrap();
        fs::write(dir.path().join("format"), "palinode cache 2\n").unwrap();
        let error = Cache::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has format \"palinode cache 2\", this version of palinode reads"), "{error}");
    }

    #[test]
    fn a_folder_without_write_permission_is_opened_for_reading() {
        let dir = tempfile::tempdir().unwrap();
        let file = Cache::open(dir.path()).unwrap().put_bytes(b"a").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o555)).unwrap();
        // Root may write anywhere, so there is nothing to see then.
        if access(dir.path(), Access::WRITE_OK).is_err() {
            let cache = Cache::open(dir.path()).unwrap();
            assert!(cache.is_read_only());
            assert!(cache.locate(&file).unwrap().is_some());
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    }
}
