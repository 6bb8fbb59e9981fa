//! What planning needs of a result: its record, without what explains and proves it. Found through an index by the
//! stat of the record's file, so that a plan opens no record whose file is as it was.

use std::{fs, io, path::Path, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    Cache, CacheError, FileEntry, FileTree, Record, StageKey, TreeDigest,
    error::io,
    stat::{self, Stat},
};

/// The outcome of a recorded result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredResult {
    /// Its identity.
    pub key: StageKey,
    /// What came out, by name of the port. Told as in a record.
    #[serde(serialize_with = "by_port")]
    pub outputs: Vec<StoredOutput>,
    /// The stage's log.
    pub log: FileEntry,
    /// How long it took.
    pub seconds: f64,
}

/// One output of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredOutput {
    /// The port.
    pub port: Box<str>,
    /// The identity of its files.
    pub tree: TreeDigest,
    /// Its files, by name.
    pub files: Box<[(Box<str>, FileEntry)]>,
}

fn by_port<S: Serializer>(outputs: &[StoredOutput], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(outputs.iter().map(|output| (&output.port, output.tree())))
}

/// A file of a result: the port (none for the log), its name, and what it holds.
pub type StoredFile<'a> = (Option<&'a str>, &'a str, FileEntry);

impl StoredResult {
    /// The output at `port`.
    pub fn output(&self, port: &str) -> Option<&StoredOutput> {
        self.outputs.iter().find(|output| *output.port == *port)
    }

    /// All files of the result, its log last.
    pub fn files(&self) -> impl Iterator<Item = StoredFile<'_>> {
        let outputs = self
            .outputs
            .iter()
            .flat_map(|output| output.files.iter().map(|(name, entry)| (Some(&*output.port), &**name, *entry)));
        outputs.chain([(None, "log", self.log)])
    }
}

impl StoredOutput {
    /// Its files as a tree.
    pub fn tree(&self) -> FileTree {
        FileTree(self.files.iter().map(|(name, entry)| (name.to_string(), *entry)).collect())
    }
}

impl From<&Record> for StoredResult {
    fn from(record: &Record) -> Self {
        let output = |(port, tree): (&String, &FileTree)| StoredOutput {
            port: port.as_str().into(),
            tree: tree.digest(),
            files: tree.0.iter().map(|(name, entry)| (name.as_str().into(), *entry)).collect(),
        };
        Self {
            key: record.key,
            outputs: record.outputs.iter().map(output).collect(),
            log: record.log,
            seconds: record.execution.seconds,
        }
    }
}

/// A result, and the stat of its record's file if that is yet to be remembered.
pub(crate) type Looked = (Arc<StoredResult>, Option<Stat>);

impl Cache {
    /// The result of `key`, if it is recorded. A record that is cut short or altered is set aside, and `None` given.
    ///
    /// # Errors
    /// As for [`Cache::record`].
    pub fn stored(&self, key: &StageKey) -> Result<Option<Arc<StoredResult>>, CacheError> {
        let Some((result, new)) = self.look_up(key)? else { return Ok(None) };
        if let Some(stat) = new {
            self.results().add(&[(stat, result.clone())]);
        }
        Ok(Some(result))
    }

    /// The caller adds what is new to the index.
    pub(crate) fn look_up(&self, key: &StageKey) -> Result<Option<Looked>, CacheError> {
        let path = self.spread("records", key);
        let Some(stat) = self.record_stat(&path)? else {
            return Ok(self.announced(key).map(|result| (result, None)));
        };
        if let Some(result) = self.results().get(key, &stat) {
            return Ok(Some((result, None)));
        }
        let now = stat::now();
        let Some(record) = self.record(key)? else { return Ok(None) };
        let result = Arc::new(StoredResult::from(&record));
        // The same stat before and after: the bytes in between are what it vouches for.
        let settled = !stat.racy(now, &path) && self.record_stat(&path)? == Some(stat);
        Ok(Some((result, settled.then_some(stat))))
    }

    /// The stat of a record's file; what is no regular file has the stat of nothing known.
    fn record_stat(&self, path: &Path) -> Result<Option<Stat>, CacheError> {
        match fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some(Stat::of(&meta))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(io("read", path)(error)),
        }
    }
}
