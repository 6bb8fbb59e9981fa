//! The folder that a command runs in: `in/` with its inputs, `work/` where it writes, `tmp/`.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Map, Value, json};

use crate::{
    axes::number_text,
    job::{InputFiles, Job, JobInput},
    publish::safe,
    stage::StageError,
};

/// Up to this size reading and writing is quicker than asking the file system for a reflink.
const SMALL: u64 = 64 << 10;

/// Makes the folders of jobs.
#[derive(Default)]
pub(super) struct Layout {
    /// The file system can't reflink: it is not asked again.
    no_reflinks: AtomicBool,
}

impl Layout {
    /// Makes the folder of `job`, with all of its inputs in it.
    pub(super) fn make(&self, job: &Job, workdir: &str) -> Result<PathBuf, StageError> {
        let scratch = &job.scratch;
        let work = super::outputs::work(scratch, workdir);
        for dir in [&scratch.join("in"), &scratch.join("tmp"), &work] {
            fs::create_dir_all(dir).map_err(StageError::io(dir))?;
        }
        for (port, input) in &job.inputs {
            let dir = scratch.join("in").join(port);
            match input {
                JobInput::One(files) => self.files(files, &dir)?,
                JobInput::Table(rows) => {
                    let mut table = Vec::new();
                    for row in rows {
                        let coords: Map<String, Value> = row.coords.iter().cloned().collect();
                        let name = row_name(&row.coords);
                        if let Some(files) = &row.input {
                            self.files(files, &dir.join(&name))?;
                        }
                        table.push(json!({ "coords": coords, "path": row.input.as_ref().map(|_| name) }));
                    }
                    fs::create_dir_all(&dir).map_err(StageError::io(&dir))?;
                    let path = dir.join("table.json");
                    fs::write(&path, format!("{:#}\n", Value::Array(table))).map_err(StageError::io(&path))?;
                }
            }
        }
        Ok(work)
    }

    fn files(&self, files: &InputFiles, dir: &Path) -> Result<(), StageError> {
        fs::create_dir_all(dir).map_err(StageError::io(dir))?;
        for (name, file) in &files.files {
            if name.starts_with('/') || name.split('/').any(|part| part == "..") {
                return Err(StageError::failed(format!(
                    "an input's file is called `{name}`, which leads out of its folder"
                )));
            }
            let to = dir.join(name);
            if let Some(parent) = to.parent().filter(|parent| *parent != dir) {
                fs::create_dir_all(parent).map_err(StageError::io(parent))?;
            }
            self.file(&file.path, &to)?;
        }
        Ok(())
    }

    /// A copy of its own, never a hard link: root writes through any permission. It can be run if it looks like a
    /// program, whatever the permissions of the file were: these are in no key.
    fn file(&self, from: &Path, to: &Path) -> Result<(), StageError> {
        let mut source = File::open(from).map_err(StageError::io(from))?;
        let size = source.metadata().map_err(StageError::io(from))?.len();
        if size <= SMALL {
            let mut bytes = Vec::with_capacity(size as usize + 1);
            source.read_to_end(&mut bytes).map_err(StageError::io(from))?;
            let mode = if program(&bytes) { 0o555 } else { 0o444 };
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(to);
            return file.and_then(|mut file| file.write_all(&bytes)).map_err(StageError::io(to));
        }
        let linked = !self.no_reflinks.load(Ordering::Relaxed) && reflink_copy::reflink(from, to).is_ok();
        if !linked {
            self.no_reflinks.store(true, Ordering::Relaxed);
            fs::copy(from, to).map_err(StageError::io(to))?;
        }
        let mut head = [0; 4];
        let read = source.read(&mut head).map_err(StageError::io(from))?;
        let mode = if program(&head[..read]) { 0o555 } else { 0o444 };
        fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(StageError::io(to))
    }
}

fn program(head: &[u8]) -> bool {
    head.starts_with(b"#!") || head.starts_with(b"\x7fELF")
}

/// `rank=8,seed=1`: the folder of a row of a table.
fn row_name(coords: &[(String, Value)]) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number_text(number),
        other => other.to_string(),
    };
    coords.iter().map(|(axis, label)| format!("{}={}", safe(axis), safe(&text(label)))).collect::<Vec<_>>().join(",")
}
