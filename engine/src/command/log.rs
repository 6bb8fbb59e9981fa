//! What a command prints: into the stage's log line by line, but not without end.

use std::collections::VecDeque;

use crate::context::Context;

/// Lines that go to the log as they come.
const LINES: usize = 10_000;
/// Their size in all.
const BYTES: usize = 4 << 20;
/// A longer line is cut.
const LINE: usize = 8 << 10;
/// The last lines, which are kept whatever came before.
const TAIL: usize = 100;

/// The lines of one command.
#[derive(Default)]
pub(super) struct Lines {
    lines: usize,
    bytes: usize,
    left_out: usize,
    tail: VecDeque<String>,
}

impl Lines {
    /// Takes a line, without its end.
    pub(super) fn add(&mut self, line: &[u8], ctx: &Context<'_>) {
        // A progress bar draws over its own line: what stands there in the end is what it says.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = line.rsplit(|byte| *byte == b'\r').next().unwrap_or(line);
        let mut text = String::from_utf8_lossy(&line[..line.len().min(LINE)]).into_owned();
        if line.len() > LINE {
            text.push_str(" ...");
        }
        self.lines += 1;
        self.bytes += text.len();
        if self.lines <= LINES && self.bytes <= BYTES {
            ctx.note(&text);
        } else {
            self.left_out += 1;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text);
    }

    /// All has been said.
    pub(super) fn end(&self, ctx: &Context<'_>) {
        if self.left_out == 0 {
            return;
        }
        let shown = self.left_out.min(self.tail.len());
        if self.left_out > shown {
            ctx.note(format!("... {} lines left out ...", self.left_out - shown));
        }
        self.tail.iter().skip(self.tail.len() - shown).for_each(|line| ctx.note(line));
    }

    /// The last lines.
    pub(super) fn tail(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}
