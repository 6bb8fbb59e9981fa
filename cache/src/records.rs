//! Records on disk: one immutable file per key, created without ever replacing one, so the first wins.

use std::{fs, io, path::Path, sync::Arc};

use crate::{
    Cache, KeyLock, Record, RecordError, StageKey, durable,
    error::{CacheError, io},
    parse_record,
};

const ATTEMPTS: usize = 3;

/// What came of publishing a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Published {
    /// It is the record of its key now.
    New,
    /// Another one was there first, and stays.
    Existed(Box<Record>),
}

impl Cache {
    /// The record of `key`. One that is cut short or altered is set aside, and `None` given.
    ///
    /// # Errors
    /// If it can't be read, or another version wrote it.
    pub fn record(&self, key: &StageKey) -> Result<Option<Record>, CacheError> {
        let path = self.spread("records", key);
        match read(&path, key)? {
            Found::Record(record) => Ok(Some(*record)),
            Found::Nothing => Ok(None),
            Found::Damaged(error) => {
                tracing::warn!(path = %path.display(), %error, "a record is damaged; its result counts as lost");
                self.set_aside(&path, || Ok(matches!(read(&path, key)?, Found::Damaged(_))));
                Ok(None)
            }
        }
    }

    /// Publishes a record, unless its key has one. Its blobs must be in the cache by now.
    ///
    /// # Errors
    /// If it can't be written, or would not read back the same.
    pub fn publish(&self, record: &Record) -> Result<Published, CacheError> {
        self.publish_held(record, None)
    }

    /// The same, by whoever holds the right to make the result, which is kept until others can see it.
    ///
    /// # Errors
    /// As for [`Cache::publish`].
    pub fn publish_held(&self, record: &Record, lock: Option<Arc<KeyLock>>) -> Result<Published, CacheError> {
        self.writable()?;
        let bytes = record
            .to_bytes()
            .map_err(|source| CacheError::Record { address: record.execution.address.clone(), source })?;
        let path = self.spread("records", &record.key);
        let dir = path.parent().unwrap_or(self.root());
        fs::create_dir_all(dir).map_err(io("make the folder", dir))?;
        for _ in 0..ATTEMPTS {
            if let Some(first) = self.record(&record.key)? {
                return Ok(Published::Existed(Box::new(first)));
            }
            let file = self.temporary(&bytes)?;
            durable::read_only(file.path())?;
            #[cfg(test)]
            durable::journal::tell(file.path(), durable::journal::Op::Written(durable::journal::inode(file.path())));
            if let Some(batch) = self.batch() {
                self.announce(batch, record, file, lock)?;
                return Ok(Published::New);
            }
            durable::sync_file(file.path())?;
            if durable::move_new(file.path(), &path)? {
                durable::sync_dirs([dir])?;
                return Ok(Published::New);
            }
        }
        // There is a damaged record that could not be set aside.
        Err(io("replace", &path)(io::ErrorKind::AlreadyExists.into()))
    }

    /// Sets a record aside: its outputs can't be had again.
    ///
    /// # Errors
    /// If the cache is read-only.
    pub fn forget(&self, key: &StageKey) -> Result<(), CacheError> {
        self.writable()?;
        let path = self.spread("records", key);
        self.set_aside(&path, || Ok(path.exists()));
        Ok(())
    }
}

enum Found {
    Record(Box<Record>),
    Nothing,
    Damaged(RecordError),
}

fn read(path: &Path, key: &StageKey) -> Result<Found, CacheError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(io("read", path)(error)),
    };
    match parse_record(&bytes) {
        Ok(record) if record.key == *key => Ok(Found::Record(Box::new(record))),
        Ok(record) => Ok(Found::Damaged(RecordError::Key { found: record.key, expected: *key })),
        Err(RecordError::Format(found)) => Err(CacheError::Format {
            path: path.to_owned(),
            found: found.to_string(),
            expected: Record::FORMAT.to_string(),
        }),
        Err(error) => Ok(Found::Damaged(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::testing::{cache, flip_bit, names, record, rewrite};

    #[test]
    fn the_first_record_of_a_key_stays() {
        let (_dir, cache) = cache();
        let first = record(1);
        assert_eq!(cache.record(&first.key).unwrap(), None);
        assert_eq!(cache.publish(&first).unwrap(), Published::New);
        let mut second = first.clone();
        second.execution.host = "other".to_owned();
        assert_eq!(cache.publish(&second).unwrap(), Published::Existed(Box::new(first.clone())));
        assert_eq!(cache.record(&first.key).unwrap(), Some(first));
        assert_eq!(cache.record(&record(2).key).unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_set_aside_and_can_be_made_again() {
        let damages: [fn(&Path); 4] = [
            |path| rewrite(path, &fs::read(path).unwrap()[..100], &fs::metadata(path).unwrap()),
            |path| rewrite(path, b"", &fs::metadata(path).unwrap()),
            |path| rewrite(path, &record(2).to_bytes().unwrap(), &fs::metadata(path).unwrap()),
            flip_bit,
        ];
        for damage in damages {
            let (_dir, cache) = cache();
            let record = record(1);
            cache.publish(&record).unwrap();
            damage(&cache.spread("records", &record.key));
            assert_eq!(cache.record(&record.key).unwrap(), None);
            assert_eq!(names(&cache, "corrupt").len(), 1);
            assert_eq!(cache.publish(&record).unwrap(), Published::New);
            assert_eq!(cache.record(&record.key).unwrap(), Some(record));
        }
    }

    #[test]
    fn publishing_over_a_damaged_record_works() {
        let (_dir, cache) = cache();
        let record = record(1);
        cache.publish(&record).unwrap();
        flip_bit(&cache.spread("records", &record.key));
        assert_eq!(cache.publish(&record).unwrap(), Published::New);
    }

    #[test]
    fn a_forgotten_record_is_gone_but_kept_aside() {
        let (_dir, cache) = cache();
        let record = record(1);
        cache.forget(&record.key).unwrap();
        cache.publish(&record).unwrap();
        cache.forget(&record.key).unwrap();
        assert_eq!(cache.record(&record.key).unwrap(), None);
        assert_eq!(names(&cache, "corrupt").len(), 1);
    }

    #[test]
    fn a_record_of_another_version_is_left_alone() {
        let (_dir, cache) = cache();
        let mut newer = record(1);
        cache.publish(&newer).unwrap();
        newer.format = 2;
        let body = serde_json::to_vec(&newer).unwrap();
        let checksum = crate::Digest::<crate::digest::RecordBytes>::of(&body);
        let bytes = [format!("{{\"checksum\":\"{checksum}\",\n\"record\":").as_bytes(), &body, b"}\n"].concat();
        let path = cache.spread("records", &newer.key);
        rewrite(&path, &bytes, &fs::metadata(&path).unwrap());
        assert!(matches!(cache.record(&newer.key), Err(CacheError::Format { found, .. }) if found == "2"));
        assert!(path.exists());
    }

    #[test]
    fn of_eight_that_publish_at_once_one_wins() {
        let (_dir, cache) = cache();
        let barrier = Barrier::new(8);
        let results: Vec<Published> = std::thread::scope(|scope| {
            let publish = |n: u64| {
                let (cache, barrier) = (Cache::open(cache.root()).unwrap(), &barrier);
                let mut record = record(1);
                record.execution.host = format!("host {n}");
                scope.spawn(move || {
                    barrier.wait();
                    cache.publish(&record).unwrap()
                })
            };
            let threads: Vec<_> = (0..8).map(publish).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let first = cache.record(&record(1).key).unwrap().unwrap();
        let existed = Published::Existed(Box::new(first));
        assert_eq!(results.iter().filter(|result| **result == Published::New).count(), 1);
        assert_eq!(results.iter().filter(|result| **result == existed).count(), 7);
    }

    #[test]
    fn a_bad_record_is_an_error_with_its_address() {
        let (_dir, cache) = cache();
        let mut wrong = record(1);
        wrong.key = record(2).key;
        let error = cache.publish(&wrong).unwrap_err().to_string();
        assert!(error.starts_with("the record of completions[seed=1] can't be stored: its key is"), "{error}");
    }
}
