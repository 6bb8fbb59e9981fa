//! Append-only files that may be cut off, damaged or deleted at any time: what is unreadable is skipped, never trusted.
//! All that lies in them can be had again elsewhere, or is only a hint.
//!
//! A file is a header, then frames: a mark, a length, a checksum, and so many bytes. A reader that meets anything else
//! looks for the next mark. Each append is one write of whole frames, so writers need not know of each other; a lock
//! keeps them off a file that is being compacted.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::cache::temporary_in;

/// Bytes that no text and no number in little endian begins with.
const MARK: [u8; 8] = *b"\xff\xfe\x00plnf\xf7";
/// Mark, length, checksum.
const HEAD: usize = 8 + 4 + 8;
/// Larger frames are refused when read: a damaged length must not swallow what follows.
const MAX_FRAME: usize = 16 << 20;

/// A file's bytes and where its sound frames lie in them.
#[derive(Default)]
pub(crate) struct Frames {
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<Range<usize>>,
}

/// Reads all sound frames; none if the file is not there or has another header.
pub(crate) fn load(path: &Path, header: &[u8]) -> Frames {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let size = file.metadata().map_or(0, |meta| meta.len());
        bytes.reserve_exact(usize::try_from(size).map_or(0, |size| size.saturating_add(1)));
        // A file that can't be read to its end is as good as its beginning.
        let _ = file.read_to_end(&mut bytes);
    }
    if !bytes.starts_with(header) {
        return Frames::default();
    }
    let mut frames = Vec::new();
    let mut at = header.len();
    while at < bytes.len() {
        match frame(&bytes, at) {
            Some(payload) => {
                at = payload.end;
                frames.push(payload);
            }
            None => match bytes[at + 1..].windows(MARK.len()).position(|window| window == MARK) {
                Some(next) => at += 1 + next,
                None => break,
            },
        }
    }
    Frames { bytes, frames }
}

/// The payload of the sound frame that begins at `at`.
fn frame(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let head = bytes.get(at..at + HEAD)?;
    let length = u32::from_le_bytes(*head[8..].first_chunk()?) as usize;
    let range = at + HEAD..at + HEAD + length;
    let sound = head.starts_with(&MARK) && length <= MAX_FRAME;
    let payload = if sound { bytes.get(range.clone())? } else { return None };
    (checksum(payload) == head[12..]).then_some(range)
}

/// Adds a frame for each of `payloads`; makes the file, or makes it anew if its header is another one.
pub(crate) fn append(path: &Path, header: &[u8], payloads: &[&[u8]]) -> io::Result<()> {
    let open = || File::options().read(true).append(true).create(true).open(path);
    loop {
        let mut file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                open()?
            }
            file => file?,
        };
        file.lock()?;
        let meta = file.metadata()?;
        // It was compacted, or deleted, between being opened and locked.
        if meta.nlink() == 0 {
            continue;
        }
        let mut found = vec![0; header.len()];
        let sound = meta.len() > 0 && file.read_exact(&mut found).is_ok() && found == header;
        let mut bytes = Vec::new();
        if !sound {
            file.set_len(0)?;
            bytes.extend_from_slice(header);
        }
        payloads.iter().for_each(|payload| push(&mut bytes, payload));
        crate::failpoint::step();
        return file.write_all(&bytes);
    }
}

/// Replaces the file by one that holds `payloads`. What another process adds meanwhile may be lost.
pub(crate) fn rewrite(path: &Path, header: &[u8], payloads: &[&[u8]]) -> io::Result<()> {
    let old = File::open(path)?;
    old.lock()?;
    let mut bytes = header.to_vec();
    payloads.iter().for_each(|payload| push(&mut bytes, payload));
    let dir = path.parent().unwrap_or(Path::new("."));
    let file = temporary_in(dir, &bytes).map_err(|error| io::Error::other(error.to_string()))?;
    crate::failpoint::step();
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn push(bytes: &mut Vec<u8>, payload: &[u8]) {
    let Ok(length) = u32::try_from(payload.len()) else { return };
    if payload.len() > MAX_FRAME {
        return;
    }
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(payload));
    bytes.extend_from_slice(payload);
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"test 1\n";

    fn read(path: &Path) -> Vec<Vec<u8>> {
        let found = load(path, HEADER);
        found.frames.iter().map(|frame| found.bytes[frame.clone()].to_vec()).collect()
    }

    #[test]
    fn frames_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/file");
        assert!(read(&path).is_empty());
        append(&path, HEADER, &[b"a", b""]).unwrap();
        append(&path, HEADER, &[&[7; 70_000]]).unwrap();
        assert_eq!(read(&path), [b"a".to_vec(), Vec::new(), vec![7; 70_000]]);
        rewrite(&path, HEADER, &[b"z"]).unwrap();
        append(&path, HEADER, &[b"y"]).unwrap();
        assert_eq!(read(&path), [b"z", b"y"]);
    }

    #[test]
    fn whatever_is_cut_or_flipped_only_whole_frames_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let all: Vec<Vec<u8>> = (0u8..6).map(|i| vec![i; 5 + usize::from(i)]).collect();
        for frame in &all {
            append(&path, HEADER, &[frame]).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let found = read(&path);
            assert!(all.starts_with(&found));
            // The next writer goes on behind what is torn.
            append(&path, HEADER, &[b"next"]).unwrap();
            assert_eq!(read(&path), [found, vec![b"next".to_vec()]].concat());
        }
        for bit in 8 * HEADER.len()..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            let found = read(&path);
            assert_eq!(found.len(), all.len() - 1);
            assert!(found.iter().all(|frame| all.contains(frame)));
        }
    }

    #[test]
    fn a_file_with_another_header_is_nothing_and_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        append(&path, b"other 1\n", &[b"a"]).unwrap();
        assert!(read(&path).is_empty());
        append(&path, HEADER, &[b"b"]).unwrap();
        assert_eq!(read(&path), [b"b"]);
    }

    #[test]
    fn writers_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::thread::scope(|scope| {
            for writer in 0u8..4 {
                let path = &path;
                scope.spawn(move || {
                    for i in 0..100 {
                        append(path, HEADER, &[&[writer; 9], &[i]]).unwrap();
                    }
                });
            }
        });
        assert_eq!(read(&path).len(), 800);
    }
}
