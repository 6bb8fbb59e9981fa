//! Taking an archive in: all of it is read and verified before anything is taken, since it may come from anyone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, Read, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    ArchiveError, Blob, BlobDigest, Cache, Digest, ImportReport, Key, Published, Record, Scratch, StageKey,
    archive::{CONTENTS, Contents, FORMAT, cached, unreadable},
    parse_record,
};

/// A record larger than this is none.
const RECORD_LIMIT: u64 = 64 << 20;
const CONTENTS_LIMIT: u64 = 256 << 20;

impl Cache {
    /// Takes in the results of the archive `path`: all of them, or none if anything about it is wrong.
    ///
    /// # Errors
    /// If the archive can't be read, holds anything but what its list says, or a digest doesn't fit.
    pub fn import(&self, path: &Path) -> Result<ImportReport, ArchiveError> {
        self.writable()?;
        let _hold = self.hold()?;
        let scratch = self.scratch()?;
        let archive = Archive::read(path, &scratch)?;
        let order = archive.order();
        archive.check(self)?;

        // From here on only the disk can fail; blobs come before records and ancestors before what is made of them,
        // so that each result that is there is there whole.
        let paths: Vec<PathBuf> = archive.blobs.keys().map(|blob| scratch.path().join(blob.hex())).collect();
        self.put_files(&paths)?;
        let mut report = ImportReport {
            asked_for: archive.contents.results.clone(),
            new: 0,
            known: 0,
            differing: Vec::new(),
            blobs: archive.blobs.len(),
            bytes: archive.blobs.values().sum(),
        };
        for key in order {
            let record = &archive.records[&key];
            match self.publish(record)? {
                Published::New => report.new += 1,
                Published::Existed(here) => {
                    report.known += 1;
                    if here.outputs != record.outputs {
                        report.differing.push(record.execution.address.clone());
                    }
                }
            }
        }
        Ok(report)
    }
}

/// An archive that was read: its blobs lie in the scratch folder, named by their digests.
struct Archive<'p> {
    path: &'p Path,
    contents: Contents,
    records: BTreeMap<StageKey, Record>,
    blobs: BTreeMap<BlobDigest, u64>,
}

enum Name {
    Record(StageKey),
    Blob(BlobDigest),
}

impl<'p> Archive<'p> {
    fn read(path: &'p Path, scratch: &Scratch) -> Result<Self, ArchiveError> {
        let file = File::open(path).map_err(unreadable(path))?;
        let meta = file.metadata().map_err(unreadable(path))?;
        if !meta.is_file() {
            return Err(refuse(path, "it is not a file"));
        }
        let mut tar = tar::Archive::new(BufReader::with_capacity(1 << 20, file));
        // Raw: extensions of the format (long names, links, sparse files) have no place here, and are refused below.
        let entries = tar.entries().map_err(unreadable(path))?.raw(true);
        let mut archive: Option<Self> = None;
        for entry in entries {
            let mut entry = entry.map_err(|error| refuse(path, format!("it is no sound tar file: {error}")))?;
            let header = entry.header();
            let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            if !matches!(header.as_bytes()[156], b'0' | 0) {
                return Err(refuse(path, format!("`{}` is not a plain file", shown(&name))));
            }
            let size = header.size().map_err(|error| refuse(path, format!("`{}`: {error}", shown(&name))))?;
            match &mut archive {
                None if name == CONTENTS => {
                    let contents = contents(path, size, meta.len(), &mut entry)?;
                    archive = Some(Self { path, contents, records: BTreeMap::new(), blobs: BTreeMap::new() });
                }
                None => return Err(refuse(path, format!("it does not begin with `{CONTENTS}`: is it an export?"))),
                Some(archive) => archive.member(&name, size, &mut entry, scratch)?,
            }
        }
        let archive = archive.ok_or_else(|| refuse(path, "it is empty"))?;
        archive.complete()?;
        Ok(archive)
    }

    fn member(&mut self, name: &str, size: u64, bytes: &mut impl Read, scratch: &Scratch) -> Result<(), ArchiveError> {
        let listed = match parse(name) {
            Some(Name::Record(key)) => self.contents.records.get(&key),
            Some(Name::Blob(blob)) => self.contents.blobs.get(&blob),
            None => None,
        };
        let refuse = |problem: &str| refuse(self.path, format!("`{}` {problem}", shown(name)));
        match listed {
            None => return Err(refuse("is not in its list of contents")),
            Some(listed) if *listed != size => return Err(refuse("has another size than its list of contents says")),
            Some(_) => {}
        }
        match parse(name) {
            Some(Name::Record(key)) => {
                let mut body = Vec::new();
                bytes.read_to_end(&mut body).map_err(unreadable(self.path))?;
                let record = parse_record(&body).map_err(|error| refuse(&format!("is no sound record: {error}")))?;
                if record.key != key {
                    return Err(refuse("holds the record of another key"));
                }
                safe_names(&record).map_err(|problem| refuse(&problem))?;
                if self.records.insert(key, record).is_some() {
                    return Err(refuse("is there twice"));
                }
            }
            Some(Name::Blob(blob)) => {
                if self.blobs.contains_key(&blob) {
                    return Err(refuse("is there twice"));
                }
                let to = scratch.path().join(blob.hex());
                if copy(self.path, bytes, &to)? != (blob, size) {
                    return Err(refuse("does not hold the bytes of its name: the archive is damaged or cut short"));
                }
                self.blobs.insert(blob, size);
            }
            None => {}
        }
        Ok(())
    }

    /// Nothing that is listed is missing.
    fn complete(&self) -> Result<(), ArchiveError> {
        let records = self.contents.records.keys().find(|key| !self.records.contains_key(key));
        let blobs = self.contents.blobs.keys().find(|blob| !self.blobs.contains_key(blob));
        let missing = records.map(|key| format!("records/{key}")).or(blobs.map(|blob| format!("objects/{blob}")));
        match missing {
            Some(name) => Err(refuse(self.path, format!("`{name}` is missing: the archive is cut short"))),
            None => Ok(()),
        }
    }

    /// Each result has its blobs, each blob its result, and what was asked for is there.
    fn check(&self, cache: &Cache) -> Result<(), ArchiveError> {
        let mut needed = BTreeSet::new();
        for record in self.records.values() {
            let files =
                record.outputs.values().flat_map(|tree| tree.0.iter()).map(|(name, entry)| (name.as_str(), entry));
            for (name, entry) in files.chain([("log", &record.log)]) {
                let here = match self.blobs.get(&entry.blob) {
                    Some(size) => *size == entry.size,
                    None => cache.locate(entry)?.is_some(),
                };
                if !here {
                    let address = &record.execution.address;
                    return Err(refuse(self.path, format!("`{}` of {} is not in it", shown(name), shown(address))));
                }
                needed.insert(entry.blob);
            }
        }
        if let Some(blob) = self.blobs.keys().find(|blob| !needed.contains(blob)) {
            return Err(refuse(self.path, format!("`objects/{blob}` belongs to no result")));
        }
        match self.contents.results.iter().find(|(_, key)| !self.records.contains_key(key)) {
            Some((address, _)) => Err(refuse(self.path, format!("the result of {} is not in it", shown(address)))),
            None => Ok(()),
        }
    }

    /// Ancestors first. Each record is visited once, so that a forged circle does no harm.
    fn order(&self) -> Vec<StageKey> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        for root in self.records.keys() {
            let mut open = vec![(*root, false)];
            while let Some((key, left)) = open.pop() {
                if left {
                    order.push(key);
                } else if let Some(record) = self.records.get(&key).filter(|_| seen.insert(key)) {
                    open.push((key, true));
                    open.extend(record.sources.values().flatten().map(|source| (*source, false)));
                }
            }
        }
        order
    }
}

fn refuse(path: &Path, problem: impl Into<String>) -> ArchiveError {
    ArchiveError::Refused { path: path.to_owned(), problem: problem.into() }
}

/// The list of contents; it can promise no more than the archive has room for.
fn contents(path: &Path, size: u64, archive: u64, bytes: &mut impl Read) -> Result<Contents, ArchiveError> {
    if size > CONTENTS_LIMIT.min(archive) {
        return Err(refuse(path, format!("its list of contents claims {size} bytes")));
    }
    let mut text = Vec::new();
    bytes.read_to_end(&mut text).map_err(unreadable(path))?;
    #[derive(serde::Deserialize)]
    struct Format {
        palinode_archive: u32,
    }
    let unfit = |error: serde_json::Error| refuse(path, format!("its list of contents can't be read: {error}"));
    let Format { palinode_archive: format } = serde_json::from_slice(&text).map_err(unfit)?;
    if format != FORMAT {
        return Err(refuse(path, format!("it has format {format}, this version of palinode reads {FORMAT}")));
    }
    let contents: Contents = serde_json::from_slice(&text).map_err(unfit)?;
    if let Some((key, size)) = contents.records.iter().find(|(_, size)| **size > RECORD_LIMIT) {
        return Err(refuse(path, format!("`records/{key}` claims {size} bytes")));
    }
    let promised =
        contents.records.values().chain(contents.blobs.values()).try_fold(0u64, |sum, size| sum.checked_add(*size));
    match promised {
        Some(promised) if promised <= archive => Ok(contents),
        _ => Err(refuse(path, "its list of contents promises more bytes than it has: the archive is cut short")),
    }
}

fn parse(name: &str) -> Option<Name> {
    match name.split_once('/')? {
        ("records", key) => key.parse::<Digest<Key>>().ok().map(Name::Record),
        ("objects", blob) => blob.parse::<Digest<Blob>>().ok().map(Name::Blob),
        _ => None,
    }
}

/// Names of outputs become names of files: none may lead out of its folder.
fn safe_names(record: &Record) -> Result<(), String> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\\']);
    for (port, tree) in &record.outputs {
        if !plain(port) || port.contains('/') {
            return Err(format!("has an output with the name `{}`", shown(port)));
        }
        if let Some(name) = tree.0.keys().find(|name| !name.split('/').all(plain)) {
            return Err(format!("has an output file with the name `{}`", shown(name)));
        }
    }
    Ok(())
}

/// Copies and hashes.
fn copy(archive: &Path, bytes: &mut impl Read, to: &Path) -> Result<(BlobDigest, u64), ArchiveError> {
    let mut file = File::create_new(to).map_err(cached("create", to))?;
    let mut hasher = Digest::<Blob>::hasher();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = bytes.read(&mut buffer).map_err(unreadable(archive))?;
        if read == 0 {
            return Ok((Digest::finish(&hasher), size));
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(cached("write", to))?;
        size += read as u64;
    }
}

/// A name from an archive, fit for a terminal.
fn shown(name: &str) -> String {
    name.chars().take(100).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
