//! What a stage says while it runs: passed on as it is said, and kept for the record.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{context::Reporter, event::Event};

/// Progress is passed on at most this often.
const PULSE: Duration = Duration::from_millis(50);

/// A stage's log: notes, warnings and how far each kind of progress came. No times, no facts about the machine: a
/// rerun gives the same log.
pub(crate) struct StageLog {
    address: String,
    events: UnboundedSender<Event>,
    state: Mutex<LogState>,
}

#[derive(Default)]
struct LogState {
    text: String,
    progress: Vec<(String, u64, u64)>,
    told: Option<Instant>,
}

impl StageLog {
    pub(crate) fn new(address: String, events: UnboundedSender<Event>) -> Self {
        Self { address, events, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn text(&self) -> String {
        let state = self.state();
        let mut text = state.text.clone();
        for (unit, done, total) in &state.progress {
            text.push_str(&if *total > 0 {
                format!("{unit}: {done} of {total}\n")
            } else {
                format!("{unit}: {done}\n")
            });
        }
        text
    }

    /// Warns of something that is not part of the result, so it isn't in its log.
    pub(crate) fn tell(&self, line: String) {
        let _ = self.events.send(Event::StageWarned { address: self.address.clone(), line });
    }
}

impl Reporter for StageLog {
    fn progress(&self, done: u64, total: u64, unit: &str) {
        let mut state = self.state();
        match state.progress.iter_mut().find(|(known, ..)| known == unit) {
            Some(entry) => (entry.1, entry.2) = (entry.1.max(done), total),
            None => state.progress.push((unit.to_owned(), done, total)),
        }
        if done == total || state.told.is_none_or(|told| told.elapsed() >= PULSE) {
            state.told = Some(Instant::now());
            let address = self.address.clone();
            let _ = self.events.send(Event::StageProgress { address, done, total, unit: unit.to_owned() });
        }
    }

    fn note(&self, line: &str) {
        self.state().text.push_str(&format!("{line}\n"));
        let _ = self.events.send(Event::StageNote { address: self.address.clone(), line: line.to_owned() });
    }

    fn warn(&self, line: &str) {
        self.state().text.push_str(&format!("warning: {line}\n"));
        self.tell(line.to_owned());
    }
}
