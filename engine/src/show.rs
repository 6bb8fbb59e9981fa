//! `show`: one result, with its files, where they lie, and how they begin.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use palinode_cache::{Cache, CacheError, Record};
use serde::Serialize;

/// Bytes of a file that a preview reads.
const READ: u64 = 64 << 10;
const LINES: usize = 5;
const WIDTH: usize = 120;

/// A result.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// The instance.
    pub address: String,
    /// The result's record.
    pub record: Record,
    /// Its files, by port and name.
    pub files: Vec<ShownFile>,
    /// Where its log lies.
    pub log: Option<PathBuf>,
}

/// A file of a result.
#[derive(Debug, Clone, Serialize)]
pub struct ShownFile {
    /// The output port.
    pub port: String,
    /// The file's name within the port.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes lie; `None` if they are lost.
    pub path: Option<PathBuf>,
    /// How it begins, if it is text and the first such file of its port.
    pub preview: Option<Preview>,
}

/// How a file begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Its first lines, cut to a width; control characters are replaced.
    pub lines: Vec<String>,
    /// Whether there is more.
    pub more: bool,
}

/// The result `record`, which `address` has now.
///
/// # Errors
/// If the cache can't be read.
pub fn show(address: &str, record: &Record, cache: &Cache) -> Result<Shown, CacheError> {
    let mut files = Vec::new();
    for (port, tree) in &record.outputs {
        let mut previewed = false;
        for (name, entry) in &tree.0 {
            let path = cache.locate(entry)?;
            let preview = path.as_deref().filter(|_| !previewed).and_then(preview);
            previewed |= preview.is_some();
            files.push(ShownFile { port: port.clone(), name: name.clone(), size: entry.size, path, preview });
        }
    }
    Ok(Shown { address: address.to_owned(), record: record.clone(), files, log: cache.locate(&record.log)? })
}

/// The first lines of a text file; nothing for one that is empty, binary, or can't be read.
fn preview(path: &Path) -> Option<Preview> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(READ).read_to_end(&mut bytes).ok()?;
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        // A character that the limit cut in two.
        Err(error) if bytes.len() as u64 == READ && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if text.is_empty() || text.contains('\0') {
        return None;
    }
    let mut lines = text.lines();
    let first: Vec<String> = lines.by_ref().take(LINES).map(clip).collect();
    let more = lines.next().is_some() || bytes.len() as u64 == READ;
    Some(Preview { lines: first, more })
}

fn clip(line: &str) -> String {
    let visible = |c: char| match c {
        '\t' => ' ',
        // A terminal would obey it.
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let mut text: String = line.chars().take(WIDTH).map(visible).collect();
    if line.chars().nth(WIDTH).is_some() {
        text.push('\u{2026}');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(bytes: impl AsRef<[u8]>) -> Option<Preview> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, bytes).unwrap();
        preview(&path)
    }

    #[test]
    fn text_is_shown_from_its_beginning() {
        let lines = |n: usize| (0..n).map(|i| format!("line {i}")).collect::<Vec<_>>();
        assert_eq!(of("line 0\nline 1\n"), Some(Preview { lines: lines(2), more: false }));
        assert_eq!(of(lines(6).join("\n")), Some(Preview { lines: lines(5), more: true }));
        let long = of("é".repeat(WIDTH + 1)).unwrap();
        assert_eq!(long.lines[0].chars().count(), WIDTH + 1);
        assert!(long.lines[0].ends_with('…') && !long.more);
        let large = of("é".repeat(READ as usize)).unwrap();
        assert!(large.more, "cut in the middle of a character");
    }

    #[test]
    fn what_is_no_text_is_not_shown_and_a_terminal_is_not_told_what_to_do() {
        assert_eq!(of(""), None);
        assert_eq!(of(b"\x89PNG\r\n\x1a\n\0\0"), None);
        assert_eq!(of("a\0b"), None);
        assert_eq!(of("\x1b[2Jgone\tx").unwrap().lines, ["\u{fffd}[2Jgone x"]);
    }
}
