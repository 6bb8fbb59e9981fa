//! What a failed stage left: kept for a look, never part of a result.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use palinode_cache::{Digest, Scratch};

use super::Task;
use crate::stage_log::StageLog;

impl Task {
    /// Keeps what a failed stage left, in place of what it left the last time.
    pub(super) fn keep(&self, scratch: &Scratch, log: &StageLog, message: &str) -> io::Result<PathBuf> {
        let dir = failed_dir(self.cache.root(), &self.address);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&dir)?,
        }
        fs::write(dir.join("log"), format!("{}{}: failed: {message}\n", log.text(), self.address))?;
        let out = scratch.path().join("out");
        if out.is_dir() {
            fs::rename(out, dir.join("out"))?;
        }
        Ok(dir)
    }
}

/// Where the log (`log`) and the partial outputs (`out/`) of the last failure at `address` are.
pub fn failed_dir(root: &Path, address: &str) -> PathBuf {
    root.join("failed").join(Digest::<palinode_cache::Blob>::of(address.as_bytes()).short())
}
