//! What is wrong with the rows of a file, gathered until its end: a message names all kinds of faults, each with the
//! first of its lines.

use palinode_engine::stage::StageError;

/// Lines that a message names.
const NAMED: usize = 5;
/// Kinds of faults that are told apart.
const KINDS: usize = 20;

/// Faults by file and kind, in the order in which they came up.
#[derive(Default)]
pub(super) struct Faults {
    kinds: Vec<Kind>,
}

struct Kind {
    file: String,
    what: String,
    count: usize,
    lines: Vec<u64>,
}

impl Faults {
    /// A row of `file` at `line` (0: the file itself) is `what`: "not UTF-8".
    pub(super) fn add(&mut self, file: &str, line: u64, what: &str) {
        let known = self.kinds.iter().position(|kind| kind.file == file && kind.what == what);
        let at = known.unwrap_or_else(|| {
            // A column of all sorts would bring a kind with each row.
            let what = if self.kinds.len() < KINDS { what } else { "wrong in other ways" };
            let same = self.kinds.iter().position(|kind| kind.file == file && kind.what == what);
            same.unwrap_or_else(|| {
                let (file, what) = (file.to_owned(), what.to_owned());
                self.kinds.push(Kind { file, what, count: 0, lines: Vec::new() });
                self.kinds.len() - 1
            })
        });
        let kind = &mut self.kinds[at];
        kind.count += 1;
        if kind.lines.len() < NAMED {
            kind.lines.push(line);
        }
    }

    /// Adds what others gathered.
    pub(super) fn append(&mut self, mut other: Faults) {
        self.kinds.append(&mut other.kinds);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.kinds.iter().map(|kind| kind.count).sum()
    }

    /// Each kind, with its count and first lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |kind: &Kind| {
            let rows = if kind.count == 1 { "1 row is".to_owned() } else { format!("{} rows are", kind.count) };
            let more = if kind.count > kind.lines.len() { ", ..." } else { "" };
            let lines = kind.lines.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            match kind.lines[0] {
                0 => format!("{} is {}", kind.file, kind.what),
                _ => {
                    let word = if kind.count == 1 { "line" } else { "lines" };
                    format!("{}: {rows} {} ({word} {lines}{more})", kind.file, kind.what)
                }
            }
        };
        self.kinds.iter().map(line).collect()
    }

    /// An error, if there is a fault.
    pub(super) fn check(&self, hint: &str) -> Result<(), StageError> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(StageError::failed(format!("{}; {hint}", self.lines().join("; ")))),
        }
    }
}
