//! Whether a job is to end early, and how: said by the run, looked at by the job.

use std::sync::atomic::{AtomicU8, Ordering};

/// A job's early end. It only rises: nothing, soon, now.
#[derive(Debug, Default)]
pub struct Stop(AtomicU8);

const SOON: u8 = 1;
const NOW: u8 = 2;

impl Stop {
    /// The job may end, or keep a checkpoint and break off: the run begins nothing new.
    pub fn soon(&self) {
        self.0.fetch_max(SOON, Ordering::Relaxed);
    }

    /// The job is to break off at once.
    pub fn now(&self) {
        self.0.fetch_max(NOW, Ordering::Relaxed);
    }

    /// Whether the run is to end.
    pub fn is_soon(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= SOON
    }

    /// Whether the job is to break off at once.
    pub fn is_now(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= NOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_rises() {
        let stop = Stop::default();
        assert!(!stop.is_soon() && !stop.is_now());
        stop.soon();
        assert!(stop.is_soon() && !stop.is_now());
        stop.now();
        stop.soon();
        assert!(stop.is_soon() && stop.is_now());
    }
}
