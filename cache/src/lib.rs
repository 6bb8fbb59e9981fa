//! Content-addressed results: digests, keys, blobs, immutable records. Knows nothing of pipelines.
//!
//! # What a key covers
//!
//! | part of [`KeyParts`] | covers | so that |
//! |---|---|---|
//! | `kind`, `revision` | which code, as far as its bytes differ | a fix that changes bytes reruns |
//! | `numerics` | named facts that change bytes: numerics revision, device model | |
//! | `params` | canonical params, defaults filled in, seeds among them | `k: 1` and the default are one result |
//! | `files` | content behind each path in `with`, never the path | a moved or touched file changes nothing |
//! | `inputs` | content at each port; a gather's table of coordinates | equal outputs cut a rerun off |
//!
//! Not covered: names of stages, paths, times, machines, thread counts, executors.
//!
//! # On disk
//!
//! | path | holds | if it is lost or damaged |
//! |---|---|---|
//! | `objects/ab/cdef...` | a blob by its digest, mode 0444 | noticed on read, set aside, made again |
//! | `records/ab/cdef...` | the record of a key; never replaced: the first wins | the same |
//! | `places/ab/cdef.../*` | external places of a blob; verified like blobs | the place is asked for again |
//! | `index/<host>.stat` | digests of files by their stat | files are hashed again |
//! | `index/<host>.results` | what records come to, by the stat of their files | records are read again |
//! | `pointers/*` | the keys that a pipeline's addresses had last | a miss is explained less well |
//! | `locks/*` | empty files for `flock`, one per key that is made, and `gc` | held locks lose their meaning, results don't |
//! | `checkpoints/ab/cdef.../*` | what an unfinished stage goes on from, by its key | it begins anew |
//! | `answers/*.jsonl` | what remote services answered, by request | they are asked again |
//! | `pins/*` | named roots: what garbage collection keeps | they may be collected |
//! | `tmp/<pid>-<start>-*/` | scratch folders of a live process | its stages fail |
//! | `corrupt/*` | what was set aside | |
//! | `format` | `palinode cache 1` | written again |
//!
//! Everything is written under `tmp/`, synced, and only then named, so `kill -9` at any time leaves whole files only.
#![cfg(unix)]

mod ahead;
mod answers;
mod archive;
mod aside;
mod batch;
mod blobs;
mod cache;
mod check;
mod checkpoints;
mod digest;
mod durable;
pub mod encode;
mod error;
mod external;
pub mod failpoint;
mod frames;
mod fresh;
mod gc;
mod hash;
mod hold;
mod import;
mod key;
mod locks;
mod pins;
mod places;
mod pointers;
mod record;
mod records;
mod results;
mod scratch;
mod stat;
mod stat_index;
mod stored;
#[cfg(test)]
mod testing;
mod tree;
mod usage;
mod verify;
mod walk;

pub use answers::{Answer, Answers};
pub use archive::{ArchiveError, ExportReport, ImportReport};
pub use cache::Cache;
pub use check::Checked;
pub use checkpoints::Checkpoints;
pub use digest::{Blob, BlobDigest, Digest, DigestError, DigestKind, Key, StageKey, Tree, TreeDigest};
pub use error::{CacheError, Refusal, reason};
pub use external::{External, hash_file};
pub use gc::{GcOptions, GcReport};
pub use hold::{Exclusive, Hold};
pub use key::{KeyParts, KeySketch, PortContent, Row};
pub use locks::KeyLock;
pub use pins::{Pin, PinError};
pub use record::{Execution, Record, RecordError, parse_record, seal_record};
pub use records::Published;
pub use scratch::Scratch;
pub use stored::{StoredFile, StoredOutput, StoredResult};
pub use tree::{FileEntry, FileTree};
pub use usage::{Part, Usage, Usages};
pub use verify::{Damage, VerifyProgress, VerifyReport};
