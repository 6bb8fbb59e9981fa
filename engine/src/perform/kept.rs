//! What a failed stage left: kept for a look, never part of a result.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use palinode_cache::{Digest, Scratch};

use super::{Failure, Task};
use crate::stage_log::StageLog;

/// Lines of the log that are told with a failure.
const TAIL: usize = 10;

impl Task {
    /// Keeps what a failed stage left, in place of what it left the last time.
    /// `printed` is what its process printed last, if that ended.
    pub(super) fn keep(&self, failure: Failure, scratch: &Scratch, log: &StageLog, printed: &[String]) -> Failure {
        let mut text = log.text();
        printed.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect();
        text.push_str(&format!("{}: failed: {}\n", self.address, failure.message));
        let kept = self.set_aside(scratch, &text);
        let kept = kept.map_err(|error| tracing::warn!(%error, "can't keep what a failed stage left")).ok();
        Failure { kept, tail, ..failure }
    }

    fn set_aside(&self, scratch: &Scratch, log: &str) -> io::Result<PathBuf> {
        let dir = failed_dir(self.cache.root(), &self.address);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&dir)?,
        }
        fs::write(dir.join("log"), log)?;
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
