//! A set of named files: what a stage gives at one output port, or reads from an input folder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BlobDigest, Digest, TreeDigest, encode};

/// One file of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Digest of the bytes.
    pub blob: BlobDigest,
    /// Size in bytes.
    pub size: u64,
}

/// Files by relative path (`/` between parts, no `..`, no leading `/`), in order of path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileTree(pub BTreeMap<String, FileEntry>);

impl FileTree {
    /// The identity of this set: names and contents, not places.
    pub fn digest(&self) -> TreeDigest {
        let mut hasher = Digest::<crate::Tree>::hasher();
        encode::list(&mut hasher, self.0.len());
        for (path, file) in &self.0 {
            encode::text(&mut hasher, path);
            hasher.update(file.blob.as_bytes());
            hasher.update(&file.size.to_le_bytes());
        }
        Digest::finish(&hasher)
    }

    /// Total size in bytes.
    pub fn size(&self) -> u64 {
        self.0.values().map(|file| file.size).sum()
    }
}
