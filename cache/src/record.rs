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
    /// The most memory that the stage's own processes held, if known.
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
        let bytes = seal_record(&body);
        parse_record(&bytes)?;
        Ok(bytes)
    }
}

/// A record's file around any body whatever: with it, fuzzing gets past the checksum.
#[doc(hidden)]
pub fn seal_record(body: &[u8]) -> Vec<u8> {
    let checksum = Digest::<RecordBytes>::of(body).hex();
    [HEAD, checksum.as_bytes(), MIDDLE, body, TAIL].concat()
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::json;

    use super::*;
    use crate::testing::record;

    #[test]
    fn reads_back_and_is_one_json_object() {
        let record = record(1);
        let bytes = record.to_bytes().unwrap();
        assert_eq!(parse_record(&bytes).unwrap(), record);
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["record"]["parts"]["kind"], "generate");
        assert_eq!(value["record"]["execution"]["started"], "2026-01-02T03:04:05.678Z");
    }

    #[test]
    fn cut_short_anywhere_it_is_refused() {
        let bytes = record(1).to_bytes().unwrap();
        for len in 0..bytes.len() {
            assert!(parse_record(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
        }
    }

    #[test]
    fn altered_anywhere_it_is_refused() {
        let bytes = record(1).to_bytes().unwrap();
        for place in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[place] ^= 1;
            assert!(parse_record(&altered).is_err(), "byte {place}");
        }
    }

    #[test]
    fn what_would_not_read_back_is_not_written() {
        let mut wrong = record(1);
        wrong.key = record(2).key;
        assert!(matches!(wrong.to_bytes(), Err(RecordError::Key { .. })));

        let mut infinite = record(1);
        infinite.execution.seconds = f64::NAN;
        assert!(matches!(infinite.to_bytes(), Err(RecordError::Json(_))));

        let mut deep = record(1);
        let nested = (0..200).fold(json!(1), |inner, _| json!([inner]));
        deep.summary.insert("deep".to_owned(), nested);
        assert!(matches!(deep.to_bytes(), Err(RecordError::Json(_))));

        let mut newer = record(1);
        newer.format = 2;
        assert!(matches!(newer.to_bytes(), Err(RecordError::Format(2))));
    }

    /// The bytes of a record's file around `body`, with a right checksum.
    fn envelope(body: &[u8]) -> Vec<u8> {
        [HEAD, Digest::<RecordBytes>::of(body).hex().as_bytes(), MIDDLE, body, TAIL].concat()
    }

    #[test]
    fn unknown_fields_are_refused() {
        let mut value = serde_json::to_value(record(1)).unwrap();
        value["more"] = json!(1);
        let error = parse_record(&envelope(value.to_string().as_bytes())).unwrap_err();
        assert!(error.to_string().starts_with("unknown field `more`"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..400)) {
            prop_assert!(parse_record(&bytes).is_err());
            prop_assert!(parse_record(&[HEAD, &bytes].concat()).is_err());
            prop_assert!(parse_record(&envelope(&bytes)).is_err());
        }

        #[test]
        fn any_summary_reads_back(facts in proptest::collection::btree_map("[a-z]{1,3}", -1e3..1e3f64, 0..6)) {
            let mut record = record(1);
            record.execution.seconds = facts.values().sum();
            record.summary = facts.into_iter().map(|(name, value)| (name, json!(value))).collect();
            prop_assert_eq!(parse_record(&record.to_bytes().unwrap()).unwrap(), record);
        }
    }
}
