//! A set of named files: what a stage gives at one output port, or reads from an input folder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BlobDigest, Digest, TreeDigest, encode};

/// One file of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn arbitrary() -> impl Strategy<Value = FileTree> {
        let file = (any::<[u8; 32]>(), any::<u64>());
        btree_map("[a-c]{1,2}(/[a-c]{1,2})?", file, 1..5).prop_map(|files| {
            let entry = |(blob, size)| FileEntry { blob: Digest::from_bytes(blob), size };
            FileTree(files.into_iter().map(|(name, file)| (name, entry(file))).collect())
        })
    }

    proptest! {
        #[test]
        fn names_and_contents_count(tree in arbitrary(), which: prop::sample::Index, byte in 0usize..32) {
            let name = which.get(&tree.0.keys().cloned().collect::<Vec<_>>()).clone();
            let file = tree.0[&name];

            let mut renamed = tree.clone();
            renamed.0.remove(&name);
            let mut removed = renamed.clone();
            renamed.0.insert(format!("{name}x"), file);
            prop_assert_ne!(tree.digest(), renamed.digest());
            prop_assert_ne!(tree.digest(), removed.digest());

            let mut bytes = *file.blob.as_bytes();
            bytes[byte] ^= 1;
            removed.0.insert(name.clone(), FileEntry { blob: Digest::from_bytes(bytes), size: file.size });
            prop_assert_ne!(tree.digest(), removed.digest());

            let mut added = tree.clone();
            added.0.insert("z".to_owned(), file);
            prop_assert_ne!(tree.digest(), added.digest());
        }

        #[test]
        fn json_reads_back(tree in arbitrary()) {
            let json = serde_json::to_string(&tree).unwrap();
            let again: FileTree = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(again.digest(), tree.digest());
            prop_assert_eq!(again, tree);
        }
    }

    #[test]
    fn swapped_contents_are_another_tree() {
        let [a, b] = [b"a", b"b"].map(|bytes| FileEntry { blob: Digest::of(bytes), size: 1 });
        let tree = |x, y| FileTree(BTreeMap::from([("x".to_owned(), x), ("y".to_owned(), y)]));
        assert_ne!(tree(a, b).digest(), tree(b, a).digest());
        assert_eq!(tree(a, b).size(), 2);
        assert_ne!(FileTree::default().digest(), tree(a, b).digest());
    }
}
