//! Looking up many results at once: what a plan asks first. The looks are system calls that wait on nothing of each
//! other, so they are spread over the cores.

use std::{collections::HashMap, hash::BuildHasherDefault, sync::Arc};

use rayon::prelude::*;

use crate::{Cache, CacheError, FileEntry, StageKey, StoredResult, results::Prefix, stat::Stat};

/// A recorded result, and which of its files can't be had.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The result.
    pub result: Arc<StoredResult>,
    /// Port (none: the log) and name of each file that is lost.
    pub lost: Vec<(Option<String>, String)>,
}

/// Results that were looked up.
#[derive(Default)]
pub(crate) struct Checks {
    /// Those that are whole.
    whole: Vec<Arc<StoredResult>>,
    /// Those that the index doesn't know yet, with the stat of their records' files.
    new: Vec<(Stat, Arc<StoredResult>)>,
}

impl Checks {
    pub(crate) fn and(mut self, more: Self) -> Self {
        self.whole.extend(more.whole);
        self.new.extend(more.new);
        self
    }
}

/// Keys that are checked by one core in a row.
const CHUNK: usize = 128;

impl Cache {
    /// The recorded result of `key`, with each of its files verified.
    ///
    /// # Errors
    /// If the record or a file is there but can't be read, or another version wrote the record.
    pub fn check(&self, key: &StageKey) -> Result<Option<Checked>, CacheError> {
        let Some(result) = self.stored(key)? else { return Ok(None) };
        let mut lost = Vec::new();
        for (port, file, entry) in result.files() {
            if !self.has(&entry)? {
                lost.push((port.map(str::to_owned), file.to_owned()));
            }
        }
        Ok(Some(Checked { result, lost }))
    }

    /// Those of `keys` that have a whole result, as [`Cache::check`] finds them one by one; about the others it says
    /// nothing.
    pub fn check_all(&self, keys: &[StageKey]) -> HashMap<StageKey, Arc<StoredResult>> {
        let mut ahead = self.found_ahead();
        let mut whole: HashMap<_, _> = keys.iter().filter_map(|key| ahead.whole.remove_entry(key)).collect();
        let rest: Vec<StageKey> = keys.iter().filter(|key| !whole.contains_key(key)).copied().collect();
        let checks = rest.par_chunks(CHUNK).map(|keys| self.check_some(keys));
        whole.extend(self.remember(checks.reduce(Checks::default, Checks::and)));
        whole
    }

    /// Checks `keys` one after the other.
    pub(crate) fn check_some(&self, keys: &[StageKey]) -> Checks {
        let mut checks = Checks::default();
        // Each blob once: an empty log is the log of most stages.
        let mut seen: HashMap<FileEntry, bool, BuildHasherDefault<Prefix>> = HashMap::default();
        for (result, new) in keys.iter().filter_map(|key| self.look_up(key).ok().flatten()) {
            checks.new.extend(new.map(|stat| (stat, result.clone())));
            let mut has = |entry| *seen.entry(entry).or_insert_with(|| self.has(&entry).unwrap_or(false));
            if result.files().all(|(.., entry)| has(entry)) {
                checks.whole.push(result);
            }
        }
        checks
    }

    /// Adds what is new of `checks` to the index; the whole results, by key.
    pub(crate) fn remember(&self, checks: Checks) -> HashMap<StageKey, Arc<StoredResult>> {
        self.results().add(&checks.new);
        checks.whole.into_iter().map(|result| (result.key, result)).collect()
    }

    /// Has the index know the results of `keys`, as a later process will want them; this one need not remember them.
    pub fn index_results(&self, keys: &[StageKey]) {
        // All records at once may be more than a whole plan.
        for some in keys.chunks(1000) {
            let new = |(result, stat)| Option::zip(stat, Some(result));
            let new: Vec<_> =
                some.par_iter().filter_map(|key| self.look_up(key).ok().flatten().and_then(new)).collect();
            self.results().append(&new);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{cache, entry, flip_bit, later, record};

    #[test]
    fn results_are_indexed_for_the_next_process() {
        let (_dir, cache) = cache();
        let records: Vec<_> = (0..3).map(record).collect();
        records.iter().for_each(|record| _ = cache.publish(record).unwrap());
        let keys: Vec<_> = records.iter().map(|record| record.key).chain([record(99).key]).collect();
        // Long enough that no other change could have left the same times.
        std::thread::sleep(std::time::Duration::from_millis(100));
        cache.index_results(&keys);
        for (cache, known) in [(&cache, false), (&Cache::open(cache.root()).unwrap(), true)] {
            for record in &records {
                let stat = Stat::of(&fs::metadata(cache.spread("records", &record.key)).unwrap());
                let found = cache.results().get(&record.key, &stat);
                assert_eq!(found, known.then(|| Arc::new(StoredResult::from(record))));
            }
        }
    }

    #[test]
    fn looking_up_many_at_once_finds_what_looking_one_by_one_does() {
        let (_dir, cache) = cache();
        let records: Vec<_> = (0..20u64)
            .map(|n| {
                let mut record = record(n);
                record.log = cache.put_bytes(b"log").unwrap();
                let file = cache.put_bytes(&n.to_le_bytes()).unwrap();
                record.outputs.values_mut().for_each(|tree| _ = tree.0.insert("a".to_owned(), file));
                cache.publish(&record).unwrap();
                record
            })
            .collect();
        let keys: Vec<_> = records.iter().map(|record| record.key).chain([record(99).key]).collect();
        // In the indexes by now, so that only stats can tell what comes.
        assert_eq!(later(|| keys.iter().filter(|key| cache.check(key).unwrap().is_some()).count()), 20);
        assert_eq!(cache.check_all(&keys).len(), 20);

        fs::remove_file(cache.spread("records", &keys[1])).unwrap();
        flip_bit(&cache.spread("records", &keys[2]));
        fs::remove_file(cache.spread("objects", &entry(&3u64.to_le_bytes()).blob)).unwrap();
        flip_bit(&cache.spread("objects", &entry(&4u64.to_le_bytes()).blob));
        let found = cache.check_all(&keys);
        let again = Cache::open(cache.root()).unwrap();
        for (n, key) in keys.iter().enumerate() {
            for cache in [&cache, &again] {
                let one = cache.check(key).unwrap();
                let whole = one.as_ref().filter(|checked| checked.lost.is_empty()).map(|checked| &checked.result);
                assert_eq!(found.get(key), whole, "{n}");
                assert_eq!(whole.is_some(), ![1, 2, 3, 4, 20].contains(&n), "{n}");
                assert_eq!(one.is_some(), ![1, 2, 20].contains(&n), "{n}");
            }
        }
    }
}
