//! What a worker prints: kept to its last lines, and told if it crashes.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

/// Lines that are kept.
const LINES: usize = 20;
/// Bytes of a line that are kept.
const WIDTH: usize = 2000;
/// How long a dead worker's last lines are waited for: a grandchild may hold the pipe open for ever.
const LAST_LINES: Duration = Duration::from_millis(300);

/// The last lines of a pipe, read on a thread of its own so that the writer never waits.
pub(super) struct LastLines {
    lines: Arc<Mutex<VecDeque<String>>>,
    closed: mpsc::Receiver<()>,
}

impl LastLines {
    /// Reads `pipe` to its end.
    pub(super) fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (close, closed) = mpsc::channel();
        let kept = lines.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            // A line without end is cut to pieces, not gathered in memory.
            while reader.by_ref().take(WIDTH as u64).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                let mut lines = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if !text.is_empty() {
                    lines.push_back(text);
                }
                while lines.len() > LINES {
                    lines.pop_front();
                }
                line.clear();
            }
            drop(close);
        });
        Self { lines, closed }
    }

    /// Forgets the lines so far: they are an earlier job's.
    pub(super) fn clear(&self) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The last lines of a process that has ended.
    pub(super) fn after_the_end(&self) -> Vec<String> {
        let _ = self.closed.recv_timeout(LAST_LINES);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_last_lines_stay() {
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let lines = LastLines::of(Cursor::new(text)).after_the_end();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (LINES, "line 80", "line 99"));
        let endless = LastLines::of(Cursor::new(vec![b'x'; 1_000_000])).after_the_end();
        assert!(endless.iter().all(|line| line.len() <= WIDTH) && endless.len() == LINES);
    }
}
