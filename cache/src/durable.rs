//! The only place that makes bytes survive a power cut, so that syncs can later be batched in one place.
//!
//! The order is always: write under a temporary name, sync the file, give it its name, sync the folder.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io, iter,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{CacheError, io},
    failpoint,
};

/// Syncs a file's bytes.
pub(crate) fn sync_file(path: &Path) -> Result<(), CacheError> {
    failpoint::step();
    File::open(path).and_then(|file| file.sync_all()).map_err(io("sync", path))?;
    #[cfg(test)]
    journal::tell(path, journal::Op::Bytes(journal::inode(path)));
    Ok(())
}

/// Syncs the names in folders and the names of these folders in theirs.
pub(crate) fn sync_dirs<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Result<(), CacheError> {
    let dirs: BTreeSet<&Path> = dirs.into_iter().flat_map(|dir| iter::once(dir).chain(dir.parent())).collect();
    // From below: what is above is then mostly on disk already, and costs nothing.
    for dir in dirs.into_iter().rev() {
        failpoint::step();
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir))?;
        #[cfg(test)]
        journal::tell(dir, journal::Op::Names(dir.to_owned()));
    }
    Ok(())
}

/// Syncs the bytes of `blobs` and of `files`, and the names of `blobs`.
pub(crate) fn sync_batch<'a>(
    root: &Path,
    blobs: impl Iterator<Item = &'a Path>,
    files: impl Iterator<Item = &'a Path>,
) -> Result<(), CacheError> {
    let blobs: BTreeSet<&Path> = blobs.collect();
    let files: Vec<&Path> = files.collect();
    if blobs.len() + files.len() > FEW && sync_file_system(root)? {
        return Ok(());
    }
    blobs.iter().chain(&files).try_for_each(|path| sync_file(path))?;
    sync_dirs(blobs.iter().filter_map(|blob| blob.parent()))
}

/// Syncs the names of records.
pub(crate) fn sync_names(root: &Path) -> Result<(), CacheError> {
    if sync_file_system(root)? {
        return Ok(());
    }
    let records = root.join("records");
    let entries = fs::read_dir(&records).map_err(io("read the folder", &records))?;
    let dirs: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    sync_dirs(dirs.iter().map(PathBuf::as_path))
}

/// Up to so many files are synced one by one: whatever else waits to be written on this file system, which may be much,
/// need not be waited for.
const FEW: usize = 4;

/// Syncs all of the file system that `root` is on, if that is possible.
fn sync_file_system(root: &Path) -> Result<bool, CacheError> {
    #[cfg(target_os = "linux")]
    {
        failpoint::step();
        let dir = File::open(root).map_err(io("open", root))?;
        rustix::fs::syncfs(&dir).map_err(|error| io("sync", root)(error.into()))?;
        #[cfg(test)]
        journal::tell(root, journal::Op::All);
    }
    Ok(cfg!(target_os = "linux"))
}

/// Takes away every right to write.
pub(crate) fn read_only(path: &Path) -> Result<(), CacheError> {
    failpoint::step();
    fs::set_permissions(path, Permissions::from_mode(0o444)).map_err(io("change the permissions of", path))
}

/// Moves `from` to `to` unless something is there already; tells whether it did. Never replaces: whoever is reading
/// the first file would see it change under them, and with records the first must win.
pub(crate) fn move_new(from: &Path, to: &Path) -> Result<bool, CacheError> {
    failpoint::step();
    let moved = match rename_new(from, to) {
        // Not every file system can (NFS can't): then a hard link, which can't replace either.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => link_new(from, to),
        moved => moved,
    };
    match moved {
        Ok(()) => {
            #[cfg(test)]
            journal::tell(to, journal::Op::Named(journal::inode(to), to.to_owned()));
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io("create", to)(error)),
    }
}

fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
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

/// What was done in which order, for a test that replays it up to a power cut.
#[cfg(test)]
pub(crate) mod journal {
    use std::{
        os::unix::fs::MetadataExt,
        path::{Path, PathBuf},
        sync::{Mutex, PoisonError},
    };

    #[derive(Debug, Clone, PartialEq)]
    pub(crate) enum Op {
        /// The bytes of this file are complete.
        Written(u64),
        /// They are on disk.
        Bytes(u64),
        /// The file got this name.
        Named(u64, PathBuf),
        /// The names in this folder are on disk.
        Names(PathBuf),
        /// Everything is on disk.
        All,
    }

    /// The folder under which things are noted, and what.
    static NOTED: Mutex<Vec<(PathBuf, Vec<Op>)>> = Mutex::new(Vec::new());

    pub(crate) fn start(root: &Path) {
        NOTED.lock().unwrap_or_else(PoisonError::into_inner).push((root.to_owned(), Vec::new()));
    }

    pub(crate) fn stop(root: &Path) -> Vec<Op> {
        let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
        let place = noted.iter().position(|(of, _)| of == root).unwrap();
        noted.swap_remove(place).1
    }

    pub(crate) fn tell(path: &Path, op: Op) {
        let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ops)) = noted.iter_mut().find(|(root, _)| path.starts_with(root)) {
            ops.push(op);
        }
    }

    pub(crate) fn inode(path: &Path) -> u64 {
        std::fs::symlink_metadata(path).map_or(0, |meta| meta.ino())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stays() {
        let moves: [fn(&Path, &Path) -> io::Result<()>; 2] = [rename_new, link_new];
        for move_new in moves {
            let dir = tempfile::tempdir().unwrap();
            let [a, b, to] = ["a", "b", "to"].map(|name| dir.path().join(name));
            fs::write(&a, "a").unwrap();
            fs::write(&b, "b").unwrap();
            move_new(&a, &to).unwrap();
            assert_eq!(move_new(&b, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&to).unwrap(), b"a");
            assert!(!a.exists() && b.exists());
        }
        let dir = tempfile::tempdir().unwrap();
        let error = move_new(&dir.path().join("none"), &dir.path().join("to")).unwrap_err().to_string();
        assert!(error.starts_with("can't create") && error.ends_with("to: no such file or folder"), "{error}");
    }
}
