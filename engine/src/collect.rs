//! Garbage collection of a pipeline's cache: which results are roots, and the logs and leftovers that go with runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use palinode_cache::{Cache, CacheError, GcOptions, GcReport, Part, PinError, StageKey, Usage};
use serde::Serialize;

use crate::{
    event::{Event, LogLine},
    runs,
};

/// Files get their times from a clock that ticks every 10 ms or faster, so they may seem older than they are.
const CLOCK: Duration = Duration::from_millis(50);

/// What to keep.
#[derive(Debug, Clone)]
pub struct CollectOptions {
    /// The last so many runs of each pipeline keep their results; so do runs that are going on, and pins.
    pub keep_runs: usize,
    /// Remove what was set aside too.
    pub aside: bool,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What was removed and kept.
#[derive(Debug, Clone, Serialize)]
pub struct Collected {
    /// Whether it was only said.
    pub dry_run: bool,
    /// Counts and bytes.
    #[serde(flatten)]
    pub report: GcReport,
    /// Runs whose results were kept, newest first.
    pub runs: Vec<String>,
    /// Pins whose results were kept.
    pub pins: Vec<String>,
}

/// Why nothing, or not everything, was removed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A pin can't be read, so what it keeps is not known.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A run's log can't be read, so what that run came to is not known.
    #[error("{}: this log of a run is damaged (line {line}), so it isn't known which results the run needs; nothing was removed; delete the log if you don't need them", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Its first line that can't be read, from 1.
        line: usize,
    },
    /// A file can't be read or removed.
    #[error("can't {action} {}: {}", path.display(), palinode_cache::reason(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Removes what neither the last runs nor a pin needs. May be killed at any time, and run while others do: it waits for
/// moments in which no process is between finding a result and telling so, and calls `waiting` if one doesn't come at
/// once.
///
/// # Errors
/// If it isn't known what is needed, or something can't be removed.
pub fn collect(cache: &Cache, options: &CollectOptions, waiting: impl FnOnce()) -> Result<Collected, CollectError> {
    let lock = if options.dry_run { None } else { Some(cache.exclusive(waiting)?) };
    let roots = Roots::find(cache, options.keep_runs)?;
    let mut report = cache.gc(&roots.keys, GcOptions { aside: options.aside }, lock.as_ref())?;
    for (id, keep) in &roots.runs {
        let path = runs::path(cache.root(), id);
        count(Part::Runs, *keep, &path, options.dry_run, &mut report)?;
    }
    for path in failures(cache.root())? {
        // What failed since the oldest run that is kept is worth a look; what came before is history.
        let modified = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
        let modified = modified.and_then(|time| Timestamp::try_from(time + CLOCK).ok());
        let keep = modified.is_none_or(|modified| roots.oldest.is_some_and(|oldest| modified >= oldest));
        count(Part::Failures, keep, &path, options.dry_run, &mut report)?;
    }
    for (key, path) in cache.checkpointed()? {
        // Where there is a result, they were left by a kill.
        let keep = roots.begun.contains(&key) && cache.record(&key)?.is_none();
        count(Part::Checkpoints, keep, &path, options.dry_run, &mut report)?;
    }
    let runs = roots.runs.into_iter().filter(|(_, keep)| *keep).map(|(id, _)| id).collect();
    Ok(Collected { dry_run: options.dry_run, report, runs, pins: roots.pins })
}

fn count(part: Part, keep: bool, path: &Path, dry_run: bool, report: &mut GcReport) -> Result<(), CollectError> {
    report.count(part, !keep, Usage::of(path)?);
    if keep || dry_run {
        return Ok(());
    }
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CollectError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// What failed stages left.
fn failures(root: &Path) -> Result<Vec<PathBuf>, CollectError> {
    let dir = root.join("failed");
    match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(|source| CollectError::Io { action: "read", path: dir, source }),
    }
}

#[derive(Default)]
struct Roots {
    keys: BTreeSet<StageKey>,
    /// What stages of runs that are kept began to make, whatever came of it.
    begun: BTreeSet<StageKey>,
    /// All runs, newest first, and whether they are kept.
    runs: Vec<(String, bool)>,
    /// When the oldest of those that are kept began.
    oldest: Option<Timestamp>,
    pins: Vec<String>,
}

impl Roots {
    fn find(cache: &Cache, keep_runs: usize) -> Result<Self, CollectError> {
        let mut roots = Self::default();
        for pin in cache.pins()? {
            roots.keys.extend(pin.results.values());
            roots.pins.push(pin.name);
        }
        let root = cache.root();
        let dir = root.join("runs");
        let unreadable = |source| CollectError::Io { action: "read", path: dir.clone(), source };
        let mut counts: BTreeMap<(String, PathBuf), usize> = BTreeMap::new();
        for id in runs::ids(root).map_err(unreadable)?.into_iter().rev() {
            let first = runs::first(root, &id);
            let keep = match &first {
                Some(LogLine { event: Event::RunStarted { pipeline, file, .. }, .. }) => {
                    let count = counts.entry((pipeline.clone(), file.clone())).or_default();
                    *count += 1;
                    *count <= keep_runs || runs::is_live(root, &id)
                }
                _ => runs::is_live(root, &id),
            };
            // Of a log without a beginning it isn't known whose it is.
            let headed = matches!(&first, Some(LogLine { event: Event::RunStarted { .. }, .. }));
            if (keep || !headed)
                && let Some(line) = runs::damage(root, &id).map_err(unreadable)?
            {
                return Err(CollectError::Log { path: runs::path(root, &id), line });
            }
            if keep {
                let lines = runs::events(root, &id).map_err(unreadable)?;
                roots.keys.extend(lines.iter().filter_map(|line| result(&line.event)));
                roots.begun.extend(lines.iter().filter_map(|line| begun(&line.event)));
                roots.oldest = first.map(|line| line.time).or(roots.oldest);
            }
            roots.runs.push((id, keep));
        }
        Ok(roots)
    }
}

/// The result that an instance came to.
fn result(event: &Event) -> Option<StageKey> {
    match event {
        Event::StageFinished { key, .. } | Event::StageCached { key, .. } => Some(*key),
        _ => None,
    }
}

/// The result that an instance began to make. One that was interrupted is among the last runs of its pipeline, until so
/// many others were made that nobody will go on with it.
fn begun(event: &Event) -> Option<StageKey> {
    match event {
        Event::StageStarted { key, .. } => Some(*key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fakes::{Pipe, Place},
        plan::Decision,
    };

    fn options(keep_runs: usize) -> CollectOptions {
        CollectOptions { keep_runs, aside: false, dry_run: false }
    }

    /// Two stages, of which the first says `text`.
    fn pipe(text: &str) -> Pipe {
        let mut pipe = Pipe::new();
        let a = pipe.text("a", text);
        pipe.after("b", a, serde_json::json!({ "text": "b" }));
        pipe
    }

    fn hits(place: &Place, text: &str) -> usize {
        place.plan(&pipe(text)).nodes.iter().filter(|node| matches!(node.decision, Decision::Hit(_))).count()
    }

    /// After runs with these texts, made by a process that has ended.
    fn after_runs(texts: &[&str]) -> Place {
        let place = Place::new();
        for text in texts {
            place.run(&pipe(text));
        }
        place.reopened()
    }

    #[test]
    fn the_last_runs_keep_their_results() {
        let place = after_runs(&["one", "two", "one", "three"]);
        let collected = collect(&place.cache, &options(2), || ()).unwrap();
        assert_eq!(collected.report.removed.0[&Part::Records].files, 2);
        assert_eq!(collected.report.removed.0[&Part::Runs].files, 2);
        assert_eq!(collected.runs.len(), 2);
        assert_eq!(["one", "two", "three"].map(|text| hits(&place, text)), [2, 0, 2]);
        place.run(&pipe("two"));
        assert_eq!(hits(&place, "two"), 2, "what was collected can be made again");
    }

    #[test]
    fn where_a_log_is_damaged_nothing_goes() {
        let place = after_runs(&["one", "two"]);
        let ids = runs::ids(place.cache.root()).unwrap();
        let log = runs::path(place.cache.root(), &ids[1]);
        let whole = fs::read(&log).unwrap();
        let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let collected = || collect(&place.cache, &options(1), || ()).map(|collected| collected.runs);
        for (bytes, line) in [
            (b"\x00\xffgarbage\n".to_vec(), 1),
            ([b"garbage\n", &whole[second..]].concat(), 1),
            ([&whole[..second], b"garb\n", &whole[second..]].concat(), 2),
            (whole[second..].to_vec(), 1),
        ] {
            fs::write(&log, bytes).unwrap();
            for dry_run in [true, false] {
                let error = collect(&place.cache, &CollectOptions { dry_run, ..options(1) }, || ()).unwrap_err();
                assert!(matches!(&error, CollectError::Log { line: at, .. } if *at == line), "{error}");
            }
            assert_eq!(hits(&place, "two"), 2);
        }
        // A line that a kill cut off is none.
        fs::write(&log, [&whole[..], b"{\"ti"].concat()).unwrap();
        assert_eq!(collected().unwrap(), [ids[1].clone()]);
    }

    #[test]
    fn a_dry_run_says_the_same_and_does_nothing() {
        let place = after_runs(&["one", "two"]);
        let dry = collect(&place.cache, &CollectOptions { dry_run: true, ..options(1) }, || ()).unwrap();
        assert_eq!(["one", "two"].map(|text| hits(&place, text)), [2, 2]);
        let wet = collect(&place.cache, &options(1), || ()).unwrap();
        assert_eq!(dry.report, wet.report);
        assert_eq!(["one", "two"].map(|text| hits(&place, text)), [0, 2]);
    }

    #[test]
    fn pins_are_roots() {
        let place = after_runs(&["one", "two"]);
        let plan = place.plan(&pipe("one"));
        let key = plan.nodes[1].decision.key().unwrap();
        let results = BTreeMap::from([("b".to_owned(), key)]);
        let pin = palinode_cache::Pin { name: "p".into(), pipeline: "test".into(), pinned: Timestamp::now(), results };
        place.cache.pin(&pin, false).unwrap();
        let place = place.reopened();
        let collected = collect(&place.cache, &options(0), || ()).unwrap();
        assert_eq!(collected.pins, ["p"]);
        assert_eq!(["one", "two"].map(|text| hits(&place, text)), [2, 0]);
    }

    #[test]
    fn what_an_older_failure_left_goes() {
        let place = Place::new();
        let mut bad = Pipe::new();
        bad.add("bad", "text", serde_json::json!({ "mode": "fail" }));
        place.run(&bad);
        let failed = crate::execute::failed_dir(place.cache.root(), "bad");
        assert!(failed.exists());
        collect(&place.cache, &options(1), || ()).unwrap();
        assert!(failed.exists());
        std::thread::sleep(2 * CLOCK);
        place.run(&pipe("one"));
        let collected = collect(&place.cache, &options(1), || ()).unwrap();
        assert!(!failed.exists());
        assert!(collected.report.removed.0[&Part::Failures].files > 0);
    }

    #[test]
    fn checkpoints_stay_while_a_run_that_is_kept_may_go_on() {
        let place = Place::new();
        let mut bad = Pipe::new();
        bad.add("bad", "text", serde_json::json!({ "mode": "fail" }));
        let keys = [
            place.plan(&bad).nodes[0].decision.key().unwrap(),
            place.plan(&pipe("one")).nodes[0].decision.key().unwrap(),
        ];
        place.run(&bad);
        place.run(&pipe("one"));
        // Of a stage that failed, of one that is done (left by a kill), and of none that anybody knows.
        let unknown = palinode_cache::Digest::from_bytes([7; 32]);
        for key in keys.iter().chain([&unknown]) {
            let checkpoints = palinode_cache::Checkpoints::at(place.cache.checkpoints(key));
            let write = |dir: &Path| fs::write(dir.join("state"), "x").map_err(crate::stage::StageError::io(dir));
            checkpoints.save(write).unwrap();
        }
        let kept = || place.cache.checkpointed().unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let dry = collect(&place.cache, &CollectOptions { dry_run: true, ..options(2) }, || ()).unwrap();
        assert_eq!(kept().len(), 3);
        let collected = collect(&place.cache, &options(2), || ()).unwrap();
        assert_eq!(collected.report, dry.report);
        assert_eq!(kept(), [keys[0]]);
        assert_eq!(collected.report.kept.0[&Part::Checkpoints].files, 1);
        // Two runs later nobody will go on with it.
        place.run(&pipe("two"));
        collect(&place.cache, &options(2), || ()).unwrap();
        assert_eq!(kept(), []);
    }
}
