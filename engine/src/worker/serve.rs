//! The worker's side: takes jobs one after the other, runs each, tells how it goes.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{BufRead, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{Reply, Request};
use crate::{
    context::Reporter,
    executor::{FindKind, JobError, run_job},
    job::Job,
    stop::Stop,
};

/// Progress is told at most this often.
const PULSE: Duration = Duration::from_millis(20);

/// Serves jobs until `requests` end. If they end in the middle of a job, nobody waits for it any more: `orphaned` is to
/// end the process.
///
/// # Errors
/// If a request can't be read, or a reply can't be written.
pub fn serve(
    find: &FindKind,
    requests: impl BufRead + Send + 'static,
    replies: impl Write + Send,
    orphaned: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let (send, jobs) = mpsc::channel::<(Box<Job>, Arc<Stop>)>();
    let busy = Arc::new(AtomicBool::new(false));
    let working = busy.clone();
    let reader = thread::spawn(move || {
        let read = read(requests, &send, &working);
        if working.load(Ordering::SeqCst) {
            orphaned();
        }
        read
    });
    let replies = Replies { to: Mutex::new(replies), pending: Mutex::default() };
    for (job, stop) in jobs {
        reset_peak_memory();
        let kind = find(&job.kind);
        let ran = match kind {
            Some(kind) => run_job(&*kind, &job, &replies, &stop),
            None => Err(JobError::UnknownKind(job.kind.clone())),
        };
        replies.flush();
        busy.store(false, Ordering::SeqCst);
        let reply = match ran {
            Ok(mut report) => {
                report.peak_memory_mib = report.peak_memory_mib.max(peak_memory_mib());
                Reply::Done(report)
            }
            Err(error) => Reply::Failed(error),
        };
        replies.say(&reply)?;
    }
    reader.join().unwrap_or_else(|_| Err(io::Error::other("reading requests failed")))
}

fn read(requests: impl BufRead, jobs: &mpsc::Sender<(Box<Job>, Arc<Stop>)>, busy: &AtomicBool) -> io::Result<()> {
    let mut current = (0, Arc::new(Stop::default()));
    for line in requests.lines() {
        match serde_json::from_str(&line?)? {
            Request::Run { id, job } => {
                current = (id, Arc::new(Stop::default()));
                busy.store(true, Ordering::SeqCst);
                if jobs.send((job, current.1.clone())).is_err() {
                    break;
                }
            }
            // One that is over already must not stop the next.
            Request::End { id } if id == current.0 => current.1.soon(),
            Request::Stop { id } if id == current.0 => current.1.now(),
            Request::End { .. } | Request::Stop { .. } => {}
        }
    }
    Ok(())
}

struct Replies<W> {
    to: Mutex<W>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// The last progress of each unit that was not told yet.
    units: BTreeMap<String, (u64, u64)>,
    /// When some was told.
    told: Option<Instant>,
}

impl<W: Write> Replies<W> {
    fn say(&self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        to.write_all(&line)?;
        to.flush()
    }

    /// Tells what is pending. If nobody hears it, the end of the requests tells so too.
    fn flush(&self) {
        let pending = std::mem::take(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner).units);
        for (unit, (done, total)) in pending {
            let _ = self.say(&Reply::Progress { done, total, unit });
        }
    }
}

impl<W: Write + Send> Reporter for Replies<W> {
    fn progress(&self, done: u64, total: u64, unit: &str) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        pending.units.insert(unit.to_owned(), (done, total));
        if pending.told.is_none_or(|told| now - told >= PULSE) {
            pending.told = Some(now);
            drop(pending);
            self.flush();
        }
    }

    fn note(&self, line: &str) {
        self.flush();
        let _ = self.say(&Reply::Note(line.to_owned()));
    }

    fn warn(&self, line: &str) {
        self.flush();
        let _ = self.say(&Reply::Warn(line.to_owned()));
    }
}

/// Has the kernel kill this process when the one that started it dies, even if this one is stuck.
///
/// # Errors
/// If the kernel refuses.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// The most memory that this process held since [`reset_peak_memory`], where the system tells.
fn peak_memory_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.div_ceil(1024))
}

fn reset_peak_memory() {
    // Where it can't be, the peak is that of all jobs so far: more than the truth, and the best there is.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use serde_json::json;

    use super::*;
    use crate::fakes;

    fn job(dir: &std::path::Path, params: serde_json::Value) -> Box<Job> {
        Box::new(Job {
            kind: "text".into(),
            address: "a".into(),
            params,
            files: BTreeMap::new(),
            inputs: BTreeMap::new(),
            scratch: dir.to_owned(),
            folder: std::path::PathBuf::new(),
            checkpoints: None,
            answers: None,
            cpus: 1,
            gpus: vec![],
        })
    }

    #[test]
    fn jobs_are_run_one_after_the_other_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let requests =
            [json!({ "mode": "talk" }), json!({ "mode": "fail", "text": "dice" }), json!({ "mode": "panic" })];
        let lines = requests.into_iter().enumerate().map(|(id, params)| {
            let job = job(dir.path(), params);
            serde_json::to_string(&Request::Run { id: id as u64, job }).unwrap() + "\n"
        });
        let (out, input) = (Mutex::new(Vec::new()), Cursor::new(lines.collect::<String>()));
        struct Shared<'a>(&'a Mutex<Vec<u8>>);
        impl Write for Shared<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        serve(&fakes::find, input, Shared(&out), || {}).unwrap();
        let text = String::from_utf8(out.into_inner().unwrap()).unwrap();
        let replies: Vec<Reply> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let Some(Reply::Done(report)) = replies.iter().find(|reply| matches!(reply, Reply::Done(_))) else {
            panic!("{replies:?}")
        };
        assert_eq!(report.summary["count"], 3);
        assert!(report.peak_memory_mib.is_some_and(|peak| peak > 0));
        assert!(
            replies.iter().any(|reply| matches!(reply, Reply::Progress { done: 3, total: 3, unit } if unit == "step"))
        );
        assert!(
            text.contains(r#"{"warn":"a warning"}"#) && text.contains(r#"{"failed":{"failed":"no luck with dice"}}"#)
        );
        assert!(
            text.ends_with("{\"failed\":{\"panicked\":{\"kind\":\"text\",\"message\":\"out of cheese\"}}}\n"),
            "{text}"
        );
    }
}
