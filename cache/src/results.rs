//! The index of results: what each record's file comes to, by its key and its stat. One append-only file per host; the
//! record's file is the truth, and an entry counts only while that file's stat is the one that the entry was made from.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Range,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    Digest, FileEntry, StageKey, StoredOutput, StoredResult, TreeDigest, frames,
    stat::{STAT, Stat},
};

const HEADER: &[u8] = b"palinode results 1; deleting this file costs just reading records\n";
/// Entries go into frames of about this size: one damaged frame loses no more.
const FRAME: usize = 64 << 10;
/// Bytes of entries out of date that are let be.
const SLACK: usize = 1 << 20;

pub(crate) struct ResultIndex {
    path: PathBuf,
    read_only: bool,
    state: RwLock<Option<State>>,
}

/// Entries stay as they lie in the file until they are asked for.
#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    at: HashMap<StageKey, Range<u32>, BuildHasherDefault<Prefix>>,
    added: HashMap<StageKey, (Stat, Arc<StoredResult>), BuildHasherDefault<Prefix>>,
}

impl ResultIndex {
    pub(crate) fn new(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, state: RwLock::default() }
    }

    /// What the record of `key` comes to if its file has this stat; `None` if that is not known.
    pub(crate) fn get(&self, key: &StageKey, stat: &Stat) -> Option<Arc<StoredResult>> {
        self.load();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let state = state.as_ref()?;
        if let Some((known, result)) = state.added.get(key) {
            return (known == stat).then(|| result.clone());
        }
        let range = state.at.get(key)?;
        let (known, result) = decode(state.bytes.get(range.start as usize..range.end as usize)?)?;
        (known == *stat && result.key == *key).then(|| Arc::new(result))
    }

    /// Remembers results with the stat of their records' files, which were not racy.
    pub(crate) fn add(&self, results: &[(Stat, Arc<StoredResult>)]) {
        if results.is_empty() {
            return;
        }
        self.load();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let added = results.iter().map(|(stat, result)| (result.key, (*stat, result.clone())));
        state.get_or_insert_default().added.extend(added);
        drop(state);
        self.append(results);
    }

    /// The same, for other processes: this one need not remember them.
    pub(crate) fn append(&self, results: &[(Stat, Arc<StoredResult>)]) {
        if self.read_only || results.is_empty() {
            return;
        }
        let mut frame_list = vec![Vec::new()];
        for (stat, result) in results {
            if frame_list.last().is_some_and(|frame| frame.len() > FRAME) {
                frame_list.push(Vec::new());
            }
            frame_list.last_mut().into_iter().for_each(|frame| encode(stat, result, frame));
        }
        let payloads: Vec<&[u8]> = frame_list.iter().map(Vec::as_slice).collect();
        if let Err(error) = frames::append(&self.path, HEADER, &payloads) {
            tracing::debug!(path = %self.path.display(), %error, "can't add to the index of results");
        }
    }

    /// Reads the file when it is first needed, and compacts it if most of it is out of date.
    fn load(&self) {
        if self.state.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.is_some() {
            return;
        }
        let read = frames::load(&self.path, HEADER);
        let entries: usize = read.frames.iter().map(Range::len).sum();
        let mut loaded = State::default();
        loaded.at.reserve(entries / 256);
        for frame in read.frames {
            index(&read.bytes, frame, &mut loaded.at);
        }
        loaded.bytes = read.bytes;
        let live: usize = loaded.at.values().map(|range| range.len() + LENGTH).sum();
        if loaded.bytes.len() > 2 * live + SLACK && !self.read_only {
            let ranges: Vec<_> = loaded.at.values().cloned().collect();
            // A frame holds its entries with their lengths before them.
            let payloads: Vec<&[u8]> =
                ranges.iter().map(|range| &loaded.bytes[range.start as usize - LENGTH..range.end as usize]).collect();
            if let Err(error) = frames::rewrite(&self.path, HEADER, &payloads) {
                tracing::debug!(path = %self.path.display(), %error, "can't compact the index of results");
            }
        }
        *state = Some(loaded);
    }
}

/// Bytes of an entry's length.
const LENGTH: usize = 4;

/// Notes where each entry of a frame lies; a later one of the same key wins.
fn index(bytes: &[u8], frame: Range<usize>, at: &mut HashMap<StageKey, Range<u32>, BuildHasherDefault<Prefix>>) {
    let mut start = frame.start;
    while start + LENGTH <= frame.end {
        let Some(length) = bytes[start..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize) else {
            return;
        };
        let entry = start + LENGTH..start + LENGTH + length;
        if entry.end > frame.end {
            return;
        }
        let (Some(key), Ok(from), Ok(to)) =
            (bytes[entry.clone()].first_chunk(), u32::try_from(entry.start), u32::try_from(entry.end))
        else {
            return;
        };
        at.insert(Digest::from_bytes(*key), from..to);
        start = entry.end;
    }
}

/// Length; key; stat; seconds; log; outputs with their files. Numbers are in little endian.
fn encode(stat: &Stat, result: &StoredResult, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; LENGTH]);
    bytes.extend_from_slice(result.key.as_bytes());
    bytes.extend_from_slice(&stat.to_bytes());
    bytes.extend_from_slice(&result.seconds.to_le_bytes());
    put_file(&result.log, bytes);
    put_length(result.outputs.len(), bytes);
    for output in &result.outputs {
        put_text(&output.port, bytes);
        bytes.extend_from_slice(output.tree.as_bytes());
        put_length(output.files.len(), bytes);
        for (name, entry) in &output.files {
            put_text(name, bytes);
            put_file(entry, bytes);
        }
    }
    let length = bytes.len() - start - LENGTH;
    match u32::try_from(length) {
        Ok(length) => bytes[start..start + LENGTH].copy_from_slice(&length.to_le_bytes()),
        Err(_) => bytes.truncate(start),
    }
}

fn put_file(entry: &FileEntry, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(entry.blob.as_bytes());
    bytes.extend_from_slice(&entry.size.to_le_bytes());
}

fn put_length(length: usize, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(text: &str, bytes: &mut Vec<u8>) {
    put_length(text.len(), bytes);
    bytes.extend_from_slice(text.as_bytes());
}

/// Takes any bytes; `None` if they are no entry.
fn decode(bytes: &[u8]) -> Option<(Stat, StoredResult)> {
    let mut rest = bytes;
    let key = Digest::from_bytes(*take(&mut rest)?);
    let stat = Stat::from_bytes(take::<STAT>(&mut rest)?);
    let seconds = f64::from_le_bytes(*take(&mut rest)?);
    let log = take_file(&mut rest)?;
    let count = take_length(&mut rest)?;
    let mut outputs = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        let port = take_text(&mut rest)?;
        let tree = TreeDigest::from_bytes(*take(&mut rest)?);
        let count = take_length(&mut rest)?;
        let mut files = Vec::with_capacity(count.min(rest.len()));
        for _ in 0..count {
            files.push((take_text(&mut rest)?, take_file(&mut rest)?));
        }
        outputs.push(StoredOutput { port, tree, files: files.into() });
    }
    rest.is_empty().then_some((stat, StoredResult { key, outputs, log, seconds }))
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(head)
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    take(rest).map(|bytes| u32::from_le_bytes(*bytes) as usize)
}

fn take_text(rest: &mut &[u8]) -> Option<Box<str>> {
    let length = take_length(rest)?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    std::str::from_utf8(head).ok().map(Into::into)
}

fn take_file(rest: &mut &[u8]) -> Option<FileEntry> {
    Some(FileEntry { blob: Digest::from_bytes(*take(rest)?), size: u64::from_le_bytes(*take(rest)?) })
}

/// Digests are as good as random: their first bytes are hash enough.
#[derive(Default)]
pub(crate) struct Prefix(u64);

impl Hasher for Prefix {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{cache, later, record};

    fn open(dir: &std::path::Path) -> ResultIndex {
        ResultIndex::new(dir.join("index/host.results"), false)
    }

    fn stat(n: u64) -> Stat {
        Stat { dev: 1, ino: n, size: 2 * n, mtime: -5, ctime: n as i64 }
    }

    fn result(n: u64) -> Arc<StoredResult> {
        Arc::new(StoredResult::from(&record(n)))
    }

    #[test]
    fn results_come_back_by_exactly_their_stat() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<_> = (0..3000).map(|n| (stat(n), result(n))).collect();
        open(dir.path()).add(&all);
        let index = open(dir.path());
        for (stat, result) in &all {
            assert_eq!(index.get(&result.key, stat).as_ref(), Some(result));
            assert_eq!(index.get(&result.key, &Stat { ctime: -1, ..*stat }), None);
        }
        assert_eq!(index.get(&record(9999).key, &stat(1)), None);
        // The later entry wins, here and in the next process.
        index.add(&[(stat(7777), result(1))]);
        for index in [index, open(dir.path())] {
            assert_eq!(index.get(&result(1).key, &stat(1)), None);
            assert_eq!(index.get(&result(1).key, &stat(7777)), Some(result(1)));
        }
    }

    #[test]
    fn a_damaged_index_gives_only_what_is_sound() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..20 {
            open(dir.path()).add(&[(stat(n), result(n))]);
        }
        let path = dir.path().join("index/host.results");
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let index = open(dir.path());
            let found: Vec<_> = (0..20).map(|n| (n, index.get(&result(n).key, &stat(n)))).collect();
            assert!(found.iter().all(|(n, found)| found.as_ref().is_none_or(|found| *found == result(*n))));
            assert!(at < HEADER.len() || found.iter().filter(|(_, found)| found.is_none()).count() <= 1);
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic() {
        let mut bytes = Vec::new();
        encode(&stat(1), &result(1), &mut bytes);
        let bytes = &bytes[LENGTH..];
        assert!(decode(bytes).is_some());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_none());
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.to_vec();
            bytes[at] = 0xff;
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn what_is_out_of_date_goes() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path());
        let path = dir.path().join("index/host.results");
        while fs::metadata(&path).map_or(0, |meta| meta.len()) < 2 * SLACK as u64 {
            index.add(&(0..500).map(|n| (stat(n), result(n))).collect::<Vec<_>>());
        }
        assert!(open(dir.path()).get(&result(1).key, &stat(1)).is_some());
        assert!(fs::metadata(&path).unwrap().len() < SLACK as u64 / 2);
        assert!((0..500).all(|n| open(dir.path()).get(&result(n).key, &stat(n)).is_some()));
    }

    #[test]
    fn a_record_is_indexed_once_it_is_not_racy_and_never_trusted_when_changed() {
        let (_dir, cache) = cache();
        let (record, result) = (record(1), result(1));
        cache.publish(&record).unwrap();
        let path = cache.spread("records", &record.key);
        let now = || Stat::of(&fs::symlink_metadata(&path).unwrap());
        assert_eq!(cache.stored(&record.key).unwrap(), Some(result.clone()));
        assert_eq!(cache.results().get(&record.key, &now()), None, "it is too new");
        assert_eq!(later(|| cache.stored(&record.key)).unwrap(), Some(result.clone()));
        assert_eq!(cache.results().get(&record.key, &now()), Some(result.clone()));

        crate::testing::flip_bit(&path);
        assert_eq!(later(|| cache.stored(&record.key)).unwrap(), None);
        assert!(!path.exists(), "it is set aside");
        cache.publish(&record).unwrap();
        assert_eq!(cache.stored(&record.key).unwrap(), Some(result));
        fs::remove_file(&path).unwrap();
        assert_eq!(cache.stored(&record.key).unwrap(), None);
    }
}
