//! A file's identity as the system tells it, and how a file is hashed so that identity and bytes belong together.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    Blob, Digest, FileEntry,
    error::{CacheError, Refusal, io, refuse},
};

/// Changes this close to the moment of looking can hide from a second look: the clocks of file systems are coarse.
const RACY: i64 = 2_000_000_000;
/// Large enough to keep all cores busy, small enough to stay in the processor's cache.
const BUFFER: u64 = 4 << 20;
/// Below this, starting threads costs more than it saves.
const PARALLEL: usize = 256 << 10;
const ATTEMPTS: usize = 3;

/// What changes when a file does. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
}

impl Stat {
    pub(crate) fn of(meta: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Seen at `now`, might the file change later and still look the same? Also true for times in the future.
    pub(crate) fn racy(&self, now: i64) -> bool {
        self.mtime.max(self.ctime) > now.saturating_sub(RACY)
    }
}

/// The time in nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    #[cfg(test)]
    let now = now + AHEAD.get();
    now
}

#[cfg(test)]
thread_local! {
    /// Puts this thread's clock ahead, so that a test sees files as old without waiting.
    pub(crate) static AHEAD: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// A file's content together with the stat that vouches for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) entry: FileEntry,
    pub(crate) stat: Stat,
    /// The same stat later means the same bytes.
    pub(crate) settled: bool,
}

/// Reads the whole file. The same stat before and after makes sure that the bytes are of one moment.
pub(crate) fn hash_file(path: &Path) -> Result<Seen, CacheError> {
    for _ in 0..ATTEMPTS {
        let now = now();
        let mut file = File::open(path).map_err(io("read", path))?;
        let meta = file.metadata().map_err(io("read", path))?;
        expect_file(path, &meta)?;
        let stat = Stat::of(&meta);
        let (blob, size) = digest(&mut file, stat.size).map_err(io("read", path))?;
        let after = Stat::of(&file.metadata().map_err(io("read", path))?);
        if after == stat && size == stat.size {
            return Ok(Seen { entry: FileEntry { blob, size }, stat, settled: !stat.racy(now) });
        }
    }
    Err(CacheError::Changing { path: path.to_owned() })
}

/// Refuses what is not a regular file.
pub(crate) fn expect_file(path: &Path, meta: &fs::Metadata) -> Result<(), CacheError> {
    let kind = meta.file_type();
    let refusal = if kind.is_file() {
        return Ok(());
    } else if kind.is_symlink() {
        Refusal::Symlink
    } else if kind.is_dir() {
        Refusal::Folder
    } else if kind.is_fifo() {
        Refusal::Special("pipe")
    } else if kind.is_socket() {
        Refusal::Special("socket")
    } else {
        Refusal::Special("device")
    };
    Err(refuse(path, refusal))
}

/// Read into a buffer rather than mapped: a file cut short under a mapping kills the process.
fn digest(file: &mut File, size: u64) -> io::Result<(Digest<Blob>, u64)> {
    let mut hasher = Digest::<Blob>::hasher();
    let mut buffer = vec![0; (size + 1).min(BUFFER) as usize];
    let mut total = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled < PARALLEL {
            hasher.update(&buffer[..filled]);
        } else {
            hasher.update_rayon(&buffer[..filled]);
        }
        total += filled as u64;
        if filled < buffer.len() {
            return Ok((Digest::finish(&hasher), total));
        }
    }
}
