//! One worker process, as the run sees it.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use super::{Reply, Request, output::LastLines, words};
use crate::{
    context::Reporter,
    executor::JobError,
    job::{Job, JobReport},
    stop::Stop,
};

/// How often it is looked whether a job is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long a job that is to stop may take to do so before its process is killed.
const GRACE: Duration = Duration::from_millis(500);

/// How workers are started.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) envs: BTreeMap<String, String>,
}

/// A worker that is idle, or runs one job.
pub(super) struct Process {
    child: Child,
    requests: UnixStream,
    replies: Receiver<Reply>,
    printed: LastLines,
    jobs: u64,
    /// The GPUs that it sees.
    pub(super) gpus: Vec<usize>,
    /// What its last job had loaded.
    pub(super) holds: Option<String>,
}

impl Process {
    /// Starts a worker that sees the GPUs `gpus`. On the thread on which this is called the worker depends: it dies with
    /// that (Linux takes the thread for the parent).
    pub(super) fn start(start: &Start, gpus: Vec<usize>) -> io::Result<Self> {
        let (requests, theirs) = UnixStream::pair()?;
        let (printed, print) = io::pipe()?;
        let visible = gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut command = Command::new(&start.program);
        command.args(&start.args).envs(&start.envs).env("CUDA_VISIBLE_DEVICES", visible);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(print.try_clone()?).stderr(print);
        // Ctrl-C is for the run to hear; it decides what becomes of its workers.
        command.process_group(0);
        let child = command.spawn()?;
        // Else the ends that the child has would stay open here.
        drop(command);
        let (send, replies) = mpsc::channel();
        let mut lines = BufReader::new(requests.try_clone()?).lines();
        thread::spawn(move || {
            while let Some(Ok(line)) = lines.next() {
                let Ok(reply) = serde_json::from_str(&line) else { break };
                if send.send(reply).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, requests, replies, printed: LastLines::of(printed), jobs: 0, gpus, holds: None })
    }

    /// Runs `job` to its end. Whether the process can take another one is told beside the result.
    pub(super) fn run(
        &mut self,
        job: Job,
        reporter: &dyn Reporter,
        stop: &Stop,
    ) -> (Result<JobReport, JobError>, bool) {
        self.jobs += 1;
        self.printed.clear();
        let id = self.jobs;
        if self.say(&Request::Run { id, job: Box::new(job) }).is_err() {
            return (Err(self.crashed()), false);
        }
        let mut stopping: Option<Instant> = None;
        let mut told = false;
        loop {
            match self.replies.recv_timeout(LOOK) {
                Ok(Reply::Progress { done, total, unit }) => reporter.progress(done, total, &unit),
                Ok(Reply::Note(line)) => reporter.note(&line),
                Ok(Reply::Warn(line)) => reporter.warn(&line),
                Ok(Reply::Done(report)) => return (Ok(report), true),
                // After a panic a library may be in any state.
                Ok(Reply::Failed(error @ JobError::Panicked { .. })) => return (Err(error), false),
                Ok(Reply::Failed(error)) => return (Err(error), true),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return (Err(self.crashed()), false),
            }
            if stop.is_soon() && !told {
                told = true;
                let _ = self.say(&Request::End { id });
            }
            if stop.is_now() {
                let since = *stopping.get_or_insert_with(|| {
                    let _ = self.say(&Request::Stop { id });
                    Instant::now()
                });
                if since.elapsed() >= GRACE {
                    return (Err(JobError::Cancelled), false);
                }
            }
        }
    }

    /// Whether it still runs. An idle one may have been killed.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn say(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.requests.write_all(&line)
    }

    fn crashed(&mut self) -> JobError {
        let how = words::ended(self.wait());
        JobError::Crashed { how, output: self.printed.after_the_end() }
    }

    /// How it ended. One that closed its socket and goes on is no worker any more.
    fn wait(&mut self) -> Option<ExitStatus> {
        for _ in 0..100 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has nothing to lose: what a job made is recorded by the run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
