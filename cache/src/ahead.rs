//! Looking results up before anyone asks for them: while a pipeline's file is read, and keys can't be known yet, cores are
//! idle, and what its instances were last is mostly what they are now.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{Cache, Hold, StageKey, StoredResult, check::Checks};

/// Keys looked up between two looks at whether to stop.
const CHUNK: usize = 32;

/// A look ahead that is going on.
pub(crate) struct Ahead {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Found>,
}

/// What a look ahead has found so far.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) whole: HashMap<StageKey, Arc<StoredResult>>,
    /// Since before the first look, so that what was found is still there.
    pub(crate) _hold: Option<Arc<Hold>>,
}

impl Cache {
    /// Begins to look up what the instances of `pipeline` were last, until [`Cache::check_all`] asks for it. Nothing
    /// comes of it but time saved; while a collector is at work, there is none of it.
    pub fn look_ahead(&self, pipeline: &str) {
        let (cache, pipeline, stop) = (self.clone(), pipeline.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let look = move || {
            let Some(hold) = cache.try_hold() else { return Found::default() };
            let mut checks = Checks::default();
            for keys in cache.lasts(&pipeline).chunks(CHUNK) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                checks = checks.and(cache.check_some(keys));
            }
            Found { whole: cache.remember(checks), _hold: Some(hold) }
        };
        // Where no thread can be had, there is no look ahead.
        let started = thread::Builder::new().name("look-ahead".to_owned()).spawn(look);
        *self.ahead().lock().unwrap_or_else(PoisonError::into_inner) =
            started.ok().map(|thread| Ahead { stop, thread });
    }

    /// Ends the look ahead, and takes what it has found.
    pub(crate) fn found_ahead(&self) -> Found {
        let Some(ahead) = self.ahead().lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Found::default();
        };
        ahead.stop.store(true, Ordering::Relaxed);
        ahead.thread.join().unwrap_or_default()
    }
}
