//! What can go wrong in the cache, told with the file it happened to.

use std::{io, path::PathBuf};

/// A failed operation of the cache. A blob or record that is lost or damaged is not an error: it is `None`.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The system refused.
    #[error("can't {action} {}: {}", path.display(), reason(source))]
    Io {
        /// What was tried: "read", "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The cache may be read but not written.
    #[error("the cache {} is read-only: results can be looked up in it but not added", root.display())]
    ReadOnly {
        /// The cache.
        root: PathBuf,
    },
    /// The folder named as a cache is something else.
    #[error("{} holds `{found}`, so it is not a cache: name a new or empty folder", root.display())]
    Foreign {
        /// The folder.
        root: PathBuf,
        /// What lies in it.
        found: String,
    },
    /// The cache, or a record in it, was written by another version.
    #[error("{} has format {found:?}, this version of palinode reads {expected:?}: use another cache folder", path.display())]
    Format {
        /// The cache's `format` file, or a record.
        path: PathBuf,
        /// Its format.
        found: String,
        /// Ours.
        expected: String,
    },
    /// A file can't be an input or an output.
    #[error("{}: {refusal}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// A file was written to while it was read.
    #[error("{} is being changed while it is read", path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// A record that can't be stored.
    #[error("the record of {address} can't be stored: {source}")]
    Record {
        /// Address of the instance.
        address: String,
        /// What is wrong with it.
        source: crate::RecordError,
    },
}

/// Why a file can't be an input or an output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A symlink in an output.
    #[error("is a symlink: an output holds files only")]
    Symlink,
    /// A symlink to nothing.
    #[error("is a symlink to {}, which does not exist", .0.display())]
    Dangling(PathBuf),
    /// A symlink to a folder that it lies in.
    #[error("is a symlink that leads back to {}, a folder it lies in", .0.display())]
    Cycle(PathBuf),
    /// A device, socket or pipe.
    #[error("is a {0}, not a file or folder")]
    Special(&'static str),
    /// A name that isn't text.
    #[error("its name is not valid UTF-8: rename it")]
    NotUtf8,
    /// A folder where a file is wanted.
    #[error("is a folder, not a file")]
    Folder,
}

/// Wraps an I/O error with what was tried on which path; for `map_err`.
pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.into();
    move |source| CacheError::Io { action, path, source }
}

/// Refuses `path`.
pub(crate) fn refuse(path: impl Into<PathBuf>, refusal: Refusal) -> CacheError {
    CacheError::Refused { path: path.into(), refusal }
}

/// The system's error in words that say what to do; for messages that tell the file themselves.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full; free some space, or put the cache on another disk".to_owned(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up; free some space".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        io::ErrorKind::NotFound => "no such file or folder".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_quoted_in_words() {
        let say = |kind: io::ErrorKind| io("write", "/c/a")(kind.into()).to_string();
        assert_eq!(
            say(io::ErrorKind::StorageFull),
            "can't write /c/a: the disk is full; free some space, or put the cache on another disk"
        );
        assert_eq!(say(io::ErrorKind::PermissionDenied), "can't write /c/a: permission denied");
        assert_eq!(say(io::ErrorKind::ReadOnlyFilesystem), "can't write /c/a: the file system is read-only");
        let error = CacheError::ReadOnly { root: "/c".into() };
        assert_eq!(error.to_string(), "the cache /c is read-only: results can be looked up in it but not added");
    }
}
