//! The record of a result: what it is a result of, what came out, and who made it where. Immutable once published.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, FileEntry, FileTree, KeyParts, StageKey, digest::RecordBytes};

/// The truth about one result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`Record::FORMAT`].
    pub format: u32,
    /// The identity of the result; equals `parts.key()`.
    pub key: StageKey,
    /// What the key is made of.
    pub parts: KeyParts,
    /// The results that the inputs came from, by input port; what `audit` walks.
    pub sources: BTreeMap<String, Vec<StageKey>>,
    /// What came out, by output port.
    pub outputs: BTreeMap<String, FileTree>,
    /// Small facts that the stage told.
    pub summary: BTreeMap<String, Value>,
    /// The stage's log.
    pub log: FileEntry,
    /// Who made it where; not part of any key.
    pub execution: Execution,
}

/// Who made a result where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Execution {
    /// Name of the machine.
    pub host: String,
    /// Operating system.
    pub os: String,
    /// Instruction set.
    pub arch: String,
    /// Version of palinode.
    pub palinode: String,
    /// State of the git checkout, if known: commit, and whether it was modified.
    pub git: Option<String>,
    /// What the kind promised about its bytes.
    pub determinism: String,
    /// What computed.
    pub device: String,
    /// When.
    pub started: jiff::Timestamp,
    /// How long.
    pub seconds: f64,
    /// Peak memory of the process, if known.
    pub peak_memory_mib: Option<u64>,
    /// Where each external file lay, by param.
    pub places: BTreeMap<String, String>,
    /// The address under which it was made.
    pub address: String,
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Cut short, or not one of our files.
    #[error("it is cut short, or no record at all")]
    Shape,
    /// Altered.
    #[error("its bytes don't match their checksum")]
    Checksum,
    /// Not decodable.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Another version wrote it.
    #[error("it has format {0}, which this version of palinode does not read")]
    Format(u32),
    /// Its parts give another key.
    #[error("its key is {found}, but its parts give {expected}")]
    Key {
        /// The key it tells.
        found: StageKey,
        /// The key of its parts.
        expected: StageKey,
    },
}

// The file is one JSON object whose first field is the checksum of the second's bytes, in a fixed shape, so that the
// checksum is over bytes and not over one of the many ways to write a value.
const HEAD: &[u8] = b"{\"checksum\":\"";
const MIDDLE: &[u8] = b"\",\n\"record\":";
const TAIL: &[u8] = b"}\n";

impl Record {
    /// The format that this version writes and reads.
    pub const FORMAT: u32 = 1;

    /// The bytes of the record's file.
    ///
    /// # Errors
    /// If [`parse_record`] would refuse them: a wrong key, a number that isn't finite, values nested too deep.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        let body = serde_json::to_vec_pretty(self)?;
        let checksum = Digest::<RecordBytes>::of(&body).hex();
        let bytes = [HEAD, checksum.as_bytes(), MIDDLE, &body, TAIL].concat();
        parse_record(&bytes)?;
        Ok(bytes)
    }
}

/// Reads a record's file. Takes any bytes.
///
/// # Errors
/// If they are not a whole, unaltered record of this format.
pub fn parse_record(bytes: &[u8]) -> Result<Record, RecordError> {
    let rest = bytes.strip_prefix(HEAD).ok_or(RecordError::Shape)?;
    let (checksum, rest) = rest.split_at_checked(64).ok_or(RecordError::Shape)?;
    let rest = rest.strip_prefix(MIDDLE).ok_or(RecordError::Shape)?;
    let body = rest.strip_suffix(TAIL).ok_or(RecordError::Shape)?;
    if Digest::<RecordBytes>::of(body).hex().as_bytes() != checksum {
        return Err(RecordError::Checksum);
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(body)?;
    if format != Record::FORMAT {
        return Err(RecordError::Format(format));
    }
    let record: Record = serde_json::from_slice(body)?;
    let expected = record.parts.key();
    if record.key != expected {
        return Err(RecordError::Key { found: record.key, expected });
    }
    Ok(record)
}
