//! What an executor is handed: everything a stage needs, serializable, so that a job may run in this process, in a
//! worker process, or on another machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use palinode_cache::{External, FileEntry, FileTree, TreeDigest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One instance of a stage, ready to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The stage kind.
    pub kind: String,
    /// The address, for logs: `tuned[rank=8,seed=1]`.
    pub address: String,
    /// Canonical params; each path param holds its own name.
    pub params: Value,
    /// The files behind path params, by name of the param.
    pub files: BTreeMap<String, InputFiles>,
    /// What arrives at the input ports.
    pub inputs: BTreeMap<String, JobInput>,
    /// A fresh folder of this job's own; outputs are written under `scratch/out/<port>/`.
    pub scratch: PathBuf,
    /// The folder of the pipeline's file, for messages.
    #[serde(default)]
    pub folder: PathBuf,
    /// Where the job may keep what it would go on from if it is broken off.
    #[serde(default)]
    pub checkpoints: Option<PathBuf>,
    /// Where the cache keeps what remote services answered.
    #[serde(default)]
    pub answers: Option<PathBuf>,
    /// CPUs that the job may keep busy.
    pub cpus: usize,
    /// Ids of the GPUs that are this job's alone while it runs.
    #[serde(default)]
    pub gpus: Vec<usize>,
}

/// What arrives at a port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobInput {
    /// One result.
    One(InputFiles),
    /// A gathered table.
    Table(Vec<JobRow>),
}

/// One row of a gathered table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobRow {
    /// Coordinates (axis, label) in the order of `axes:`.
    pub coords: Vec<(String, Value)>,
    /// The result, or `None` where the point failed and was dropped.
    pub input: Option<InputFiles>,
}

/// Files to read, by relative path. They may lie anywhere (a content-addressed blob has no name of its own).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InputFiles {
    /// Digest of the whole set.
    pub digest: TreeDigest,
    /// Each file.
    pub files: BTreeMap<String, InputFile>,
}

/// One file of [`InputFiles`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InputFile {
    /// Where it lies now.
    pub path: PathBuf,
    /// What it holds.
    #[serde(flatten)]
    pub entry: FileEntry,
}

impl InputFiles {
    /// Of these files.
    pub fn of(files: BTreeMap<String, InputFile>) -> Self {
        let tree = FileTree(files.iter().map(|(name, file)| (name.clone(), file.entry)).collect());
        Self { digest: tree.digest(), files }
    }

    /// Files of the user's.
    pub(crate) fn outside(external: &External) -> Self {
        let file = |(name, entry): (&String, &FileEntry)| {
            let path = external.places.get(name)?.clone();
            Some((name.clone(), InputFile { path, entry: *entry }))
        };
        Self { digest: external.tree.digest(), files: external.tree.0.iter().filter_map(file).collect() }
    }

    /// The place of the file `name`, if there.
    pub fn get(&self, name: &str) -> Option<&Path> {
        self.files.get(name).map(|file| file.path.as_path())
    }

    /// The only file's name and place, if there is just one.
    pub fn single(&self) -> Option<(&str, &Path)> {
        match self.files.iter().next() {
            Some((name, file)) if self.files.len() == 1 => Some((name, &file.path)),
            _ => None,
        }
    }

    /// The same set without places.
    pub fn tree(&self) -> FileTree {
        FileTree(self.files.iter().map(|(name, file)| (name.clone(), file.entry)).collect())
    }
}

/// What a job that succeeded says of itself, beside the files it wrote.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct JobReport {
    /// Small facts worth showing in `status` and `diff`: steps, counts, norms.
    pub summary: BTreeMap<String, Value>,
    /// The most memory that it held, where that is known.
    #[serde(default)]
    pub peak_memory_mib: Option<u64>,
    /// Files of inputs that are part of an output as they are, by output port and name there; never copied.
    pub included: BTreeMap<String, BTreeMap<String, InputFile>>,
    /// Files that the job fetched to where they stay, and that are part of an output, in the same manner.
    #[serde(default)]
    pub fetched: BTreeMap<String, BTreeMap<String, InputFile>>,
}
