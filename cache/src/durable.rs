//! The only place that makes bytes survive a power cut, so that syncs can later be batched in one place.
//!
//! The order is always: write under a temporary name, sync the file, give it its name, sync the folder.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::error::{CacheError, io};

/// Syncs a file's bytes.
pub(crate) fn sync_file(path: &Path) -> Result<(), CacheError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io("sync", path))
}

/// Syncs the names in a folder.
pub(crate) fn sync_dir(path: &Path) -> Result<(), CacheError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io("sync", path))
}

/// Takes away every right to write.
pub(crate) fn read_only(path: &Path) -> Result<(), CacheError> {
    fs::set_permissions(path, Permissions::from_mode(0o444)).map_err(io("change the permissions of", path))
}

/// Makes a folder and, if it is new, the name of it durable.
pub(crate) fn make_dir(path: &Path) -> Result<(), CacheError> {
    match fs::create_dir(path) {
        Ok(()) => match path.parent() {
            Some(parent) => sync_dir(parent),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(io("make the folder", path))
        }
        Err(error) => Err(io("make the folder", path)(error)),
    }
}

/// Gives `from` the name `to` unless something has it already; tells whether it did. `from` may remain.
pub(crate) fn link(from: &Path, to: &Path) -> Result<bool, CacheError> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        // File systems without hard links (FAT, some FUSE) may still rename without overwriting.
        Err(error) => match rename_new(from, to) {
            Ok(()) => Ok(true),
            Err(second) if second.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(_) => Err(io("create", to)(error)),
        },
    }
}

#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(target_os = "linux"))]
fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
