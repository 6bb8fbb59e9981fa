//! What is wrong with a pipeline's file: every problem of it at once, each with its place. The words are in `mistake`.

use std::{
    collections::HashSet,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    mistake::Mistake,
    source::{Place, Source},
};

/// More problems than this are counted, not told.
pub(crate) const MAX_PROBLEMS: usize = 200;

/// One problem of a file, or of a `--set`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// What is wrong.
    pub mistake: Mistake,
    /// Bytes of the source that it is about; none if it has no place there.
    pub span: Option<Range<usize>>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column, from 1, in characters.
    pub column: Option<usize>,
    /// The `--set` that it comes from.
    pub set: Option<String>,
}

impl Problem {
    /// The sentence that says what is wrong.
    pub fn message(&self) -> String {
        match &self.set {
            Some(set) => format!("--set {set}: {}", self.mistake),
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

/// All problems of a pipeline's file, in the order of the file. Never empty when given as an error.
#[derive(Debug, Clone)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// Its text, in which the spans point.
    pub source: String,
    /// The problems.
    pub problems: Vec<Problem>,
}

impl Problems {
    /// `file:line:column: message`, and the hint, for each problem: what a log or a test wants. The binary draws
    /// excerpts instead.
    pub fn render_plain(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.file.display())?;
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

/// Collects problems while a file is read. Where a value came by `--set`, a problem with it names the set.
pub(crate) struct Report<'a> {
    source: &'a Source,
    sets: Vec<Set>,
    problems: Vec<Problem>,
    told: HashSet<Problem>,
    /// All that were heard of, those too that were told before.
    heard: usize,
    /// Those of `heard` that leave it open what is meant.
    doubts: usize,
}

/// A `--set` that was applied.
struct Set {
    path: Vec<String>,
    text: String,
    /// It only chose among what the file declares.
    picks: bool,
}

impl<'a> Report<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        Self { source, sets: Vec::new(), problems: Vec::new(), told: HashSet::new(), heard: 0, doubts: 0 }
    }

    /// Tells that the value at `path` now comes from the override `text`.
    pub(crate) fn overridden(&mut self, path: Vec<String>, text: String, picks: bool) {
        self.sets.push(Set { path, text, picks });
    }

    /// Whether the value at `place` was given on the command line.
    pub(crate) fn is_overridden(&self, place: &Place) -> bool {
        self.sets.iter().any(|set| !set.picks && place.is_below(&set.path))
    }

    /// Adds a problem at `place`.
    pub(crate) fn at(&mut self, place: &Place, mistake: Mistake) {
        if let Some(set) = self.sets.iter().rev().find(|set| place.is_below(&set.path)) {
            self.set(set.text.clone(), mistake);
        } else {
            self.spanned(self.source.span(place), mistake);
        }
    }

    /// Adds a problem with the override `set`.
    pub(crate) fn set(&mut self, set: String, mistake: Mistake) {
        self.push(Problem { mistake, span: None, line: None, column: None, set: Some(set) });
    }

    /// Adds a problem with these bytes.
    pub(crate) fn spanned(&mut self, span: Option<Range<usize>>, mistake: Mistake) {
        let (line, column) = match &span {
            Some(span) => self.source.position(span.start),
            None => (None, None),
        };
        self.push(Problem { mistake, span, line, column, set: None });
    }

    fn push(&mut self, problem: Problem) {
        self.heard += 1;
        self.doubts += usize::from(!matches!(problem.mistake, Mistake::AxisTwice { .. }));
        // A value behind an anchor may be read, and found wrong, several times.
        if !self.is_full() && self.told.insert(problem.clone()) {
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

    /// Ok if there were none.
    pub(crate) fn finish(mut self, file: &Path) -> Result<(), Problems> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
        if self.is_full() {
            let mistake = Mistake::More { told: MAX_PROBLEMS };
            self.problems.push(Problem { mistake, span: None, line: None, column: None, set: None });
        }
        Err(Problems { file: file.to_owned(), source: self.source.text().to_owned(), problems: self.problems })
    }
}
