//! What remote services answered, to ask nothing twice: `answers/<service>.jsonl`, one line for each answer, appended as
//! soon as it came. Not part of any result; outlives the stage that asked, whatever becomes of it, and is there for any
//! other that would ask the same.
//!
//! A line names its request by digest and holds a checksum of the answer, so one that was torn or damaged is passed over,
//! counted, and asked for again. Several processes may append to one file: each line is written under a lock. A `kill`
//! loses what was not answered yet; a power cut also what was answered in the last second.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BlobDigest, Cache, CacheError, Digest, digest::Request, error::io};

/// How long answers may be on their way to the disk.
const SYNC: Duration = Duration::from_secs(1);

/// The answers of one service.
#[derive(Debug)]
pub struct Answers {
    path: PathBuf,
    state: Mutex<State>,
}

/// An answer that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Word for word.
    pub text: String,
    /// Where it came from.
    pub from: String,
}

#[derive(Debug)]
struct State {
    file: File,
    /// What was read of the file so far; always the beginning of a line.
    end: u64,
    places: HashMap<Digest<Request>, (u64, usize)>,
    damaged: usize,
    synced: Instant,
}

#[derive(Serialize, Deserialize)]
struct Line {
    request: Digest<Request>,
    /// Of the answer: the first digits of its digest.
    sum: String,
    at: Timestamp,
    from: String,
    /// The request itself, for people.
    asked: String,
    answer: String,
}

impl Answers {
    /// Those of `service` in the folder `dir`, which is made if need be.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn open(dir: &Path, service: &str) -> Result<Self, CacheError> {
        fs::create_dir_all(dir).map_err(io("make the folder", dir))?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let name: String = service.chars().take(60).map(plain).collect();
        let path = dir.join(format!("{name}-{}.jsonl", &Digest::<Request>::of(service.as_bytes()).hex()[..8]));
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(io("open", &path))?;
        let state = State { file, end: 0, places: HashMap::new(), damaged: 0, synced: Instant::now() };
        let answers = Self { path, state: Mutex::new(state) };
        answers.locked(|_| Ok(()))?;
        Ok(answers)
    }

    /// The answer to `request`, if there is one.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn get(&self, request: &str) -> Result<Option<Answer>, CacheError> {
        self.read(&self.state(), &Digest::of(request.as_bytes()))
    }

    /// Stores what `from` answered to `request`. If another process was first, its answer stands, and is given back.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn put(&self, request: &str, from: &str, answer: String) -> Result<Answer, CacheError> {
        let key = Digest::of(request.as_bytes());
        let line = Line {
            request: key,
            sum: sum(&answer),
            at: Timestamp::now(),
            from: from.to_owned(),
            asked: request.to_owned(),
            answer,
        };
        let mut text = serde_json::to_vec(&line).map_err(|error| io("write", &self.path)(error.into()))?;
        text.push(b'\n');
        self.locked(|state| {
            if let Some(first) = self.read(state, &key)? {
                return Ok(first);
            }
            crate::failpoint::step();
            state.file.write_all(&text).map_err(io("write", &self.path))?;
            state.places.insert(key, (state.end, text.len()));
            state.end += text.len() as u64;
            if state.synced.elapsed() >= SYNC {
                state.file.sync_data().map_err(io("sync", &self.path))?;
                state.synced = Instant::now();
            }
            Ok(Answer { text: line.answer, from: line.from })
        })
    }

    /// How many lines were passed over because they were torn or damaged.
    pub fn damaged(&self) -> usize {
        self.state().damaged
    }

    /// How many answers there are.
    pub fn len(&self) -> usize {
        self.state().places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, state: &State, key: &Digest<Request>) -> Result<Option<Answer>, CacheError> {
        let Some(&(at, length)) = state.places.get(key) else { return Ok(None) };
        let mut bytes = vec![0; length];
        state.file.read_exact_at(&mut bytes, at).map_err(io("read", &self.path))?;
        Ok(parse(&bytes).map(|line| Answer { text: line.answer, from: line.from }))
    }

    /// Does `work` while no other process writes, and everything that was written is known.
    fn locked<T>(&self, work: impl FnOnce(&mut State) -> Result<T, CacheError>) -> Result<T, CacheError> {
        let mut state = self.state();
        state.file.lock().map_err(io("lock", &self.path))?;
        let done = self.catch_up(&mut state).and_then(|()| work(&mut state));
        let unlocked = state.file.unlock().map_err(io("unlock", &self.path));
        done.and_then(|done| unlocked.map(|()| done))
    }

    /// Reads what is new in the file, and ends a line that a killed process left without its end.
    fn catch_up(&self, state: &mut State) -> Result<(), CacheError> {
        let length = state.file.metadata().map_err(io("read", &self.path))?.len();
        if length <= state.end {
            return Ok(());
        }
        let mut bytes = vec![0; (length - state.end) as usize];
        state.file.read_exact_at(&mut bytes, state.end).map_err(io("read", &self.path))?;
        if !bytes.ends_with(b"\n") {
            state.file.write_all(b"\n").map_err(io("write", &self.path))?;
            bytes.push(b'\n');
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match parse(line) {
                // The first one stands.
                Some(parsed) => drop(state.places.entry(parsed.request).or_insert((state.end, line.len()))),
                None => state.damaged += usize::from(!line.trim_ascii().is_empty()),
            }
            state.end += line.len() as u64;
        }
        Ok(())
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // What isn't on disk now will be soon, unless the power goes first.
        let _ = self.state().file.sync_data();
    }
}

fn parse(line: &[u8]) -> Option<Line> {
    serde_json::from_slice::<Line>(line).ok().filter(|line| line.sum == sum(&line.answer))
}

fn sum(answer: &str) -> String {
    BlobDigest::of(answer.as_bytes()).short()
}

impl Cache {
    /// Where the answers of remote services are.
    pub fn answers(&self) -> PathBuf {
        self.dir("answers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answers: &Answers, request: &str) -> Option<String> {
        answers.get(request).unwrap().map(|answer| answer.text)
    }

    #[test]
    fn what_was_answered_is_there_for_whoever_asks_next() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers::open(dir.path(), "meta/llama 2").unwrap();
        assert_eq!(text(&answers, "a"), None);
        answers.put("a", "http://one", "yes\n\"quoted\" \u{1f600}".into()).unwrap();
        let other = Answers::open(dir.path(), "meta/llama 2").unwrap();
        assert_eq!(text(&other, "a").as_deref(), Some("yes\n\"quoted\" \u{1f600}"));
        // Written by one while the other is open: the first one stands.
        other.put("b", "http://two", "first".into()).unwrap();
        assert_eq!(text(&answers, "b"), None);
        let stands = answers.put("b", "http://one", "second".into()).unwrap();
        assert_eq!(stands, Answer { text: "first".into(), from: "http://two".into() });
        assert_eq!((answers.len(), answers.damaged()), (2, 0));
        assert!(Answers::open(dir.path(), "meta-llama 2").unwrap().is_empty(), "names that look alike are told apart");
    }

    #[test]
    fn torn_and_damaged_lines_are_passed_over_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers::open(dir.path(), "m").unwrap();
        for request in ["a", "b", "c"] {
            answers.put(request, "here", format!("answer to {request}")).unwrap();
        }
        let path = answers.path().to_owned();
        drop(answers);
        let whole = fs::read_to_string(&path).unwrap();
        // Cut at any byte of the last line, what came before is there, and the next line is whole.
        let last = whole[..whole.len() - 1].rfind('\n').unwrap() + 1;
        for cut in last..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let answers = Answers::open(dir.path(), "m").unwrap();
            // Without its line break alone a line is whole.
            let (lost, torn) = (cut < whole.len() - 1, cut > last && cut < whole.len() - 1);
            assert_eq!((answers.len(), answers.damaged()), (3 - usize::from(lost), usize::from(torn)), "{cut}");
            answers.put("c", "here", "again".into()).unwrap();
            drop(answers);
            let answers = Answers::open(dir.path(), "m").unwrap();
            let expected = if lost { "again" } else { "answer to c" };
            assert_eq!(text(&answers, "c").as_deref(), Some(expected), "{cut}");
        }
        fs::write(&path, whole.replace("answer to b", "answer to d")).unwrap();
        let answers = Answers::open(dir.path(), "m").unwrap();
        assert_eq!((text(&answers, "b"), answers.damaged()), (None, 1));
        answers.put("b", "here", "new".into()).unwrap();
        assert_eq!(text(&answers, "b").as_deref(), Some("new"));
    }

    #[test]
    fn many_may_write_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let dir = dir.path();
                scope.spawn(move || {
                    let answers = Answers::open(dir, "m").unwrap();
                    (0..50).for_each(|at| {
                        drop(answers.put(&format!("{}", at + thread), "here", "x".repeat(900)).unwrap())
                    });
                });
            }
        });
        let answers = Answers::open(dir.path(), "m").unwrap();
        assert_eq!((answers.len(), answers.damaged()), (53, 0));
    }
}
