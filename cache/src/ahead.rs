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

/// So few are looked up sooner than a thread is started.
const FEW: usize = 64;

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
        if self.lasts_at_most(pipeline) > FEW {
            self.begin_looking(pipeline);
        }
    }

    fn begin_looking(&self, pipeline: &str) {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{cache, collector, names, record};

    /// Records whose blobs are there, under addresses of the pipeline `p`.
    fn recorded(cache: &Cache, count: u64) -> Vec<StageKey> {
        let one = |n: u64| {
            let mut record = record(n);
            let file = cache.put_bytes(&n.to_le_bytes()).unwrap();
            record.log = file;
            record.outputs.values_mut().for_each(|tree| _ = tree.0.insert("a".to_owned(), file));
            cache.publish(&record).unwrap();
            cache.set_last("p", &n.to_string(), &record.key).unwrap();
            record.key
        };
        (0..count).map(one).collect()
    }

    fn wait(cache: &Cache) {
        while !cache.ahead().lock().unwrap().as_ref().is_none_or(|ahead| ahead.thread.is_finished()) {
            thread::yield_now();
        }
    }

    #[test]
    fn a_look_ahead_finds_what_a_check_does() {
        let (_dir, cache) = cache();
        let mut keys = recorded(&cache, 3 * CHUNK as u64);
        fs::remove_file(cache.spread("records", &keys[1])).unwrap();
        crate::testing::flip_bit(&cache.spread("records", &keys[2]));
        fs::remove_file(cache.spread("objects", &crate::BlobDigest::of(&3u64.to_le_bytes()))).unwrap();
        keys.push(record(9999).key);
        let expected = Cache::open(cache.root()).unwrap().check_all(&keys);
        assert_eq!(expected.len(), keys.len() - 4);
        cache.look_ahead("p");
        assert!(cache.ahead().lock().unwrap().is_some());
        // Ended at any moment, and of all or some of what is asked for then.
        for (wanted, ended) in [(&keys[..], true), (&keys[..], false), (&keys[2..9], true), (&keys[2..9], false)] {
            let cache = Cache::open(cache.root()).unwrap();
            cache.begin_looking("p");
            if ended {
                wait(&cache);
            }
            let found = cache.check_all(wanted);
            let expected = wanted.iter().filter_map(|key| expected.get_key_value(key));
            assert_eq!(found, expected.map(|(key, result)| (*key, result.clone())).collect());
        }
        // It is good for one check: what is lost after that is lost.
        let cache = Cache::open(cache.root()).unwrap();
        cache.begin_looking("p");
        wait(&cache);
        assert!(cache.check_all(&keys).contains_key(&keys[5]));
        fs::remove_file(cache.spread("records", &keys[5])).unwrap();
        assert!(!cache.check_all(&keys).contains_key(&keys[5]));
    }

    #[test]
    fn nothing_is_collected_between_a_look_ahead_and_the_check() {
        let (_dir, cache) = cache();
        let keys = recorded(&cache, 2);
        cache.begin_looking("p");
        wait(&cache);
        thread::scope(|scope| {
            let receive = collector(scope, &cache);
            assert_eq!(receive.recv().unwrap(), "waits");
            assert!(receive.try_recv().is_err());
            assert_eq!(cache.check_all(&keys).len(), 2);
            assert_eq!(receive.recv().unwrap(), "has it");
        });
        // And while a collector is at work, nobody waits for it here.
        let _exclusive = Cache::open(cache.root()).unwrap().exclusive(|| ()).unwrap();
        cache.begin_looking("p");
        wait(&cache);
        assert!(cache.found_ahead().whole.is_empty());
        assert_eq!(cache.check_all(&keys).len(), 2);
    }

    #[test]
    fn looking_ahead_in_a_cache_that_can_only_be_read_writes_nothing() {
        let (_dir, cache) = cache();
        let keys = recorded(&cache, 2);
        // For so few there is no look ahead unless by force.
        cache.look_ahead("p");
        assert!(cache.ahead().lock().unwrap().is_none());
        let before = names(&cache, "locks");
        let read_only = cache.as_read_only();
        read_only.begin_looking("p");
        wait(&read_only);
        assert_eq!(read_only.check_all(&keys).len(), 2);
        assert_eq!(names(&cache, "locks"), before);
        read_only.begin_looking("another");
        assert_eq!(read_only.check_all(&keys).len(), 2);
    }
}
