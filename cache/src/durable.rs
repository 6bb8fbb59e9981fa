//! The only place that makes bytes survive a power cut, so that syncs can later be batched in one place.
//!
//! The order is always: write under a temporary name, sync the file, give it its name, sync the folder.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io, iter,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::{
    error::{CacheError, io},
    failpoint,
};

/// Syncs a file's bytes.
pub(crate) fn sync_file(path: &Path) -> Result<(), CacheError> {
    failpoint::step();
    File::open(path).and_then(|file| file.sync_all()).map_err(io("sync", path))
}

/// Syncs the names in folders and the names of these folders in theirs.
pub(crate) fn sync_dirs<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Result<(), CacheError> {
    let dirs: BTreeSet<&Path> = dirs.into_iter().flat_map(|dir| iter::once(dir).chain(dir.parent())).collect();
    // From below: what is above is then mostly on disk already, and costs nothing.
    for dir in dirs.into_iter().rev() {
        failpoint::step();
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir))?;
    }
    Ok(())
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
        Ok(()) => Ok(true),
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
