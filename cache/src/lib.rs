//! Content-addressed results: digests, keys, stores, immutable records. Knows nothing of pipelines.

mod digest;
pub mod encode;
mod key;
mod tree;

pub use digest::{Blob, BlobDigest, Digest, DigestError, DigestKind, Key, StageKey, Tree, TreeDigest};
pub use key::{KeyParts, PortContent, Row};
pub use tree::{FileEntry, FileTree};
