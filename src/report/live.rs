//! The live part of a run's display: a line for each stage that runs, and one for the whole run below them.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

const TICK: Duration = Duration::from_millis(200);
/// Stages that are shown one by one; of more, only the number.
const LINES: usize = 16;

/// The lines at the bottom of a terminal.
pub(super) struct Live {
    bars: MultiProgress,
    whole: ProgressBar,
    shown: AtomicUsize,
}

impl Live {
    pub(super) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let whole = bars.add(ProgressBar::new(0).with_style(style("{bar:24} {pos}/{len} stages{msg}, {elapsed}")));
        Self { bars, whole, shown: 0.into() }
    }

    /// A line for a stage that began; none if there are enough.
    pub(super) fn stage(&self, address: &str) -> Option<ProgressBar> {
        if self.shown.fetch_add(1, Relaxed) >= LINES {
            self.shown.fetch_sub(1, Relaxed);
            return None;
        }
        let bar = ProgressBar::new(0).with_style(style("{spinner} {prefix} {elapsed}")).with_prefix(address.to_owned());
        let bar = self.bars.insert_before(&self.whole, bar);
        bar.enable_steady_tick(TICK);
        Some(bar)
    }

    /// Shows how far a stage is.
    pub(super) fn progress(bar: &ProgressBar, done: u64, total: u64, unit: &str) {
        if total > 0 && bar.length() != Some(total) {
            bar.set_style(style("{spinner} {prefix} {bar:24} {pos}/{len} {msg}, {rate}, {elapsed}, {eta} left"));
            bar.set_length(total);
        } else if total == 0 && bar.message().is_empty() {
            bar.set_style(style("{spinner} {prefix} {pos} {msg}, {rate}, {elapsed}"));
        }
        bar.set_position(done);
        bar.set_message(format!("{unit}s"));
    }

    /// Takes a stage's line away.
    pub(super) fn ended(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        self.bars.remove(bar);
        self.shown.fetch_sub(1, Relaxed);
    }

    /// Shows how far the run is.
    pub(super) fn run(&self, done: usize, total: usize, words: &str) {
        if self.whole.length() != Some(total as u64) {
            self.whole.set_length(total as u64);
            self.whole.enable_steady_tick(TICK);
        }
        self.whole.set_position(done as u64);
        self.whole.set_message(words.to_owned());
    }

    /// Takes everything away.
    pub(super) fn clear(&self) {
        self.whole.finish_and_clear();
        let _ = self.bars.clear();
    }

    /// Says something above the lines.
    pub(super) fn above(&self, say: impl FnOnce()) {
        self.bars.suspend(say);
    }
}

fn style(template: &str) -> ProgressStyle {
    let rate = |state: &ProgressState, to: &mut dyn fmt::Write| {
        let _ = write!(to, "{:.1}/s", state.per_sec());
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", rate)
}
