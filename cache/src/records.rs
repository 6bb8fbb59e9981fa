//! Records on disk: one immutable file per key, created by `link`, so the first one wins.

use std::{fs, io, path::Path};

use crate::{
    Cache, Record, RecordError, StageKey, durable,
    error::{CacheError, io},
    parse_record,
};

const ATTEMPTS: usize = 3;

/// What came of publishing a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Published {
    /// It is the record of its key now.
    New,
    /// Another one was there first, and stays.
    Existed(Box<Record>),
}

impl Cache {
    /// The record of `key`. One that is cut short or altered is set aside, and `None` given.
    ///
    /// # Errors
    /// If it can't be read, or another version wrote it.
    pub fn record(&self, key: &StageKey) -> Result<Option<Record>, CacheError> {
        let path = self.spread("records", key);
        match read(&path, key)? {
            Found::Record(record) => Ok(Some(*record)),
            Found::Nothing => Ok(None),
            Found::Damaged(error) => {
                tracing::warn!(path = %path.display(), %error, "a record is damaged; its result counts as lost");
                self.set_aside(&path, || Ok(matches!(read(&path, key)?, Found::Damaged(_))));
                Ok(None)
            }
        }
    }

    /// Publishes a record, unless its key has one. Its blobs must be in the cache by now.
    ///
    /// # Errors
    /// If it can't be written, or would not read back the same.
    pub fn publish(&self, record: &Record) -> Result<Published, CacheError> {
        self.writable()?;
        let bytes = record
            .to_bytes()
            .map_err(|source| CacheError::Record { address: record.execution.address.clone(), source })?;
        let path = self.spread("records", &record.key);
        let dir = path.parent().unwrap_or(self.root());
        durable::make_dir(dir)?;
        for _ in 0..ATTEMPTS {
            if let Some(first) = self.record(&record.key)? {
                return Ok(Published::Existed(Box::new(first)));
            }
            let file = self.temporary(&bytes)?;
            durable::read_only(file.path())?;
            durable::sync_file(file.path())?;
            if durable::link(file.path(), &path)? {
                durable::sync_dir(dir)?;
                return Ok(Published::New);
            }
        }
        // There is a damaged record that could not be set aside.
        Err(io("replace", &path)(io::ErrorKind::AlreadyExists.into()))
    }

    /// Sets a record aside: its outputs can't be had again.
    ///
    /// # Errors
    /// If the cache is read-only.
    pub fn forget(&self, key: &StageKey) -> Result<(), CacheError> {
        self.writable()?;
        let path = self.spread("records", key);
        self.set_aside(&path, || Ok(path.exists()));
        Ok(())
    }
}

enum Found {
    Record(Box<Record>),
    Nothing,
    Damaged(RecordError),
}

fn read(path: &Path, key: &StageKey) -> Result<Found, CacheError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(io("read", path)(error)),
    };
    match parse_record(&bytes) {
        Ok(record) if record.key == *key => Ok(Found::Record(Box::new(record))),
        Ok(record) => Ok(Found::Damaged(RecordError::Key { found: record.key, expected: *key })),
        Err(RecordError::Format(found)) => Err(CacheError::Format {
            path: path.to_owned(),
            found: found.to_string(),
            expected: Record::FORMAT.to_string(),
        }),
        Err(error) => Ok(Found::Damaged(error)),
    }
}
