//! What is wrong with a pipeline: every problem at once, each with its place. The words are in `mistake`.

use std::{
    collections::HashSet,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    mistake::Mistake,
    overlay::{At, Files, Found, Located},
    source::Place,
};

/// More problems than this are counted, not told.
pub(crate) const MAX_PROBLEMS: usize = 200;

/// One problem of a file, or of an option.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// What is wrong.
    pub mistake: Mistake,
    /// The file that it is in, by its place in [`Problems::files`].
    pub file: usize,
    /// Bytes of the file that it is about; none if it has no place there.
    pub span: Option<Range<usize>>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column, from 1, in characters.
    pub column: Option<usize>,
    /// The option of the command line that it comes from, as in `--set params.x=1`.
    pub option: Option<String>,
}

impl Problem {
    /// The sentence that says what is wrong.
    pub fn message(&self) -> String {
        match &self.option {
            Some(option) => format!("{option}: {}", self.mistake),
            None => self.mistake.to_string(),
        }
    }

    /// A few words for the marked place.
    pub fn label(&self) -> &'static str {
        self.mistake.label()
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        self.mistake.hint()
    }
}

/// A file in which problems have their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// All problems of a pipeline, in the order of its files. Never empty when given as an error.
#[derive(Debug, Clone)]
pub struct Problems {
    /// The pipeline's file.
    pub file: PathBuf,
    /// It, and the files that it brings along: what it extends, and files of params.
    pub files: Vec<SourceFile>,
    /// The problems.
    pub problems: Vec<Problem>,
}

impl Problems {
    /// `file:line:column: message`, and the hint, for each problem: what a log or a test wants. The binary draws
    /// excerpts instead.
    pub fn render_plain(&self) -> String {
        self.to_string()
    }

    /// The file that a problem is in.
    pub fn file_of(&self, problem: &Problem) -> Option<&SourceFile> {
        self.files.get(problem.file)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            let file = self.file_of(problem).map_or(&self.file, |file| &file.path);
            write!(f, "{}", file.display())?;
            if let (Some(line), Some(column)) = (problem.line, problem.column) {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": {}", problem.message())?;
            if let Some(hint) = problem.hint() {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects problems while a pipeline is read. Where a value came by an option, a problem with it names the option.
pub(crate) struct Report<'a> {
    files: &'a Files,
    problems: Vec<Problem>,
    /// Where what was said.
    told: HashSet<(usize, Option<Range<usize>>, String)>,
    /// All that were heard of, those too that were told before.
    heard: usize,
    /// Those of `heard` that leave it open what is meant.
    doubts: usize,
}

impl<'a> Report<'a> {
    pub(crate) fn new(files: &'a Files) -> Self {
        Self { files, problems: Vec::new(), told: HashSet::new(), heard: 0, doubts: 0 }
    }

    /// The file whose folder a path at `place` is relative to; `None` for the command line.
    pub(crate) fn origin(&self, place: &Place) -> Option<usize> {
        self.files.origin(place)
    }

    /// The folder of the file that holds the value at `place`; `None` for the command line.
    pub(crate) fn folder(&self, place: &Place) -> Option<&Path> {
        Some(&self.files.files[self.origin(place)?].folder)
    }

    /// Whether all values have one origin.
    pub(crate) fn one_origin(&self) -> bool {
        self.files.is_plain()
    }

    /// Adds a problem at `place`.
    pub(crate) fn at(&mut self, place: &Place, mistake: Mistake) {
        let files = self.files;
        match files.locate(place) {
            Located::Option(option) => self.option(option.to_owned(), mistake),
            Located::File(file, place) => self.spanned(file, files.files[file].source.span(&place), mistake),
        }
    }

    /// Adds what was found before there was a report.
    pub(crate) fn found(&mut self, found: Found) {
        let files = self.files;
        match found.at {
            At::Span(file, span) => self.spanned(file, span, found.mistake),
            At::Place(file, place) => self.spanned(file, files.files[file].source.span(&place), found.mistake),
            At::Whole(place) => self.at(&place, found.mistake),
            At::Option(option) => self.option(option, found.mistake),
        }
    }

    fn option(&mut self, option: String, mistake: Mistake) {
        self.push(Problem { mistake, file: 0, span: None, line: None, column: None, option: Some(option) });
    }

    /// Adds a problem with these bytes.
    fn spanned(&mut self, file: usize, span: Option<Range<usize>>, mistake: Mistake) {
        let (line, column) = match &span {
            Some(span) => self.files.files[file].source.position(span.start),
            None => (None, None),
        };
        self.push(Problem { mistake, file, span, line, column, option: None });
    }

    fn push(&mut self, problem: Problem) {
        self.heard += 1;
        self.doubts += usize::from(!matches!(problem.mistake, Mistake::AxisTwice { .. }));
        // A value behind an anchor may be read, and found wrong, several times.
        if !self.is_full() && self.told.insert((problem.file, problem.span.clone(), problem.message())) {
            self.problems.push(problem);
        }
    }

    /// Whether there are so many that no more are told.
    pub(crate) fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    /// How many were heard of so far: where it grows, something was wrong.
    pub(crate) fn len(&self) -> usize {
        self.heard
    }

    /// How many of them leave it open what is meant.
    pub(crate) fn doubts(&self) -> usize {
        self.doubts
    }

    /// All that were told, in the order of the files.
    pub(crate) fn finish(mut self, file: &Path) -> Problems {
        let start = |problem: &Problem| problem.span.as_ref().map_or(0, |span| span.start);
        self.problems.sort_by_key(|problem| (problem.file, start(problem)));
        if self.is_full() {
            let mistake = Mistake::More { told: MAX_PROBLEMS };
            self.problems.push(Problem { mistake, file: 0, span: None, line: None, column: None, option: None });
        }
        // Nobody asks for the texts where nothing is wrong.
        let files = match self.problems.is_empty() {
            true => Vec::new(),
            false => sources(self.files),
        };
        Problems { file: file.to_owned(), files, problems: self.problems }
    }
}

/// The files of a pipeline with their texts.
pub(crate) fn sources(files: &Files) -> Vec<SourceFile> {
    files.files.iter().map(|file| SourceFile { path: file.path.clone(), text: file.source.text().to_owned() }).collect()
}
