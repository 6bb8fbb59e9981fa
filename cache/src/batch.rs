//! Group commit: results that come in quick succession are made durable together. One sync costs about as much for a
//! hundred small files as for one, and a cold run of small stages would else do little but wait for the disk.
//!
//! Within the process a result counts as soon as it is handed in. For everyone else it appears when its record gets its
//! name, and that comes only after its blobs and the record's bytes are on disk: a power cut at any moment loses whole
//! results, never parts. Until then the right to make the result is kept, so that nobody makes it meanwhile.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tempfile::NamedTempFile;

use crate::{Cache, CacheError, Hold, KeyLock, Record, StageKey, StoredResult, durable, error::io};

#[cfg(test)]
mod tests;

/// How long the first result of a batch waits for others.
const WAIT: Duration = Duration::from_millis(100);
/// More results than this are not collected: each may hold a lock, and open files are few.
const MOST: usize = 128;

/// Results on their way to the disk, and the thread that brings them there. Dropping it waits for that.
pub(crate) struct Batch {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: Vec<Pending>,
    /// Handed in and not yet recorded, those that are being recorded among them.
    announced: HashMap<StageKey, Arc<StoredResult>>,
    /// Somebody waits: don't wait for more.
    hurry: bool,
    closed: bool,
    /// The first thing that went wrong and was not told yet.
    error: Option<CacheError>,
}

struct Pending {
    key: StageKey,
    record: NamedTempFile,
    to: PathBuf,
    blobs: Vec<PathBuf>,
    _lock: Option<Arc<KeyLock>>,
    _hold: Arc<Hold>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Batch")
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    /// The same cache, in which results become durable in batches: call [`Cache::flush`] when the last is published.
    /// A cache that can't be written is given back as it is.
    pub fn batched(&self) -> Self {
        if self.is_read_only() || self.batch().is_some() {
            return self.clone();
        }
        let shared = Arc::new(Shared::default());
        let (cache, work) = (self.clone(), shared.clone());
        let (ready, started) = mpsc::channel();
        let thread = std::thread::Builder::new().name("commit".to_owned()).spawn(move || {
            let _ = ready.send(());
            commit_all(&cache, &work);
        });
        match thread {
            Ok(thread) if started.recv().is_ok() => {
                self.with_batch(Arc::new(Batch { shared, thread: Mutex::new(Some(thread)) }))
            }
            // Without the thread each result is made durable by itself.
            _ => self.clone(),
        }
    }

    /// Waits until all results published so far are recorded and durable; then their files need not be hashed again.
    ///
    /// # Errors
    /// If one of them, or one before, could not be written.
    pub fn flush(&self) -> Result<(), CacheError> {
        let Some(batch) = self.batch() else {
            self.settle_fresh();
            return Ok(());
        };
        let mut state = batch.shared.state();
        state.hurry = true;
        batch.shared.changed.notify_all();
        while !state.announced.is_empty() {
            state = batch.shared.wait(state);
        }
        state.hurry = false;
        let failed = state.error.take();
        drop(state);
        // Only what is durable: an index may reach the disk before the bytes that it vouches for.
        self.settle_fresh();
        failed.map_or_else(|| durable::sync_names(self.root()), Err)
    }

    /// A result that is published and on its way to its record.
    pub(crate) fn announced(&self, key: &StageKey) -> Option<Arc<StoredResult>> {
        self.batch()?.shared.state().announced.get(key).cloned()
    }

    /// Hands a record in; `file` holds its bytes.
    pub(crate) fn announce(
        &self,
        batch: &Batch,
        record: &Record,
        file: NamedTempFile,
        lock: Option<Arc<KeyLock>>,
    ) -> Result<(), CacheError> {
        let result = Arc::new(StoredResult::from(record));
        let own = |blob: &PathBuf| blob.exists();
        let blobs = result.files().map(|(.., entry)| self.spread("objects", &entry.blob)).filter(own).collect();
        let pending = Pending {
            key: record.key,
            record: file,
            to: self.spread("records", &record.key),
            blobs,
            _lock: lock,
            _hold: self.hold()?,
        };
        let mut state = batch.shared.state();
        while state.announced.len() >= MOST && !state.closed {
            state = batch.shared.wait(state);
        }
        state.announced.insert(record.key, result);
        state.pending.push(pending);
        batch.shared.changed.notify_all();
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that records results broke off; those of the last moments are not recorded");
        }
        if let Some(error) = self.shared.state().error.take() {
            tracing::error!(%error, "results of the last moments are not recorded");
        }
    }
}

/// The committing thread.
fn commit_all(cache: &Cache, shared: &Shared) {
    let mut state = shared.state();
    loop {
        if state.pending.is_empty() {
            if state.closed {
                return;
            }
            state = shared.wait(state);
            continue;
        }
        let more = |state: &mut State| !state.closed && !state.hurry && state.pending.len() < MOST / 2;
        let waited = shared.changed.wait_timeout_while(state, WAIT, more);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let batch = std::mem::take(&mut state.pending);
        drop(state);
        let keys: Vec<StageKey> = batch.iter().map(|pending| pending.key).collect();
        let done = commit(cache, batch);
        state = shared.state();
        keys.iter().for_each(|key| _ = state.announced.remove(key));
        if let Err(error) = done {
            state.error.get_or_insert(error);
        }
        shared.changed.notify_all();
    }
}

/// Records a batch: first all bytes and the names of blobs reach the disk, and only then records get their names.
fn commit(cache: &Cache, batch: Vec<Pending>) -> Result<(), CacheError> {
    let blobs = batch.iter().flat_map(|pending| &pending.blobs).map(PathBuf::as_path);
    let records = batch.iter().map(|pending| pending.record.path());
    durable::sync_batch(cache.root(), blobs, records)?;
    for pending in batch {
        let dir = pending.to.parent().unwrap_or(cache.root());
        std::fs::create_dir_all(dir).map_err(io("make the folder", dir))?;
        if !durable::move_new(pending.record.path(), &pending.to)? {
            // Only where locks don't work can somebody else have made it meanwhile.
            tracing::warn!(path = %pending.to.display(), "a result was recorded by somebody else; theirs stays");
        }
    }
    Ok(())
}
