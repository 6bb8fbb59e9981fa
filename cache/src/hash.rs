//! Hashing files with all cores. The file is read in pieces rather than mapped: a file cut short under a mapping kills
//! the process, and pieces that fit the processor's cache cost less than the page faults of a mapping.

use std::{cell::RefCell, fs::File, io, os::unix::fs::FileExt};

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};

use crate::{Blob, BlobDigest, Digest};

/// One read. It stays in the second-level cache while it is hashed.
const PIECE: usize = 128 << 10;
/// Files up to this size, and subtrees of larger ones, are one thread's work; a power of two, as subtrees are.
const SUBTREE: u64 = 1 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The digest of `file`, which has `size` bytes.
///
/// # Errors
/// If it can't be read; `UnexpectedEof` if its end is elsewhere.
pub(crate) fn digest(file: &File, size: u64) -> io::Result<BlobDigest> {
    // Some files tell no size (those in /proc): they must not pass for empty.
    if file.read_at(&mut [0], size)? > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if size <= SUBTREE {
        let mut hasher = Digest::<Blob>::hasher();
        feed(&mut hasher, file, 0, size)?;
        return Ok(Digest::finish(&hasher));
    }
    let middle = left_subtree_len(size);
    let (left, right) = halves(file, 0, middle, size)?;
    Ok(Digest::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()))
}

/// The chaining value of the subtree over the bytes from `start` to `end`.
fn subtree(file: &File, start: u64, end: u64) -> io::Result<ChainingValue> {
    if end - start <= SUBTREE {
        let mut hasher = Digest::<Blob>::hasher();
        hasher.set_input_offset(start);
        feed(&mut hasher, file, start, end)?;
        return Ok(hasher.finalize_non_root());
    }
    let (left, right) = halves(file, start, start + left_subtree_len(end - start), end)?;
    Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

fn halves(file: &File, start: u64, middle: u64, end: u64) -> io::Result<(ChainingValue, ChainingValue)> {
    let (left, right) = rayon::join(|| subtree(file, start, middle), || subtree(file, middle, end));
    Ok((left?, right?))
}

fn feed(hasher: &mut Hasher, file: &File, start: u64, end: u64) -> io::Result<()> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut at = start;
        while at < end {
            let length = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            // Grows to what is needed: most files are small.
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            file.read_exact_at(&mut buffer[..length], at)?;
            hasher.update(&buffer[..length]);
            at += length as u64;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_sizes_have_the_digest_of_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..9_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mib = 1 << 20;
        for size in [0, 1, 1024, PIECE, PIECE + 1, mib - 1, mib, mib + 1, 3 * mib, 4 * mib + 1, bytes.len()] {
            std::fs::write(&path, &bytes[..size]).unwrap();
            let file = File::open(&path).unwrap();
            assert_eq!(digest(&file, size as u64).unwrap(), Digest::of(&bytes[..size]), "{size}");
            let longer = digest(&file, size as u64 + 1).unwrap_err();
            assert_eq!(longer.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(digest(&file, (size as u64).saturating_sub(1)).is_ok(), size == 0);
        }
        assert!(!cfg!(target_os = "linux") || digest(&File::open("/proc/self/status").unwrap(), 0).is_err());
    }
}
