//! How often an instance is tried, and how long an attempt may take: `retries` and `timeout` of a stage.

use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_yaml::Value as Yaml;

use crate::{
    problem::Report,
    source::Place,
    spec::{mapping, unknown, wrong},
};

/// The longest pause between two attempts.
const LONGEST: Duration = Duration::from_secs(3600);
const DURATION: &str = "a duration above zero like `90s`, `10m` or `1h30m`";

/// What a stage's `retries` and `timeout` say. No part of any key: they can't change what comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// Further attempts after one that failed.
    pub retries: u32,
    /// The pause before the first of them; each further one is twice as long.
    pub backoff: Duration,
    /// How long an attempt may take; `None`: as long as it likes.
    pub timeout: Option<Duration>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { retries: 0, backoff: Duration::from_secs(1), timeout: None }
    }
}

impl Attempts {
    /// The pause after the attempt `number` (from 1) failed; `None` if that was the last.
    pub fn pause(&self, number: u32) -> Option<Duration> {
        (number <= self.retries).then(|| {
            let doubled = 2_u32.saturating_pow(number.saturating_sub(1));
            self.backoff.saturating_mul(doubled).min(LONGEST)
        })
    }

    /// Reads `retries`: a number, or `{ times, backoff }`.
    pub(crate) fn read_retries(&mut self, value: &Yaml, place: &Place, report: &mut Report<'_>) {
        let Yaml::Mapping(_) = value else { return self.read_times("`retries`", value, place, report) };
        for (key, value, place) in mapping("`retries`", value, place, report) {
            match &*key {
                "times" => self.read_times("`times`", value, &place, report),
                "backoff" => {
                    self.backoff = duration("`backoff`", value, &place, report).unwrap_or_default();
                }
                _ => report.at(&place.key(), unknown(key, "`retries`", &["times", "backoff"])),
            }
        }
    }

    fn read_times(&mut self, what: &str, value: &Yaml, place: &Place, report: &mut Report<'_>) {
        match value.as_u64().and_then(|times| u32::try_from(times).ok()) {
            Some(times) => self.retries = times,
            None => report.at(place, wrong(what, "a whole number, or `{ times: 3, backoff: 10s }`", value)),
        }
    }

    /// Reads `timeout`.
    pub(crate) fn read_timeout(&mut self, value: &Yaml, place: &Place, report: &mut Report<'_>) {
        self.timeout = duration("`timeout`", value, place, report);
    }
}

/// A duration as one would write it in a pipeline: `1h 30m`.
pub(crate) fn words(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}

/// A duration as people write it; a bare number could be anything, so it is refused.
fn duration(what: &str, value: &Yaml, place: &Place, report: &mut Report<'_>) -> Option<Duration> {
    let parsed = value.as_str().and_then(|text| text.trim().parse::<SignedDuration>().ok());
    let duration = parsed.and_then(|duration| Duration::try_from(duration).ok()).filter(|duration| !duration.is_zero());
    if duration.is_none() {
        report.at(place, wrong(what, DURATION, value));
    }
    duration
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let attempts = Attempts { retries: 3, backoff: Duration::from_secs(10), timeout: None };
        let pauses: Vec<_> = (1..=4).map(|number| attempts.pause(number).map(|pause| pause.as_secs())).collect();
        assert_eq!(pauses, [Some(10), Some(20), Some(40), None]);
        let many = Attempts { retries: 100, ..attempts };
        assert_eq!(many.pause(90), Some(LONGEST));
        assert_eq!(Attempts::default().pause(1), None);
    }
}
