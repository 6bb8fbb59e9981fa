//! The files of a pipeline, and which of their places a value came from.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    mistake::Mistake,
    overlay::{Layer, Located, layers},
    source::{Place, Source},
};

/// A file that was read.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// What paths in it are relative to.
    pub(crate) folder: PathBuf,
    pub(crate) source: Source,
}

/// All files of a pipeline, the pipeline's own first, and the layers that they make.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) files: Vec<File>,
    /// From weak to strong.
    pub(crate) layers: Vec<Layer>,
    /// For each stage that `defaults` gave something: the keys under `defaults`, strong ones first.
    pub(crate) defaults: HashMap<String, Vec<String>>,
}

/// Something wrong, before there is a report.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) at: At,
    pub(crate) mistake: Mistake,
}

/// What is wrong.
#[derive(Debug, Clone)]
pub(crate) enum At {
    /// Bytes of a file.
    Span(usize, Option<Range<usize>>),
    /// A place in a file.
    Place(usize, Place),
    /// A value of the whole, whoever gave it.
    Whole(Place),
    /// An option of the command line, as it was typed.
    Option(String),
}

impl File {
    pub(crate) fn new(path: &Path, source: Source) -> Self {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        Self { path: path.to_owned(), folder, source }
    }
}

impl Files {
    /// Who gave the value at `place`.
    pub(crate) fn locate(&self, place: &Place) -> Located<'_> {
        // Nearly all pipelines are one file.
        if self.is_plain() && self.defaults.is_empty() {
            return Located::File(0, place.clone());
        }
        layers::locate(self, place, false)
    }

    /// The file whose folder a path at `place` is relative to; `None` for the command line.
    pub(crate) fn origin(&self, place: &Place) -> Option<usize> {
        if self.is_plain() {
            return Some(0);
        }
        if self.files.len() == 1 {
            return (!layers::is_set(self, place)).then_some(0);
        }
        match layers::locate(self, place, true) {
            Located::File(file, _) => Some(file),
            Located::Option(_) => None,
        }
    }

    /// All values come from one file.
    pub(crate) fn is_plain(&self) -> bool {
        self.files.len() == 1 && self.layers.len() == 1
    }
}
