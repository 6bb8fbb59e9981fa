//! A file's identity as the system tells it, and how a file is hashed so that identity and bytes belong together.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    FileEntry,
    error::{CacheError, Refusal, io, refuse},
    hash,
};

/// Changes this close to the moment of looking can hide from a second look, as far as is known of any file system's
/// clock (FAT counts in two seconds).
const COARSE: i64 = 2_000_000_000;
/// The same where times come from the kernel's clock, which ticks every 10 ms or faster, and are kept in nanoseconds:
/// several ticks, to be on the safe side.
pub(crate) const FINE: i64 = 50_000_000;
/// Bytes of a stat in an index.
pub(crate) const STAT: usize = 5 * 8;
/// A file this large is worth waiting for until its stat can vouch for it: reading it again would take longer.
pub(crate) const WORTH_WAITING: u64 = 64 << 20;
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

    /// Seen at `now` at `path`, might the file change later and still look the same? Also true for times in the future.
    pub(crate) fn racy(&self, now: i64, path: &Path) -> bool {
        self.mtime.max(self.ctime) > now.saturating_sub(self.window(path))
    }

    /// How long after a change another one may leave the same times.
    fn window(&self, path: &Path) -> i64 {
        // Where fractions of a second are dropped, no time has any.
        if self.ctime % 1_000_000_000 != 0 && is_fine(self.dev, path) { FINE } else { COARSE }
    }

    pub(crate) fn to_bytes(self) -> [u8; STAT] {
        let mut bytes = [0; STAT];
        let numbers = [self.dev, self.ino, self.size, self.mtime as u64, self.ctime as u64];
        for (slot, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; STAT]) -> Self {
        let mut numbers = [0; 5];
        for (number, slot) in numbers.iter_mut().zip(bytes.as_chunks().0) {
            *number = u64::from_le_bytes(*slot);
        }
        let [dev, ino, size, mtime, ctime] = numbers;
        Self { dev, ino, size, mtime: mtime as i64, ctime: ctime as i64 }
    }
}

/// Whether the file system `dev`, on which `path` lies, is known to take times from the kernel's clock in full.
#[cfg(target_os = "linux")]
fn is_fine(dev: u64, path: &Path) -> bool {
    use std::{
        collections::HashMap,
        sync::{Mutex, PoisonError},
    };
    /// ext2 to ext4, XFS, Btrfs, tmpfs, ZFS, F2FS, bcachefs: local, and each with nanoseconds where files have them.
    const KNOWN: [u64; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];
    static FOUND: Mutex<Option<HashMap<u64, bool>>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    *found.get_or_insert_default().entry(dev).or_insert_with(|| {
        rustix::fs::statfs(path).is_ok_and(|stat| KNOWN.contains(&(stat.f_type as u64 & 0xffff_ffff)))
    })
}

#[cfg(not(target_os = "linux"))]
fn is_fine(_: u64, _: &Path) -> bool {
    false
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
        let file = File::open(path).map_err(io("read", path))?;
        let meta = file.metadata().map_err(io("read", path))?;
        expect_file(path, &meta)?;
        let stat = Stat::of(&meta);
        let now = settle(&stat, path);
        let blob = match hash::digest(&file, stat.size) {
            // It was cut short.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            blob => blob.map_err(io("read", path))?,
        };
        let after = Stat::of(&file.metadata().map_err(io("read", path))?);
        if after == stat {
            return Ok(Seen { entry: FileEntry { blob, size: stat.size }, stat, settled: !stat.racy(now, path) });
        }
    }
    Err(CacheError::Changing { path: path.to_owned() })
}

/// The time at which the file is looked at; for a large one that was just written, that is a moment later.
fn settle(stat: &Stat, path: &Path) -> i64 {
    let time = now();
    let left = stat.mtime.max(stat.ctime).saturating_add(FINE) - time;
    if stat.size < WORTH_WAITING || !(0..=FINE).contains(&left) || stat.window(path) != FINE {
        return time;
    }
    std::thread::sleep(Duration::from_nanos(left.unsigned_abs() + 1));
    now()
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
