//! Where the files of a zip archive lie in its bytes. Only archives as torch writes them: nothing compressed, nothing
//! encrypted (APPNOTE.TXT 6.3, with the zip64 records that files above 4 GiB need).

use std::collections::BTreeMap;
use std::ops::Range;

use super::torch::TorchError;

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// Length of the end record without its comment, and the longest comment.
const END_SIZE: usize = 22;
const LONGEST_COMMENT: usize = 0xffff;
/// Stands in a 32-bit field whose value is in the zip64 record.
const ELSEWHERE: u64 = 0xffff_ffff;

/// Names, and the places of their contents.
pub(super) fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, TorchError> {
    let (mut at, count) = directory(bytes)?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let fixed = Fields { bytes, at };
        fixed.signature(ENTRY)?;
        let [name, extra, comment] = [28, 30, 32].map(|field| fixed.u16(field));
        let (name, extra, comment) = (name? as usize, extra? as usize, comment? as usize);
        let text = slice(bytes, at.checked_add(46), name)?;
        let text = std::str::from_utf8(text).map_err(|_| TorchError::Zip("a name in it is not UTF-8"))?.to_owned();
        let (flags, method) = (fixed.u16(8)?, fixed.u16(10)?);
        if method != 0 || flags & 1 != 0 {
            return Err(TorchError::Zip("it is compressed or encrypted, which torch doesn't do"));
        }
        let mut sizes = [fixed.u32(24)?, fixed.u32(20)?, fixed.u32(42)?];
        wide(slice(bytes, at.checked_add(46 + name), extra)?, &mut sizes)?;
        let [size, stored, header] = sizes;
        if size != stored {
            return Err(TorchError::Zip("a stored file has two sizes"));
        }
        let place = contents(bytes, position(header)?, position(size)?)?;
        if entries.insert(text, place).is_some() {
            return Err(TorchError::Zip("two files in it have one name"));
        }
        at += 46 + name + extra + comment;
    }
    Ok(entries)
}

/// Place and number of the central directory's entries.
fn directory(bytes: &[u8]) -> Result<(usize, u64), TorchError> {
    let first = bytes.len().saturating_sub(END_SIZE + LONGEST_COMMENT);
    let last = bytes.len().checked_sub(END_SIZE).ok_or(TorchError::Truncated)?;
    let found = (first..=last).rev().find(|&at| bytes[at..].starts_with(END));
    let end = Fields { bytes, at: found.ok_or(TorchError::Truncated)? };
    let (count, place) = (end.u16(10)?, end.u32(16)?);
    let locator = end.at.checked_sub(20).map(|at| Fields { bytes, at });
    let (count, place) = match locator.filter(|locator| locator.signature(LOCATOR_64).is_ok()) {
        None => (count, place),
        Some(locator) => {
            let end = Fields { bytes, at: position(locator.u64(8)?)? };
            end.signature(END_64)?;
            (end.u64(32)?, end.u64(48)?)
        }
    };
    Ok((position(place)?, count))
}

/// Replaces those of size, stored size and place that are in the zip64 field, in that order.
fn wide(extra: &[u8], sizes: &mut [u64; 3]) -> Result<(), TorchError> {
    let mut at = 0;
    while at + 4 <= extra.len() {
        let field = Fields { bytes: extra, at };
        let (kind, length) = (field.u16(0)?, field.u16(2)? as usize);
        if kind == 1 {
            let mut from = 4;
            for size in sizes.iter_mut().filter(|size| **size == ELSEWHERE) {
                *size = field.u64(from)?;
                from += 8;
            }
            return Ok(());
        }
        at += 4 + length;
    }
    Ok(())
}

/// Behind the local header, whose name and extra field may be longer than the directory's.
fn contents(bytes: &[u8], header: usize, size: usize) -> Result<Range<usize>, TorchError> {
    let local = Fields { bytes, at: header };
    local.signature(LOCAL)?;
    let start = header + 30 + local.u16(26)? as usize + local.u16(28)? as usize;
    let end = start.checked_add(size).filter(|&end| end <= bytes.len()).ok_or(TorchError::Truncated)?;
    Ok(start..end)
}

/// Little-endian fields of a record.
#[derive(Clone, Copy)]
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn array<const N: usize>(self, field: usize) -> Result<[u8; N], TorchError> {
        let found = slice(self.bytes, self.at.checked_add(field), N)?;
        found.try_into().map_err(|_| TorchError::Truncated)
    }

    fn u16(self, field: usize) -> Result<u64, TorchError> {
        self.array(field).map(|bytes| u64::from(u16::from_le_bytes(bytes)))
    }

    fn u32(self, field: usize) -> Result<u64, TorchError> {
        self.array(field).map(|bytes| u64::from(u32::from_le_bytes(bytes)))
    }

    fn u64(self, field: usize) -> Result<u64, TorchError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn signature(self, wanted: &[u8]) -> Result<(), TorchError> {
        match slice(self.bytes, Some(self.at), wanted.len())? == wanted {
            true => Ok(()),
            false => Err(TorchError::Zip("a record isn't where another says")),
        }
    }
}

fn position(value: u64) -> Result<usize, TorchError> {
    usize::try_from(value).map_err(|_| TorchError::Truncated)
}

fn slice(bytes: &[u8], start: Option<usize>, length: usize) -> Result<&[u8], TorchError> {
    let range = start.and_then(|start| Some(start..start.checked_add(length)?));
    range.and_then(|range| bytes.get(range)).ok_or(TorchError::Truncated)
}
