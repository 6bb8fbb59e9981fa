//! How a run is shown as it goes: bars on a terminal, lines in a log, JSON for programs. All of it on stderr.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use palinode_engine::event::{Event, LogLine, RunSummary};

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
    bars: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: usize,
    done: usize,
    running: HashMap<String, Running>,
}

struct Running {
    bar: Option<ProgressBar>,
    started: Instant,
    told: Instant,
}

impl Report {
    pub(crate) fn new(talk: &Talk) -> Self {
        let live = talk.log_format == LogFormat::Text && anstream::stderr().is_terminal();
        let bars = live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self { format: talk.log_format, verbose: talk.verbose, bars, state: Mutex::default() }
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
                let bar = self.bars.as_ref().map(|bars| bars.add(bar(address)));
                let now = Instant::now();
                state.running.insert(address.clone(), Running { bar, started: now, told: now });
                if self.bars.is_none() || self.verbose > 0 {
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
                self.line(&format!("     wait {address}: another process is making this result"));
            }
            Event::StageFinished { address, seconds, .. } => {
                self.ended(&mut state, address);
                self.line(&format!("     done {address} in {} [{}/{}]", span(*seconds), state.done, state.total));
            }
            Event::StageCached { address, .. } => {
                self.ended(&mut state, address);
                if self.verbose >= VERBOSE {
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
                self.line(&format!("   failed {address}: {message}"));
                tail.iter().for_each(|line| self.line(&format!("          | {line}")));
                if let Some(kept) = kept {
                    self.line(&format!("          its log and partial outputs: {}", kept.display()));
                }
            }
            Event::StageBlocked { address, by } => {
                self.ended(&mut state, address);
                self.line(&format!("  blocked {address}: needs {by}"));
            }
            Event::StageCancelled { address } => self.ended(&mut state, address),
            Event::Published { path, .. } => self.line(&format!("    wrote {}", path.display())),
            Event::RunFinished(_) => state.running.drain().for_each(|(_, running)| running.clear()),
        }
    }

    fn ended(&self, state: &mut State, address: &str) {
        state.done += 1;
        if let Some(running) = state.running.remove(address) {
            running.clear();
        }
    }

    fn progress(&self, state: &mut State, address: &str, done: u64, total: u64, unit: &str) {
        let Some(running) = state.running.get_mut(address) else { return };
        if let Some(bar) = &running.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(format!("{unit}s"));
        } else if running.told.elapsed() >= PULSE && done > 0 {
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
        match &self.bars {
            Some(bars) => bars.suspend(|| say(&format!("{text}\n"))),
            None => say(&format!("{text}\n")),
        }
    }
}

impl Running {
    fn clear(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(address: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} {bar:24} {pos}/{len} {msg}, {per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style).with_prefix(address.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
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
    fn a_run_without_work_says_so() {
        let done = RunSummary { pipeline: "p".into(), cached: 3, seconds: 0.02, ..RunSummary::default() };
        assert_eq!(summary(&done), "p: 0 executed, 3 cached in 0.02 s\nnothing to do: every result is up to date\n");
        let failed = RunSummary { pipeline: "p".into(), failed: 1, blocked: 2, ..RunSummary::default() };
        assert_eq!(summary(&failed), "p: 0 executed, 0 cached, 1 failed, 2 blocked in 0.00 s\n");
    }
}
