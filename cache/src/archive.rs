//! Archives: results with all that they were made from, in one tar file. A list of contents comes first, so that a
//! reader knows what must follow before it takes anything; then records, then blobs, each named by its digest.
//!
//! The same results give the same bytes: no times, no owners, everything in order of name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use crate::{
    Cache, CacheError, FileEntry, Record, StageKey,
    error::{io, reason},
};

/// The first entry.
pub(crate) const CONTENTS: &str = "palinode.json";
pub(crate) const FORMAT: u32 = 1;

/// What an archive holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contents {
    /// [`FORMAT`].
    pub(crate) palinode_archive: u32,
    /// What was asked for: results by address.
    pub(crate) results: BTreeMap<String, StageKey>,
    /// Size of each record's file, by key.
    pub(crate) records: BTreeMap<StageKey, u64>,
    /// Blobs by digest, with their sizes.
    pub(crate) blobs: BTreeMap<crate::BlobDigest, u64>,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Results, with those that they were made from.
    pub results: usize,
    /// Blobs.
    pub blobs: usize,
    /// Bytes of the blobs.
    pub bytes: u64,
    /// Ancestors that are left out, since their record or a blob is no longer in the cache.
    pub missing: usize,
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// What the archive was made of: results by address.
    pub asked_for: BTreeMap<String, StageKey>,
    /// Results that are new here.
    pub new: usize,
    /// Results that were here already.
    pub known: usize,
    /// Of those that were here: results whose outputs differ from the archive's. What was here first stays.
    pub differing: Vec<String>,
    /// Blobs that were read and verified.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why there is no archive, or nothing was taken from one.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive can't be read or written.
    #[error("can't {action} {}: {}", path.display(), reason(source))]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another file has the archive's name.
    #[error("{} is there already, and is no archive of results: give another name", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// The archive is not what it should be; nothing was imported.
    #[error("{} can't be imported: {problem}", path.display())]
    Refused {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A result that is to be exported is not all there.
    #[error("{address}: {problem}")]
    Incomplete {
        /// The result.
        address: String,
        /// What is missing.
        problem: String,
    },
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl Cache {
    /// Writes `results` (by address) and all that they were made from to the archive `path`, which is there whole or
    /// not at all.
    ///
    /// # Errors
    /// If one of them is not all there, or the archive can't be written.
    pub fn export(&self, results: &BTreeMap<String, StageKey>, path: &Path) -> Result<ExportReport, ArchiveError> {
        let _hold = self.hold()?;
        if !is_free(path) {
            return Err(ArchiveError::Taken { path: path.to_owned() });
        }
        let (records, missing) = self.ancestry(results)?;
        let mut contents = Contents {
            palinode_archive: FORMAT,
            results: results.clone(),
            records: BTreeMap::new(),
            blobs: BTreeMap::new(),
        };
        let mut bodies = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (record, files) in records {
            let body = record.to_bytes().map_err(|error| ArchiveError::Incomplete {
                address: record.execution.address.clone(),
                problem: error.to_string(),
            })?;
            contents.records.insert(record.key, body.len() as u64);
            bodies.insert(record.key, body);
            for (entry, place) in files {
                contents.blobs.insert(entry.blob, entry.size);
                places.insert(entry.blob, (entry, place));
            }
        }
        let failed = |source| ArchiveError::Io { action: "write", path: path.to_owned(), source };
        write(path, &contents, &bodies, &places).map_err(failed)?;
        let bytes = contents.blobs.values().sum();
        Ok(ExportReport { results: contents.records.len(), blobs: contents.blobs.len(), bytes, missing })
    }

    /// The records of `results` and of all their ancestors, each with the places of its files, and how many ancestors
    /// are not all there.
    #[expect(clippy::type_complexity, reason = "two lists that belong together, for one caller")]
    fn ancestry(
        &self,
        results: &BTreeMap<String, StageKey>,
    ) -> Result<(Vec<(Record, Vec<(FileEntry, PathBuf)>)>, usize), ArchiveError> {
        let (mut found, mut missing) = (Vec::new(), 0);
        let mut open: Vec<(StageKey, Option<&String>)> = results.iter().map(|(name, key)| (*key, Some(name))).collect();
        let mut seen: BTreeSet<StageKey> = results.values().copied().collect();
        while let Some((key, asked)) = open.pop() {
            let problem = match self.record(&key)? {
                None => "its record is not in the cache".to_owned(),
                Some(record) => {
                    let sources = record.sources.values().flatten().filter(|key| seen.insert(**key));
                    open.extend(sources.map(|key| (*key, None)));
                    match self.places_of(&record)? {
                        Ok(places) => {
                            found.push((record, places));
                            continue;
                        }
                        Err(file) => format!("`{file}` is no longer in the cache; run it again"),
                    }
                }
            };
            match asked {
                Some(address) => return Err(ArchiveError::Incomplete { address: address.clone(), problem }),
                None => missing += 1,
            }
        }
        Ok((found, missing))
    }

    /// Where the files of `record` lie, or the name of one that is lost.
    fn places_of(&self, record: &Record) -> Result<Result<Vec<(FileEntry, PathBuf)>, String>, CacheError> {
        let outputs = record.outputs.iter().flat_map(|(port, tree)| tree.0.iter().map(move |file| (port, file)));
        let outputs = outputs.map(|(port, (name, entry))| (format!("{port}/{name}"), *entry));
        let mut places = Vec::new();
        for (name, entry) in outputs.chain([("log".to_owned(), record.log)]) {
            match self.locate(&entry)? {
                Some(place) => places.push((entry, place)),
                None => return Ok(Err(name)),
            }
        }
        Ok(Ok(places))
    }
}

/// Whether an archive may be written to `path`: nothing but an older one is written over.
fn is_free(path: &Path) -> bool {
    let mut name = [0; CONTENTS.len()];
    match File::open(path) {
        Ok(mut file) => io::Read::read_exact(&mut file, &mut name).is_ok() && name == *CONTENTS.as_bytes(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn write(
    path: &Path,
    contents: &Contents,
    records: &BTreeMap<StageKey, Vec<u8>>,
    blobs: &BTreeMap<crate::BlobDigest, (FileEntry, PathBuf)>,
) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, temporary.as_file_mut()));
    let mut list = serde_json::to_vec_pretty(contents)?;
    list.push(b'\n');
    append(&mut tar, CONTENTS, list.len() as u64, list.as_slice())?;
    for (key, body) in records {
        append(&mut tar, &format!("records/{key}"), body.len() as u64, body.as_slice())?;
    }
    for (blob, (entry, place)) in blobs {
        // Of a file that is cut short meanwhile, the archive would be as well: `append` notices.
        append(&mut tar, &format!("objects/{blob}"), entry.size, File::open(place)?)?;
    }
    tar.into_inner()?.flush()?;
    temporary.as_file().sync_all()?;
    let rights = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temporary.as_file().set_permissions(rights)?;
    temporary.persist(path)?;
    Ok(())
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, size: u64, bytes: impl io::Read) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o444);
    header.set_mtime(0);
    header.set_cksum();
    let mut bytes = Counted { bytes: bytes.take(size), read: 0 };
    tar.append(&header, &mut bytes)?;
    if bytes.read == size {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} was cut short meanwhile")))
    }
}

struct Counted<R> {
    bytes: R,
    read: u64,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

/// Wraps a failure to read the archive.
pub(crate) fn unreadable(path: &Path) -> impl Fn(io::Error) -> ArchiveError + '_ {
    move |source| ArchiveError::Io { action: "read", path: path.to_owned(), source }
}

/// For `map_err` where a file of the cache fails.
pub(crate) fn cached(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let wrap = io(action, path);
    move |error| wrap(error).into()
}
