//! GPU ids, each of one stage at a time: among the stages of a run, and among the runs of a user on this machine. An id
//! is claimed by `flock` on a file of its own, so a claim dies with its process.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// The ids that a run may use, and where they are claimed.
#[derive(Debug, Clone)]
pub struct Gpus {
    ids: Vec<usize>,
    locks: Option<PathBuf>,
}

/// Some ids; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    ids: Vec<usize>,
    _files: Vec<File>,
}

impl Claim {
    /// The ids, in ascending order.
    pub fn ids(&self) -> &[usize] {
        &self.ids
    }
}

impl Gpus {
    /// The ids `ids`, claimed in the folder `locks`; without one, no other process is asked.
    pub fn new(ids: Vec<usize>, locks: Option<PathBuf>) -> Self {
        Self { ids, locks }
    }

    /// `count` free ids, or `None` if there are too few just now: all or none, so that two stages that each hold half
    /// of what they need can't wait for each other.
    ///
    /// # Errors
    /// If the lock files can't be made.
    pub fn try_claim(&self, count: usize) -> io::Result<Option<Claim>> {
        let mut claim = Claim { ids: Vec::new(), _files: Vec::new() };
        if count == 0 {
            return Ok(Some(claim));
        }
        let Some(dir) = &self.locks else {
            return Err(io::Error::other("no folder is known in which GPUs could be claimed"));
        };
        own_folder(dir)?;
        for &id in &self.ids {
            if claim.ids.len() == count {
                break;
            }
            let file = File::options().create(true).append(true).open(dir.join(format!("gpu{id}")))?;
            match file.try_lock() {
                Ok(()) => {
                    claim.ids.push(id);
                    claim._files.push(file);
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        claim.ids.sort_unstable();
        Ok((claim.ids.len() == count).then_some(claim))
    }
}

/// Makes `dir` for this user alone. In a folder that everyone may write to, someone else could have made it first.
fn own_folder(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("`{}` belongs to someone else", dir.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_stages_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        // Each as another process would.
        let gpus = || Gpus::new(vec![3, 1, 0], Some(dir.path().join("gpus")));
        let two = gpus().try_claim(2).unwrap().unwrap();
        assert_eq!(two.ids(), [1, 3]);
        assert!(gpus().try_claim(2).unwrap().is_none());
        let one = gpus().try_claim(1).unwrap().expect("what could not be claimed whole is given back");
        assert_eq!(one.ids(), [0]);
        drop(two);
        assert_eq!(gpus().try_claim(2).unwrap().unwrap().ids(), [1, 3]);
        assert_eq!(gpus().try_claim(0).unwrap().unwrap().ids(), [0; 0]);
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("gpus");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let error = Gpus::new(vec![0], Some(link)).try_claim(1).unwrap_err();
        assert!(error.to_string().ends_with("belongs to someone else"), "{error}");
    }
}
