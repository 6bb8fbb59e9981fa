//! Named roots: results that the collector keeps whatever runs there were since.

use std::{collections::BTreeMap, fs, io};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Cache, CacheError, StageKey, durable,
    error::{io, reason},
    walk::entries,
};

/// A named set of results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its name.
    pub name: String,
    /// The pipeline that they were pinned from.
    pub pipeline: String,
    /// When.
    pub pinned: Timestamp,
    /// The results, by address.
    pub results: BTreeMap<String, StageKey>,
}

/// Why something is not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The name can't be a file's.
    #[error("`{0}` can't name a pin: use letters, digits, `-`, `_` and `.` (not first), 64 at most")]
    Name(String),
    /// There is another pin of this name.
    #[error("there is a pin `{}` already: {} of {}", .0.name, counted(.0.results.len()), .0.pipeline)]
    Taken(Box<Pin>),
    /// The file can't be read.
    #[error("the pin {path} can't be read: {problem}")]
    Damaged {
        /// Its file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

fn counted(results: usize) -> String {
    if results == 1 { "one result".to_owned() } else { format!("{results} results") }
}

impl Cache {
    /// Writes a pin.
    ///
    /// # Errors
    /// If its name can't be one, is taken (and `replace` not given), or it can't be written.
    pub fn pin(&self, pin: &Pin, replace: bool) -> Result<(), PinError> {
        self.writable()?;
        check_name(&pin.name)?;
        if let Some(there) = self.pins()?.into_iter().find(|there| there.name == pin.name) {
            if there.results == pin.results {
                return Ok(());
            }
            if !replace {
                return Err(PinError::Taken(Box::new(there)));
            }
        }
        let dir = self.dir("pins");
        let path = dir.join(&pin.name);
        let damaged = |error: serde_json::Error| PinError::Damaged {
            path: path.display().to_string(),
            problem: error.to_string(),
        };
        let file = self.temporary(&serde_json::to_vec_pretty(pin).map_err(damaged)?)?;
        durable::sync_file(file.path())?;
        fs::create_dir_all(&dir).map_err(io("make the folder", &dir))?;
        file.persist(&path).map_err(|error| io("write", &path)(error.error))?;
        durable::sync_dirs([dir.as_path()])?;
        Ok(())
    }

    /// All pins, in order of name.
    ///
    /// # Errors
    /// If one can't be read: what it keeps is not known then, so nothing may be collected.
    pub fn pins(&self) -> Result<Vec<Pin>, PinError> {
        let mut pins = Vec::new();
        for entry in entries(&self.dir("pins"))? {
            let path = entry.path();
            let damaged = |problem: String| PinError::Damaged { path: path.display().to_string(), problem };
            let bytes = fs::read(&path).map_err(|error| damaged(reason(&error)))?;
            let pin: Pin = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
            if entry.file_name() != *pin.name {
                return Err(damaged(format!("it names itself `{}`", pin.name)));
            }
            pins.push(pin);
        }
        Ok(pins)
    }

    /// Removes the pin `name`; tells whether there was one.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn unpin(&self, name: &str) -> Result<bool, PinError> {
        self.writable()?;
        check_name(name)?;
        let path = self.dir("pins").join(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io("remove", path)(error).into()),
        }
    }
}

fn check_name(name: &str) -> Result<(), PinError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = (1..=64).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.');
    if good { Ok(()) } else { Err(PinError::Name(name.chars().take(80).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cache, record};

    fn pin(name: &str, seeds: &[u64]) -> Pin {
        let results = seeds.iter().map(|seed| (format!("a[seed={seed}]"), record(*seed).key)).collect();
        Pin { name: name.to_owned(), pipeline: "p".to_owned(), pinned: Timestamp::UNIX_EPOCH, results }
    }

    #[test]
    fn pins_stay_until_they_are_removed() {
        let (_dir, cache) = cache();
        assert_eq!(cache.pins().unwrap(), []);
        let [paper, draft] = [pin("paper-1.0", &[1, 2]), pin("draft", &[3])];
        cache.pin(&paper, false).unwrap();
        cache.pin(&draft, false).unwrap();
        assert_eq!(cache.pins().unwrap(), [draft.clone(), paper]);
        assert!(cache.unpin("paper-1.0").unwrap());
        assert!(!cache.unpin("paper-1.0").unwrap());
        assert_eq!(Cache::open(cache.root()).unwrap().pins().unwrap(), [draft]);
    }

    #[test]
    fn a_name_that_is_taken_is_not_taken_over() {
        let (_dir, cache) = cache();
        cache.pin(&pin("a", &[1]), false).unwrap();
        cache.pin(&pin("a", &[1]), false).unwrap();
        let error = cache.pin(&pin("a", &[2]), false).unwrap_err().to_string();
        assert_eq!(error, "there is a pin `a` already: one result of p");
        cache.pin(&pin("a", &[2, 3]), true).unwrap();
        assert_eq!(cache.pins().unwrap()[0].results.len(), 2);
    }

    #[test]
    fn names_stay_in_their_folder() {
        let (_dir, cache) = cache();
        for name in ["", ".", "..", "../a", "a/b", ".hidden", "a b", "é", &"a".repeat(65)] {
            assert!(matches!(cache.pin(&pin(name, &[1]), true), Err(PinError::Name(_))), "{name}");
            assert!(matches!(cache.unpin(name), Err(PinError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_damaged_pin_is_told() {
        let (_dir, cache) = cache();
        cache.pin(&pin("a", &[1]), false).unwrap();
        let path = cache.root().join("pins/a");
        fs::copy(&path, cache.root().join("pins/b")).unwrap();
        assert!(cache.pins().unwrap_err().to_string().contains("names itself `a`"));
        fs::remove_file(cache.root().join("pins/b")).unwrap();
        fs::write(&path, "{").unwrap();
        assert!(cache.pins().unwrap_err().to_string().contains("pins/a can't be read"), "{:?}", cache.pins());
    }
}
