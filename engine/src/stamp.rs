//! The stamp inside a published figure: what it is, which blob it was made from, and the whole lineage behind it.
//! SVG: a `<metadata id="palinode">` element right after the opening `<svg>` tag. PNG: an `iTXt` chunk right after
//! `IHDR`. Reading a stamp takes the file's bytes alone, so it works on a file that was mailed and renamed.
//!
//! A stamp notices every changed byte, its own included, but it is no signature: whoever forges a stamp on purpose
//! can. Against that, the lineage's digests can be compared with a cache.

use std::io::{Read as _, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use palinode_cache::{BlobDigest, Digest, DigestKind, StageKey};
use serde::{Deserialize, Serialize};

use crate::lineage::Lineage;

/// What a stamp's own digest is of.
#[derive(Debug)]
pub enum Seal {}

impl DigestKind for Seal {
    const CONTEXT: Option<&'static str> = Some("palinode 2026 stamp v1");
}

/// What is written into a published figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// The version of Palinode that published the file.
    pub palinode: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The instance that made it.
    pub address: String,
    /// The output port and file name there.
    pub file: String,
    /// The key of the result.
    pub key: StageKey,
    /// Digest of the file without the stamp.
    pub blob: BlobDigest,
    /// The [`Lineage`]: JSON, deflated, base64.
    pub lineage: String,
    /// Digest of all the above.
    pub seal: Digest<Seal>,
}

/// A figure format that can hold a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Scalable Vector Graphics.
    Svg,
    /// Portable Network Graphics.
    Png,
}

/// A file that can't be stamped, or a stamp that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// Neither SVG nor PNG.
    #[error("neither an SVG nor a PNG file")]
    Format,
    /// No stamp where one would be.
    #[error("no stamp can be read")]
    Missing,
    /// There is a stamp, but it doesn't parse.
    #[error("its stamp can't be read: {0}")]
    Unreadable(String),
    /// The stamp was changed.
    #[error("its stamp was changed")]
    Seal,
    /// The bytes beside the stamp were changed.
    #[error("its content was changed: it is {actual:?}, and was {stamped:?} when it was stamped")]
    Content {
        /// The digest that the stamp holds.
        stamped: BlobDigest,
        /// The digest of the bytes now.
        actual: BlobDigest,
    },
    /// All parts agree, but they are not laid out as they were written.
    #[error("the file was rewritten around its stamp")]
    Layout,
}

impl Stamp {
    /// A sealed stamp.
    pub fn new(pipeline: &str, address: &str, file: &str, key: StageKey, blob: BlobDigest, lineage: &Lineage) -> Self {
        let mut stamp = Self {
            palinode: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: pipeline.to_owned(),
            address: address.to_owned(),
            file: file.to_owned(),
            key,
            blob,
            lineage: pack(lineage),
            seal: Digest::from_bytes([0; 32]),
        };
        stamp.seal = stamp.sealed();
        stamp
    }

    /// The lineage.
    ///
    /// # Errors
    /// If it doesn't unpack.
    pub fn lineage(&self) -> Result<Lineage, StampError> {
        let unreadable = |error: &dyn std::fmt::Display| StampError::Unreadable(error.to_string());
        let packed = BASE64_STANDARD.decode(&self.lineage).map_err(|e| unreadable(&e))?;
        let mut json = Vec::new();
        // A figure with a million rows behind it stays far below; a zip bomb doesn't.
        ZlibDecoder::new(packed.as_slice()).take(1 << 28).read_to_end(&mut json).map_err(|e| unreadable(&e))?;
        serde_json::from_slice(&json).map_err(|e| unreadable(&e))
    }

    fn sealed(&self) -> Digest<Seal> {
        Digest::of(Self { seal: Digest::from_bytes([0; 32]), ..self.clone() }.json().as_bytes())
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and digests")
    }
}

fn pack(lineage: &Lineage) -> String {
    let json = serde_json::to_vec(lineage).expect("a lineage has string keys and finite numbers");
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let packed = encoder.write_all(&json).and_then(|()| encoder.finish());
    BASE64_STANDARD.encode(packed.expect("writing to memory succeeds"))
}

/// The format of `bytes`, if it can hold a stamp.
pub fn format(bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(PNG) {
        return Some(Format::Png);
    }
    after_svg_tag(bytes).map(|_| Format::Svg)
}

/// `bytes` with `stamp` in it.
///
/// # Errors
/// If it is no SVG or PNG file.
pub fn stamp(bytes: &[u8], stamp: &Stamp) -> Result<Vec<u8>, StampError> {
    let (at, element) = match format(bytes).ok_or(StampError::Format)? {
        Format::Svg => (after_svg_tag(bytes).ok_or(StampError::Format)?, svg_element(stamp)),
        Format::Png if bytes.len() >= AFTER_IHDR => (AFTER_IHDR, png_chunk(stamp)),
        Format::Png => return Err(StampError::Format),
    };
    Ok([&bytes[..at], &element, &bytes[at..]].concat())
}

/// Reads a stamp, whether or not it is still true, and gives the bytes beside it.
///
/// # Errors
/// If there is none, or it doesn't parse.
pub fn read(bytes: &[u8]) -> Result<(Stamp, Vec<u8>), StampError> {
    let (at, length, json) = match format(bytes).ok_or(StampError::Format)? {
        Format::Svg => find_svg(bytes),
        Format::Png => find_png(bytes),
    }?;
    let stamp = serde_json::from_str(&json).map_err(|error| StampError::Unreadable(error.to_string()))?;
    Ok((stamp, [&bytes[..at], &bytes[at + length..]].concat()))
}

/// Reads a stamp and checks it against the file: `Ok` only if every byte is as it was written.
///
/// # Errors
/// What is wrong; with the stamp, if one could be read.
pub fn check(bytes: &[u8]) -> Result<Stamp, (StampError, Option<Box<Stamp>>)> {
    let (found, rest) = read(bytes).map_err(|error| (error, None))?;
    let actual = BlobDigest::of(&rest);
    let error = if found.seal != found.sealed() {
        StampError::Seal
    } else if actual != found.blob {
        StampError::Content { stamped: found.blob, actual }
    } else if stamp(&rest, &found).ok().as_deref() != Some(bytes) {
        StampError::Layout
    } else {
        return Ok(found);
    };
    Err((error, Some(Box::new(found))))
}

const OPEN: &[u8] = b"<metadata id=\"palinode\">";
const CLOSE: &[u8] = b"</metadata>";

fn svg_element(stamp: &Stamp) -> Vec<u8> {
    let json = stamp.json().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    [OPEN, json.as_bytes(), CLOSE].concat()
}

fn find_svg(bytes: &[u8]) -> Result<(usize, usize, String), StampError> {
    let at = after_svg_tag(bytes).ok_or(StampError::Missing)?;
    let body = bytes[at..].strip_prefix(OPEN).ok_or(StampError::Missing)?;
    let end = find(body, CLOSE).ok_or(StampError::Missing)?;
    let text = std::str::from_utf8(&body[..end]).map_err(|error| StampError::Unreadable(error.to_string()))?;
    let json = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    Ok((at, OPEN.len() + end + CLOSE.len(), json))
}

/// Where the content of the root element `<svg ...>` begins.
fn after_svg_tag(bytes: &[u8]) -> Option<usize> {
    let mut at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    loop {
        at += bytes[at..].iter().position(|b| !b.is_ascii_whitespace())?;
        let rest = &bytes[at..];
        let skip: &[u8] = match rest {
            [b'<', b'?', ..] => b"?>",
            [b'<', b'!', b'-', b'-', ..] => b"-->",
            [b'<', b'!', ..] => b">",
            _ => break,
        };
        at += find(rest, skip)? + skip.len();
    }
    let tag = bytes[at..].strip_prefix(b"<svg")?;
    let mut quote = None;
    for (i, &byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'>') if i > 0 && tag[i - 1] == b'/' => return None,
            (None, b'>') => return Some(at + 4 + i + 1),
            (Some(open), _) if open == byte => quote = None,
            (None, _) if i == 0 && !byte.is_ascii_whitespace() => return None,
            _ => {}
        }
    }
    None
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Signature, then the `IHDR` chunk: length, type, 13 bytes, CRC.
const AFTER_IHDR: usize = 8 + 4 + 4 + 13 + 4;
/// Keyword, no compression, no language, no translated keyword.
const ITXT: &[u8] = b"palinode\0\0\0\0\0";

fn png_chunk(stamp: &Stamp) -> Vec<u8> {
    let data = [b"iTXt", ITXT, stamp.json().as_bytes()].concat();
    let length = u32::try_from(data.len() - 4).expect("a stamp is far below 4 GiB");
    [&length.to_be_bytes()[..], &data, &crc32fast::hash(&data).to_be_bytes()].concat()
}

fn find_png(bytes: &[u8]) -> Result<(usize, usize, String), StampError> {
    let chunk = bytes.get(AFTER_IHDR..).ok_or(StampError::Missing)?;
    let length = chunk.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize).ok_or(StampError::Missing)?;
    let data = chunk.get(4..8 + length).and_then(|data| data.strip_prefix(b"iTXt")).ok_or(StampError::Missing)?;
    let text = data.strip_prefix(ITXT).ok_or(StampError::Missing)?;
    if chunk.len() < 12 + length {
        return Err(StampError::Missing);
    }
    let json = std::str::from_utf8(text).map_err(|error| StampError::Unreadable(error.to_string()))?;
    Ok((AFTER_IHDR, 12 + length, json.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SVG: &str =
        "<?xml version=\"1.0\"?>\n<!-- <svg> -->\n<svg viewBox=\"0 0 9 9\" data-x='a>b'>\n<circle r=\"2\"/>\n</svg>\n";

    fn png() -> Vec<u8> {
        let chunk = |kind: &[u8], data: &[u8]| {
            let body = [kind, data].concat();
            [&u32::try_from(data.len()).unwrap().to_be_bytes()[..], &body, &crc32fast::hash(&body).to_be_bytes()]
                .concat()
        };
        let header = [0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0];
        [PNG.to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[1, 2, 3]), chunk(b"IEND", &[])].concat()
    }

    fn stamped(bytes: &[u8]) -> Vec<u8> {
        let lineage = Lineage::default();
        let made = Stamp::new(
            "a < b & c",
            "figure[x=\"é\"]",
            "figure/figure.svg",
            StageKey::of(b"k"),
            BlobDigest::of(bytes),
            &lineage,
        );
        stamp(bytes, &made).unwrap()
    }

    #[test]
    fn a_stamped_file_checks_and_gives_the_blob_back() {
        for bytes in [SVG.as_bytes().to_vec(), png()] {
            let file = stamped(&bytes);
            let stamp = check(&file).unwrap();
            assert_eq!(stamp.pipeline, "a < b & c");
            assert_eq!(stamp.lineage().unwrap(), Lineage::default());
            assert_eq!(read(&file).unwrap().1, bytes);
        }
    }

    #[test]
    fn what_cannot_be_stamped_is_refused() {
        for bytes in ["", "<html/>", "<svg/>", "<svgx></svgx>", "<svg", "<!-- <svg> "] {
            assert_eq!(format(bytes.as_bytes()), None, "{bytes}");
        }
        assert_eq!(check(SVG.as_bytes()).unwrap_err(), (StampError::Missing, None));
        assert_eq!(check(&png()).unwrap_err(), (StampError::Missing, None));
        assert_eq!(check(PNG).unwrap_err(), (StampError::Missing, None));
    }

    #[test]
    fn the_seal_covers_the_stamp() {
        let file = stamped(SVG.as_bytes());
        let forged = String::from_utf8(file).unwrap().replace("figure.svg", "figurf.svg").into_bytes();
        assert_eq!(check(&forged).unwrap_err().0, StampError::Seal);
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1u8..=255, svg in any::<bool>()) {
            let mut file = stamped(&if svg { SVG.as_bytes().to_vec() } else { png() });
            prop_assert!(check(&file).is_ok());
            let at = at.index(file.len());
            file[at] ^= flip;
            prop_assert!(check(&file).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0..3) {
            let head: &[u8] = match kind { 0 => b"", 1 => PNG, _ => b"<svg>" };
            let _ = check(&[head, &bytes].concat());
        }
    }
}
