//! How many files of which kind there are, and how large they are.

use std::{collections::BTreeMap, fs, ops::AddAssign, path::Path};

use serde::Serialize;

use crate::{CacheError, walk::entries};

/// What a file of a cache belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Records of results.
    Records,
    /// The bytes of outputs and logs.
    Blobs,
    /// Notes of where large external files lie; never the files.
    Places,
    /// Logs of runs.
    Runs,
    /// What failed stages left.
    Failures,
    /// What unfinished stages go on from.
    Checkpoints,
    /// What remote services answered.
    Answers,
    /// Damaged and replaced files that were set aside.
    Aside,
}

impl Part {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Records => "results",
            Self::Blobs => "blobs",
            Self::Places => "places of external files",
            Self::Runs => "logs of runs",
            Self::Failures => "leftovers of failed stages",
            Self::Checkpoints => "checkpoints of unfinished stages",
            Self::Answers => "answers of remote services",
            Self::Aside => "files set aside",
        }
    }
}

/// Files and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// How many.
    pub files: u64,
    /// How many bytes they hold.
    pub bytes: u64,
}

impl Usage {
    /// One file.
    pub fn file(bytes: u64) -> Self {
        Self { files: 1, bytes }
    }

    /// All files below `path`, or `path` itself.
    ///
    /// # Errors
    /// If a folder can't be read.
    pub fn of(path: &Path) -> Result<Self, CacheError> {
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.is_dir() => return Ok(Self::file(meta.len())),
            // What vanished takes no room.
            Err(_) => return Ok(Self::default()),
            Ok(_) => {}
        }
        let mut usage = Self::default();
        for entry in entries(path)? {
            usage += Self::of(&entry.path())?;
        }
        Ok(usage)
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// [`Usage`] by [`Part`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Usages(pub BTreeMap<Part, Usage>);

impl Usages {
    /// Adds `usage` to `part`.
    pub fn add(&mut self, part: Part, usage: Usage) {
        if usage.files > 0 {
            *self.0.entry(part).or_default() += usage;
        }
    }

    /// All parts together.
    pub fn total(&self) -> Usage {
        let mut total = Usage::default();
        self.0.values().for_each(|usage| total += *usage);
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_counted_to_their_ends() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/c"), "12345").unwrap();
        fs::write(dir.path().join("d"), "678").unwrap();
        // A link counts by itself: what it leads to is not in the folder.
        std::os::unix::fs::symlink("/", dir.path().join("e")).unwrap();
        assert_eq!(Usage::of(dir.path()).unwrap(), Usage { files: 3, bytes: 9 });
        assert_eq!(Usage::of(&dir.path().join("none")).unwrap(), Usage::default());
        let mut all = Usages::default();
        all.add(Part::Blobs, Usage::file(3));
        all.add(Part::Blobs, Usage::file(4));
        all.add(Part::Runs, Usage::file(1));
        all.add(Part::Aside, Usage::default());
        assert_eq!(
            serde_json::to_string(&all).unwrap(),
            r#"{"blobs":{"files":2,"bytes":7},"runs":{"files":1,"bytes":1}}"#
        );
        assert_eq!(all.total(), Usage { files: 3, bytes: 8 });
    }
}
