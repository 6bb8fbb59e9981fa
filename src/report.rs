//! How a run is shown as it goes: bars on a terminal, lines in a log, JSON for programs. All of it on stderr.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use palinode_engine::event::{Event, LogLine, RunSummary};

mod live;

use self::live::Live;
use crate::{
    cli::{LogFormat, Talk},
    output::say,
};

/// How often a long stage says how far it is where there is no terminal.
const PULSE: Duration = Duration::from_secs(10);
/// Cached stages are told one by one only if asked for.
const VERBOSE: u8 = 1;

/// Shows events.
pub(crate) struct Report {
    format: LogFormat,
    verbose: u8,
    live: Option<Live>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: usize,
    done: usize,
    cached: usize,
    failed: usize,
    running: HashMap<String, Running>,
    /// Stages whose result another process is making.
    waiting: HashSet<String>,
    /// By stage and by what it needs: the first instance that can't run, and how many can't.
    blocked: BTreeMap<(String, String), (String, usize)>,
    expected: Option<Expected>,
}

/// How long the rest may take, as it looked then; and how many stages never ran, so nobody knows.
struct Expected {
    seconds: f64,
    unknown: usize,
    at: Instant,
}

struct Running {
    bar: Option<ProgressBar>,
    started: Instant,
    told: Instant,
}

impl Report {
    pub(crate) fn new(talk: &Talk) -> Self {
        let live = talk.log_format == LogFormat::Text && anstream::stderr().is_terminal();
        let live = live.then(Live::new);
        Self { format: talk.log_format, verbose: talk.verbose, live, state: Mutex::default() }
    }

    /// Shows `event`.
    pub(crate) fn event(&self, event: &Event) {
        match self.format {
            LogFormat::Json => self.json(event),
            LogFormat::Text => self.text(event),
        }
    }

    fn json(&self, event: &Event) {
        let line = LogLine { time: jiff::Timestamp::now(), event: event.clone() };
        if let Ok(line) = serde_json::to_string(&line) {
            say(&format!("{line}\n"));
        }
    }

    fn text(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::RunStarted { instances, .. } => state.total = *instances,
            Event::StageStarted { address, reason, .. } => {
                let bar = self.live.as_ref().and_then(|live| live.stage(address));
                let now = Instant::now();
                state.running.insert(address.clone(), Running { bar, started: now, told: now });
                if self.live.is_none() || self.verbose > 0 {
                    self.line(&format!("      run {address}: {reason}"));
                }
            }
            Event::StageProgress { address, done, total, unit } => {
                self.progress(&mut state, address, *done, *total, unit)
            }
            Event::StageNote { address, line } if self.verbose >= VERBOSE => {
                self.line(&format!("     note {address}: {line}"))
            }
            Event::StageNote { .. } => {}
            Event::StageWarned { address, line } => self.line(&format!("  warning {address}: {line}")),
            Event::StageWaiting { address, .. } => {
                state.waiting.insert(address.clone());
                self.line(&format!("     wait {address}: another process is making this result"));
            }
            Event::StageFinished { address, seconds, .. } => {
                self.ended(&mut state, address);
                let (done, total) = (state.done, state.total);
                let left = state.left().map(|left| format!(", {left}")).unwrap_or_default();
                self.line(&format!("     done {address} in {} [{done}/{total}{left}]", span(*seconds)));
            }
            Event::StageCached { address, .. } => {
                self.ended(&mut state, address);
                state.cached += 1;
                if state.waiting.remove(address) {
                    self.line(&format!("    taken {address}: another process made it"));
                } else if self.verbose >= VERBOSE {
                    self.line(&format!("   cached {address}"));
                }
            }
            Event::StageWaitingForGpus { address, gpus } => {
                self.line(&format!("     wait {address}: another process uses the GPUs; {gpus} needed"));
            }
            Event::StageRetrying { address, message, attempt, of, pause } => {
                let pause = span(*pause);
                self.line(&format!("    retry {address}: {message}; attempt {attempt} of {of} in {pause}"));
            }
            Event::StageFailed { address, message, kept, tail } => {
                self.ended(&mut state, address);
                state.failed += 1;
                self.line(&format!("   failed {address}: {message}"));
                tail.iter().for_each(|line| self.line(&format!("          | {line}")));
                if let Some(kept) = kept {
                    self.line(&format!("          its log and partial outputs: {}", kept.display()));
                }
            }
            Event::StageBlocked { address, by } => {
                self.ended(&mut state, address);
                let stage = address.split('[').next().unwrap_or(address).to_owned();
                state.blocked.entry((stage, by.clone())).or_insert((address.clone(), 0)).1 += 1;
            }
            Event::StageCancelled { address } => self.ended(&mut state, address),
            Event::Published { path, .. } => self.line(&format!("    wrote {}", path.display())),
            Event::RunExpects { seconds, unknown } => {
                state.expected = Some(Expected { seconds: *seconds, unknown: *unknown, at: Instant::now() });
            }
            Event::RunFinished(_) => {
                state.running.clear();
                if let Some(live) = &self.live {
                    live.clear();
                }
                std::mem::take(&mut state.blocked).iter().for_each(|blocked| self.line(&blocked_words(blocked)));
                return;
            }
        }
        if let Some(live) = &self.live {
            live.run(state.done, state.total, &state.words());
        }
    }

    fn ended(&self, state: &mut State, address: &str) {
        state.done += 1;
        let bar = state.running.remove(address).and_then(|running| running.bar);
        if let (Some(live), Some(bar)) = (&self.live, bar) {
            live.ended(&bar);
        }
    }

    fn progress(&self, state: &mut State, address: &str, done: u64, total: u64, unit: &str) {
        let Some(running) = state.running.get_mut(address) else { return };
        if let Some(bar) = &running.bar {
            Live::progress(bar, done, total, unit);
        } else if self.live.is_none() && running.told.elapsed() >= PULSE && done > 0 {
            running.told = Instant::now();
            let rate = done as f64 / running.started.elapsed().as_secs_f64();
            let left =
                if total > done { format!(", {} left", span((total - done) as f64 / rate)) } else { String::new() };
            let of = if total > 0 { format!(" of {total}") } else { String::new() };
            self.line(&format!("          {address}: {unit} {done}{of}, {rate:.1}/s{left}"));
        }
    }

    /// A line of talk, above the bars where there are any.
    fn line(&self, text: &str) {
        match &self.live {
            Some(live) => live.above(|| say(&format!("{text}\n"))),
            None => say(&format!("{text}\n")),
        }
    }
}

impl State {
    /// What the run does, beside how many stages are done.
    fn words(&self) -> String {
        let counts = [(self.running.len(), "running"), (self.cached, "cached"), (self.failed, "failed")];
        let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!(", {count} {word}"));
        counts.chain(self.left().map(|left| format!(", {left}"))).collect()
    }

    /// How long the rest may take, if that can be said.
    fn left(&self) -> Option<String> {
        let expected = self.expected.as_ref()?;
        let left = expected.seconds - expected.at.elapsed().as_secs_f64();
        // A guess of seconds is no news by the time that it is read.
        let told = left >= 1.0 && self.done < self.total;
        let word = if expected.unknown > 0 { "at least" } else { "about" };
        told.then(|| format!("{word} {} left", span(left)))
    }
}

/// One line for all instances of a stage that wait for the same thing: a failure early on blocks hundreds.
fn blocked_words(((stage, by), (first, count)): (&(String, String), &(String, usize))) -> String {
    match count {
        1 => format!("  blocked {first}: needs {by}"),
        more => format!("  blocked {stage} ({more} instances): needs {by}"),
    }
}

/// The closing lines of a run: what ran, how long it took, where the figures are.
pub(crate) fn summary(summary: &RunSummary) -> String {
    let mut parts = vec![format!("{} executed", summary.executed), format!("{} cached", summary.cached)];
    for (count, word) in [(summary.failed, "failed"), (summary.blocked, "blocked"), (summary.cancelled, "cancelled")] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let mut text = format!("{}: {} in {}\n", summary.pipeline, parts.join(", "), span(summary.seconds));
    if summary.complete() && summary.executed == 0 {
        text.push_str("nothing to do: every result is up to date\n");
    }
    for file in &summary.files {
        text.push_str(&format!("  {}\n", file.display()));
    }
    text
}

/// Seconds as people say them: `0.42 s`, `12.3 s`, `2 min 05 s`.
pub(crate) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{s:.2} s"),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {:02} min", s as u64 / 3600, s as u64 % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        assert_eq!(span(0.416), "0.42 s");
        assert_eq!(span(12.34), "12.3 s");
        assert_eq!(span(125.9), "2 min 05 s");
        assert_eq!(span(7500.0), "2 h 05 min");
    }

    #[test]
    fn the_rest_is_told_as_far_as_it_is_known() {
        let mut state = State { total: 9, done: 4, cached: 2, failed: 1, ..State::default() };
        assert_eq!(state.words(), ", 2 cached, 1 failed");
        let at = Instant::now() - Duration::from_millis(10);
        state.expected = Some(Expected { seconds: 90.02, unknown: 0, at });
        assert_eq!(state.words(), ", 2 cached, 1 failed, about 1 min 30 s left");
        state.expected = Some(Expected { seconds: 90.02, unknown: 3, at });
        assert_eq!(state.left().as_deref(), Some("at least 1 min 30 s left"));
        state.expected = Some(Expected { seconds: 0.5, unknown: 0, at });
        assert_eq!(state.left(), None);
    }

    #[test]
    fn what_a_failure_blocks_is_told_by_stage() {
        let words = |first: &str, count| {
            blocked_words((&("said".to_owned(), "tuned[rank=2]".to_owned()), &(first.to_owned(), count)))
        };
        assert_eq!(words("said[rank=2]", 1), "  blocked said[rank=2]: needs tuned[rank=2]");
        assert_eq!(words("said[rank=2]", 48), "  blocked said (48 instances): needs tuned[rank=2]");
    }

    #[test]
    fn a_run_without_work_says_so() {
        let done = RunSummary { pipeline: "p".into(), cached: 3, seconds: 0.02, ..RunSummary::default() };
        assert_eq!(summary(&done), "p: 0 executed, 3 cached in 0.02 s\nnothing to do: every result is up to date\n");
        let failed = RunSummary { pipeline: "p".into(), failed: 1, blocked: 2, ..RunSummary::default() };
        assert_eq!(summary(&failed), "p: 0 executed, 0 cached, 1 failed, 2 blocked in 0.00 s\n");
    }
}
