//! The stat index: which bytes a file holds, by its stat, so that an unchanged file is not read again. Only entries
//! that were not racy when made are in it. A file of fixed-size rows, one file per host, append-only; it may be
//! deleted or damaged at any time, which costs hashing and nothing else.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use crate::{
    BlobDigest, CacheError, Digest,
    cache::temporary_in,
    stat::{STAT, Stat},
};

/// dev, inode, size, mtime, ctime; digest; the first bytes of a checksum over these.
const ROW: usize = STAT + 32 + 8;
/// Rows that may be out of date before the file is written anew.
const SLACK: usize = 4096;
/// The first row.
const MAGIC: &[u8; ROW] = b"palinode stat index 1: rows of 80 bytes; deleting this file costs just rehashing";

type Map = HashMap<(u64, u64), (Stat, BlobDigest)>;

pub(crate) struct StatIndex {
    path: PathBuf,
    read_only: bool,
    map: Mutex<Option<Map>>,
}

impl StatIndex {
    pub(crate) fn new(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, map: Mutex::new(None) }
    }

    /// The bytes of the file with exactly this stat, if known.
    pub(crate) fn get(&self, stat: &Stat) -> Option<BlobDigest> {
        let map = self.map();
        let (known, blob) = map.as_ref()?.get(&(stat.dev, stat.ino))?;
        (known == stat).then_some(*blob)
    }

    /// Remembers files that were not racy when they were hashed.
    pub(crate) fn add(&self, files: &[(Stat, BlobDigest)]) {
        if files.is_empty() {
            return;
        }
        let mut map = self.map();
        map.get_or_insert_default().extend(files.iter().map(|file| ((file.0.dev, file.0.ino), *file)));
        drop(map);
        self.append(files);
    }

    /// The same, for other processes: this one need not remember them.
    pub(crate) fn append(&self, files: &[(Stat, BlobDigest)]) {
        if !self.read_only
            && !files.is_empty()
            && let Err(error) = append(&self.path, files)
        {
            tracing::debug!(path = %self.path.display(), %error, "can't add to the stat index");
        }
    }

    /// Loaded when first needed.
    fn map(&self) -> MutexGuard<'_, Option<Map>> {
        let mut map = self.map.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if map.is_none() {
            let (loaded, rows) = load(&self.path);
            if rows > 2 * loaded.len() + SLACK && !self.read_only {
                // Rows that another process adds meanwhile are lost: they will be made again.
                let rows: Vec<_> = loaded.values().copied().collect();
                if let Err(error) = rewrite(&self.path, &rows) {
                    tracing::debug!(path = %self.path.display(), %error, "can't compact the stat index");
                }
            }
            *map = Some(loaded);
        }
        map
    }
}

/// The sound rows, and how many rows the file has. Later rows win.
fn load(path: &Path) -> (Map, usize) {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        // A file that can't be read to its end is as good as its beginning.
        let _ = file.read_to_end(&mut bytes);
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else { return (Map::new(), 0) };
    let (rows, _) = rest.as_chunks::<ROW>();
    let mut map = Map::with_capacity(rows.len());
    map.extend(rows.iter().filter_map(decode).map(|file| ((file.0.dev, file.0.ino), file)));
    (map, rows.len())
}

fn append(path: &Path, files: &[(Stat, BlobDigest)]) -> io::Result<()> {
    let mut file = match File::options().read(true).append(true).create(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            File::options().read(true).append(true).create(true).open(path)?
        }
        file => file?,
    };
    file.lock()?;
    let mut magic = [0; ROW];
    if file.read_exact(&mut magic).is_err() || &magic != MAGIC {
        file.set_len(0)?;
    }
    let len = file.metadata()?.len();
    // What a writer left when it died in the middle of a row.
    file.set_len(len - len % ROW as u64)?;
    let mut bytes = Vec::with_capacity(ROW * (files.len() + 1));
    if len == 0 {
        bytes.extend_from_slice(MAGIC);
    }
    bytes.extend(files.iter().flat_map(encode));
    crate::failpoint::step();
    file.write_all(&bytes)
}

fn rewrite(path: &Path, files: &[(Stat, BlobDigest)]) -> Result<(), CacheError> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(files.iter().flat_map(encode));
    let file = temporary_in(path.parent().unwrap_or(Path::new(".")), &bytes)?;
    crate::failpoint::step();
    file.persist(path).map_err(|error| crate::error::io("write", path)(error.error))?;
    Ok(())
}

fn encode((stat, blob): &(Stat, BlobDigest)) -> [u8; ROW] {
    let mut row = [0; ROW];
    row[..STAT].copy_from_slice(&stat.to_bytes());
    row[STAT..72].copy_from_slice(blob.as_bytes());
    let sum = checksum(&row);
    row[72..].copy_from_slice(&sum);
    row
}

fn decode(row: &[u8; ROW]) -> Option<(Stat, BlobDigest)> {
    if row[72..] != checksum(row) {
        return None;
    }
    Some((Stat::from_bytes(row.first_chunk()?), Digest::from_bytes(*row[STAT..].first_chunk()?)))
}

fn checksum(row: &[u8; ROW]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(&row[..72]).as_bytes()[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> (Stat, BlobDigest) {
        let time = n as i64 - 5;
        (Stat { dev: 1, ino: n, size: 2 * n, mtime: time, ctime: time + 1 }, Digest::of(&n.to_le_bytes()))
    }

    fn rows(range: std::ops::Range<u64>) -> Vec<(Stat, BlobDigest)> {
        range.map(row).collect()
    }

    fn open(dir: &Path) -> StatIndex {
        StatIndex::new(dir.join("index/host.stat"), false)
    }

    /// Which of the first `n` rows a new process finds.
    fn known(dir: &Path, n: u64) -> Vec<u64> {
        let index = open(dir);
        (0..n).filter(|n| index.get(&row(*n).0) == Some(row(*n).1)).collect()
    }

    #[test]
    fn rows_are_found_again_by_exactly_their_stat() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).add(&rows(0..40_000));
        assert_eq!(known(dir.path(), 40_001).len(), 40_000);
        let index = open(dir.path());
        let stat = row(7).0;
        let changed = [
            Stat { dev: 2, ..stat },
            Stat { ino: 50_000, ..stat },
            Stat { size: 0, ..stat },
            Stat { mtime: 0, ..stat },
            Stat { ctime: 0, ..stat },
        ];
        assert!(changed.iter().all(|stat| index.get(stat).is_none()));
        // The later row wins.
        let newer = (Stat { ctime: 99, ..stat }, Digest::of(b"newer"));
        index.add(&[newer]);
        assert_eq!(open(dir.path()).get(&newer.0), Some(newer.1));
        assert_eq!(open(dir.path()).get(&stat), None);
    }

    #[test]
    fn a_torn_last_row_is_dropped_and_written_over() {
        for cut in [1, 40, 79] {
            let dir = tempfile::tempdir().unwrap();
            let index = open(dir.path());
            index.add(&rows(0..3));
            let file = File::options().write(true).open(&index.path).unwrap();
            file.set_len(file.metadata().unwrap().len() - cut).unwrap();
            assert_eq!(known(dir.path(), 3), [0, 1]);
            open(dir.path()).add(&[row(3)]);
            assert_eq!(known(dir.path(), 4), [0, 1, 3]);
        }
    }

    #[test]
    fn a_damaged_row_is_skipped() {
        for place in 0..ROW {
            let dir = tempfile::tempdir().unwrap();
            let index = open(dir.path());
            index.add(&rows(0..3));
            let mut bytes = fs::read(&index.path).unwrap();
            bytes[2 * ROW + place] ^= 4;
            fs::write(&index.path, bytes).unwrap();
            assert_eq!(known(dir.path(), 3), [0, 2]);
        }
    }

    #[test]
    fn anything_else_in_its_place_is_begun_anew() {
        for bytes in [&b""[..], b"x", &[7; 200]] {
            let dir = tempfile::tempdir().unwrap();
            let index = open(dir.path());
            index.add(&rows(0..2));
            fs::write(&index.path, bytes).unwrap();
            assert_eq!(known(dir.path(), 2), [0; 0]);
            open(dir.path()).add(&[row(1)]);
            assert_eq!(known(dir.path(), 2), [1]);
        }
    }

    #[test]
    fn deleted_it_is_only_empty() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path());
        index.add(&rows(0..2));
        fs::remove_dir_all(dir.path().join("index")).unwrap();
        assert_eq!(known(dir.path(), 2), [0; 0]);
        index.add(&[row(2)]);
        assert_eq!(known(dir.path(), 3), [2]);
    }

    #[test]
    fn it_is_compacted_when_most_rows_are_out_of_date() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path());
        let again: Vec<_> = rows(0..10).into_iter().cycle().take(2 * SLACK).collect();
        index.add(&again);
        let len = || fs::metadata(&index.path).unwrap().len() as usize;
        assert_eq!(len(), ROW * (2 * SLACK + 1));
        assert_eq!(known(dir.path(), 10).len(), 10);
        assert_eq!(len(), ROW * 11);
        assert_eq!(known(dir.path(), 10).len(), 10);
    }

    #[test]
    fn many_may_add_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let index = open(dir.path());
                scope.spawn(move || (0..50).for_each(|n| index.add(&[row(thread * 50 + n)])));
            }
        });
        assert_eq!(known(dir.path(), 400).len(), 400);
    }

    #[test]
    fn one_that_can_not_be_written_still_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let index = StatIndex::new(dir.path().join("host.stat"), true);
        index.add(&[row(1)]);
        assert_eq!(index.get(&row(1).0), Some(row(1).1));
        assert!(!index.path.exists());
    }
}
