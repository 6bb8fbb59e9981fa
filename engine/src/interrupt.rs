//! Whether a run is to end early, and how: said by whoever hears the user, heard by the run.

use std::{future, sync::Arc};

use tokio::sync::watch;

/// A run's early end; clones speak of the same run.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<watch::Sender<Level>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    None,
    Drain,
    Stop,
}

impl Default for Interrupt {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Level::None)))
    }
}

impl Interrupt {
    /// Begins nothing new; what runs may end.
    pub fn drain(&self) {
        self.raise(Level::Drain);
    }

    /// Stops what runs, too.
    pub fn stop(&self) {
        self.raise(Level::Stop);
    }

    /// Whether nothing new is to begin.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Level::Drain
    }

    /// Whether what runs is to stop.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() >= Level::Stop
    }

    /// Once nothing new is to begin.
    pub async fn draining(&self) {
        self.reached(Level::Drain).await;
    }

    /// Once what runs is to stop.
    pub async fn stopping(&self) {
        self.reached(Level::Stop).await;
    }

    fn raise(&self, level: Level) {
        self.0.send_if_modified(|now| {
            let raised = level > *now;
            *now = level.max(*now);
            raised
        });
    }

    async fn reached(&self, level: Level) {
        if self.0.subscribe().wait_for(|now| *now >= level).await.is_err() {
            // Nobody is left who could say so.
            future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_rises() {
        let interrupt = Interrupt::default();
        let heard = interrupt.clone();
        assert!(!heard.is_draining());
        interrupt.drain();
        assert!(heard.is_draining() && !heard.is_stopping());
        interrupt.stop();
        interrupt.drain();
        assert!(heard.is_stopping());
    }
}
