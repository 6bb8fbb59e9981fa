//! Files from outside at input ports, for each point of a stage.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Expansion, wires::type_words};
use crate::{
    files::{FileSet, FilesError},
    mistake::Mistake,
    params::Folders,
    problem::Report,
    source::Place,
    spec::{FilesSpec, StageSpec, is_name},
    stage::{InputPort, PortType},
    template::{Scope, Template},
};

/// The files at one port, ready to be filled in.
pub(crate) struct FilesTemplate {
    port: String,
    at: Place,
    paths: Template,
    patterns: bool,
}

/// Files that were looked for: what is wrong with them, if anything is.
pub(crate) type Looked = HashMap<FileSet, Option<Mistake>>;

impl Expansion<'_> {
    /// Tells of files at ports that take none; whether there were none of these.
    pub(super) fn check_files(
        &self,
        stage: &StageSpec,
        ports: &[InputPort],
        kind: &str,
        report: &mut Report<'_>,
    ) -> bool {
        let problems = report.len();
        for files in &stage.files {
            let Some(port) = ports.iter().find(|port| port.name == files.port) else {
                let known = ports.iter().map(|port| port.name.to_string()).collect();
                let (kind, port) = (kind.to_owned(), files.port.clone());
                report.at(&files.place.key(), Mistake::UnknownPort { kind, port, known });
                continue;
            };
            if !matches!(port.accepts, PortType::Any | PortType::File | PortType::Dir) {
                let (port, accepts) = (port.name.to_string(), type_words(port.accepts));
                report.at(&files.at, Mistake::FilesAtPort { port, accepts });
            }
        }
        report.len() == problems
    }

    /// Tells of inputs whose names can't be those of folders.
    pub(super) fn check_open_names(&self, stage: &StageSpec, report: &mut Report<'_>) {
        let links = stage.inputs.iter().map(|input| (&input.port, &input.place));
        let files = stage.files.iter().map(|files| (&files.port, &files.place));
        for (port, place) in links.chain(files).filter(|(port, _)| !is_name(port)) {
            report.at(&place.key(), Mistake::BadName { what: "an input", name: port.clone() });
        }
    }
}

impl FilesTemplate {
    pub(super) fn parse(files: &FilesSpec, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Self> {
        let paths = Template::parse(&files.paths, &files.at, scope, report)?;
        Some(Self { port: files.port.clone(), at: files.at.clone(), paths, patterns: files.patterns })
    }

    /// Adds the axes that it refers to.
    pub(super) fn axes(&self, found: &mut BTreeSet<usize>) {
        self.paths.axes(found);
    }

    /// The files at the point `at`; `None` where something is wrong with them.
    pub(super) fn fill(
        &self,
        at: &[usize],
        folders: &Folders<'_>,
        looked: &mut Looked,
        report: &mut Report<'_>,
    ) -> Option<(String, FileSet)> {
        let folder = folders.of(&self.paths, at);
        let set = match self.paths.fill(at) {
            Value::String(path) if !self.patterns => FileSet::Path(absolute(&folder.join(path))),
            Value::Array(items) => {
                let patterns: Option<_> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                FileSet::Globs { folder: absolute(folder), patterns: patterns? }
            }
            other => {
                let message = format!("a path must be a text, not `{other}`");
                report.at(&self.at, Mistake::InputFiles { port: self.port.clone(), message, hint: None });
                return None;
            }
        };
        let mistake = looked.entry(set.clone()).or_insert_with_key(|set| self.look(set));
        if let Some(mistake) = mistake {
            report.at(&self.at, mistake.clone());
            return None;
        }
        Some((self.port.clone(), set))
    }

    /// What is wrong with the files, as they lie there now.
    fn look(&self, set: &FileSet) -> Option<Mistake> {
        let error = set.check().err()?;
        let port = self.port.clone();
        let wild = matches!(set, FileSet::Path(path) if path.to_string_lossy().contains(['*', '?']));
        let hint = match &error {
            _ if wild => Some(format!("for a pattern write `{port}: {{ files: \"...\" }}`")),
            FilesError::Nothing { .. } => {
                Some("`*` stays in one folder, `**` goes below; hidden files are left out".to_owned())
            }
            FilesError::Io { .. } if !self.patterns => {
                Some("paths are relative to the folder of the file that holds them".to_owned())
            }
            _ => None,
        };
        Some(Mistake::InputFiles { port, message: error.to_string(), hint })
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
