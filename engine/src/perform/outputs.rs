//! What a stage read must be what it was meant to read; what it wrote goes into the cache.

use std::{collections::BTreeMap, fs, io, path::Path};

use palinode_cache::{FileTree, Scratch};

use super::{NoResult, Task, files};
use crate::job::{InputFile, Job, JobReport};

impl Task {
    /// What the stage read must be what the key says: a file edited meanwhile may have been read half old, half new.
    pub(super) fn inputs_unchanged(&self, job: &Job) -> Result<(), NoResult> {
        for (param, external) in &self.outside {
            let changed = external.recheck(&self.cache, &|file| self.kind.reads(param, file))?;
            if let Some(path) = changed.first() {
                let path = path.display();
                return Err(NoResult::failed(format!(
                    "`{path}` (in `with.{param}`) changed since this run began; nothing was recorded, run again"
                )));
            }
        }
        for (port, (set, external)) in &self.files {
            let changed = set.recheck(external, &self.cache).map_err(NoResult::failed)?;
            if let Some(path) = changed.first() {
                let path = path.display();
                return Err(NoResult::failed(format!(
                    "`{path}` (at the input `{port}`) changed since this run began; nothing was recorded, run again"
                )));
            }
        }
        let results = job.inputs.iter().filter(|(port, _)| !self.files.contains_key(*port));
        for (port, file) in results.flat_map(|(port, input)| files(input).map(move |file| (port, file))) {
            if self.cache.locate(&file.entry)?.is_none() {
                return Err(NoResult::failed(format!(
                    "input `{port}` was lost or damaged while the stage ran; nothing was recorded, run again"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn outputs(
        &self,
        report: &JobReport,
        scratch: &Scratch,
        job: &Job,
    ) -> Result<BTreeMap<String, FileTree>, NoResult> {
        let out = scratch.path().join("out");
        let declared = self.kind.outputs_of(&|name| self.params.get(name));
        let undeclared = |port: &str| declared.iter().all(|output| output.name != port);
        for port in
            names(&out).map_err(NoResult::failed)?.iter().chain(report.included.keys()).chain(report.fetched.keys())
        {
            if undeclared(port) {
                let kind = self.kind.name();
                return Err(NoResult::failed(format!("it wrote to `{port}`, which is no output of the kind `{kind}`")));
            }
        }
        let mut outputs = BTreeMap::new();
        for port in declared {
            let dir = out.join(&*port.name);
            let mut tree = if dir.is_dir() { self.cache.put_dir(&dir)? } else { FileTree::default() };
            let included = report.included.get(&*port.name).into_iter().flatten().map(|file| (file, false));
            let fetched = report.fetched.get(&*port.name).into_iter().flatten().map(|file| (file, true));
            for ((name, file), fetched) in included.chain(fetched) {
                if fetched {
                    self.cache.refer(&file.path, &file.entry)?;
                } else {
                    self.include(file, job)?;
                }
                if tree.0.insert(name.clone(), file.entry).is_some() {
                    return Err(NoResult::failed(format!(
                        "output `{}` has two files named `{name}`: one written, one included",
                        port.name
                    )));
                }
            }
            if tree.0.is_empty() {
                return Err(NoResult::failed(format!("it wrote nothing to its output `{}`", port.name)));
            }
            outputs.insert(port.name.into_owned(), tree);
        }
        Ok(outputs)
    }

    /// An included file is one of the job's inputs. One from outside is found at its place from now on.
    pub(super) fn include(&self, file: &InputFile, job: &Job) -> Result<(), NoResult> {
        let same = |other: &InputFile| other.entry == file.entry;
        let at_ports = self.files.keys().filter_map(|port| job.inputs.get(port)).flat_map(files);
        let outside =
            job.files.values().flat_map(|files| files.files.values()).chain(at_ports).find(|other| same(other));
        if let Some(place) = outside {
            return Ok(self.cache.refer(&place.path, &file.entry)?);
        }
        if job.inputs.values().flat_map(files).any(same) {
            return Ok(());
        }
        Err(NoResult::failed(format!("it included `{}`, which is none of its inputs", file.path.display())))
    }
}

/// The names in the folder `dir`; none if it isn't there.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}
