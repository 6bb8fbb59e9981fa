//! Texts that may be compressed.

use std::{fs, io::Read as _, path::Path};

use palinode_engine::stage::StageError;

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The text of a file, decompressed if it begins as zstd or gzip do, without a byte order mark. `name` is what messages
/// call it.
pub(crate) fn text(path: &Path, name: &str) -> Result<String, StageError> {
    let bytes = fs::read(path).map_err(StageError::io(path))?;
    let failed = |form: &str, error: &dyn std::fmt::Display| {
        StageError::failed(format!("`{name}` begins as {form} does, but can't be decompressed: {error}"))
    };
    let bytes = if bytes.starts_with(&ZSTD) {
        zstd(&bytes).map_err(|error| failed("zstd", &error))?
    } else if bytes.starts_with(&GZIP) {
        let mut plain = Vec::new();
        let read = flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain);
        read.map_err(|error| failed("gzip", &error))?;
        plain
    } else {
        bytes
    };
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
        StageError::failed(format!("`{name}` is not UTF-8 in line {line} (byte {valid}); save it as UTF-8"))
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// All frames: `zstd a b` and `cat a.zst b.zst` make several.
fn zstd(mut bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        let mut frame = ruzstd::decoding::StreamingDecoder::new(&mut bytes).map_err(|error| error.to_string())?;
        frame.read_to_end(&mut plain).map_err(|error| error.to_string())?;
    }
    Ok(plain)
}
