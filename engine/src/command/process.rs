//! Starting a command, hearing it out, and ending it with all that it started.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, PipeReader, pipe},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::{
    guard::Guard,
    log::Lines,
    sandbox::{Enforced, Offline, Rules},
};
use crate::{context::Context, stage::StageError};

/// How often a running command is looked at.
const TICK: Duration = Duration::from_millis(25);
/// From asking it to end to ending it.
const GRACE: Duration = Duration::from_secs(2);
/// How long the output of a command that has ended may stay open.
const DRAIN: Duration = Duration::from_millis(500);
/// A line is passed on in parts of this size.
const PART: u64 = 1 << 20;

/// A command, ready to start.
pub(super) struct Launch {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: PathBuf,
    /// `None`: it may do whatever it likes.
    pub(super) rules: Option<Arc<Rules>>,
    pub(super) offline: Arc<Offline>,
}

enum Heard {
    Started(Result<(Child, Option<Enforced>), String>),
    Line(Vec<u8>),
    Closed,
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) enforced: Option<Enforced>,
    pub(super) lines: Lines,
}

impl Launch {
    /// Runs it to its end.
    pub(super) fn run(self, guard: &Guard, ctx: &Context<'_>) -> Result<Ended, StageError> {
        let (tell, heard) = channel();
        let folder = self.cwd.clone();
        guard.starting(&folder);
        // A thread of its own, since it is kept to the rules for good.
        let started = thread::Builder::new().name("command".to_owned()).stack_size(256 << 10);
        let started = started
            .spawn(move || self.follow(&tell))
            .map_err(|error| format!("can't start a thread: {error}"))
            .and_then(|_| match heard.recv() {
                Ok(Heard::Started(started)) => started,
                _ => Err("its thread broke off".to_owned()),
            });
        guard.started(&folder, started.as_ref().ok().map(|(child, _)| child.id()));
        let (child, enforced) = started.map_err(StageError::Failed)?;
        let running = Running { group: child.id() };
        let mut lines = Lines::default();
        let ended = running.hear(child, &heard, &mut lines, ctx);
        guard.ended(running.group);
        lines.end(ctx);
        Ok(Ended { status: ended?, enforced, lines })
    }

    /// Starts it and passes on what it prints. What was started in its name and still holds its output may keep this
    /// thread, but nobody waits for it then.
    fn follow(self, tell: &Sender<Heard>) {
        match self.start() {
            Ok((child, enforced, output)) => {
                let _ = tell.send(Heard::Started(Ok((child, enforced))));
                let mut output = BufReader::new(output);
                let mut line = Vec::new();
                while std::io::Read::take(&mut output, PART).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    if line.last() == Some(&b'\n') {
                        line.pop();
                    }
                    if tell.send(Heard::Line(std::mem::take(&mut line))).is_err() {
                        return;
                    }
                }
                let _ = tell.send(Heard::Closed);
            }
            Err(message) => drop(tell.send(Heard::Started(Err(message)))),
        }
    }

    fn start(self) -> Result<(Child, Option<Enforced>, PipeReader), String> {
        let offline: Option<&File> =
            self.rules.as_ref().filter(|rules| !rules.network).and_then(|_| self.offline.get());
        let enforced = match &self.rules {
            Some(rules) => Some(rules.enforce(offline).map_err(|error| format!("its sandbox can't be made: {error}"))?),
            None => None,
        };
        let (output, input) = pipe().map_err(|error| format!("can't make a pipe: {error}"))?;
        let copy = input.try_clone().map_err(|error| format!("can't make a pipe: {error}"))?;
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env_clear().envs(self.env).current_dir(&self.cwd);
        command.process_group(0).stdin(Stdio::null()).stdout(input).stderr(copy);
        let child = command.spawn().map_err(|error| not_started(&self.argv[0], &error))?;
        Ok((child, enforced, output))
    }
}

fn not_started(program: &str, error: &std::io::Error) -> String {
    format!("`{program}` can't be started: {}", palinode_cache::reason(error))
}

/// The process group of a command that was started; its first process leads it.
struct Running {
    group: u32,
}

impl Running {
    /// Listens until its output is closed or it has ended, whichever comes last, but not for long after it has ended.
    fn hear(
        &self,
        mut child: Child,
        heard: &Receiver<Heard>,
        lines: &mut Lines,
        ctx: &Context<'_>,
    ) -> Result<ExitStatus, StageError> {
        let mut stop = Stop::default();
        let mut exited: Option<Instant> = None;
        loop {
            match heard.recv_timeout(TICK) {
                Ok(Heard::Line(line)) => lines.add(&line, ctx),
                Ok(Heard::Closed | Heard::Started(_)) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if exited.is_none() && self.has_ended() => {
                    exited = Some(Instant::now());
                    // What it left behind in its group would write into outputs that are being taken.
                    self.kill(Signal::KILL);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            stop.look(self, ctx);
            if exited.is_some_and(|exited| exited.elapsed() > DRAIN) {
                ctx.warn("a process that it started goes on, and holds its output open; what it writes now is lost");
                break;
            }
        }
        // Mostly it ends with its output, so looking often at first is what costs the least.
        let mut pause = Duration::from_micros(20);
        while !self.has_ended() {
            stop.look(self, ctx);
            thread::sleep(pause);
            pause = (pause * 2).min(TICK);
        }
        // Before it is reaped, its number is nobody else's.
        self.kill(Signal::KILL);
        let status = child.wait().map_err(|error| StageError::failed(format!("it can't be waited for: {error}")))?;
        if stop.asked.is_some() { Err(StageError::Cancelled) } else { Ok(status) }
    }

    fn has_ended(&self) -> bool {
        let Some(pid) = self.pid() else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
    }

    fn kill(&self, signal: Signal) {
        if let Some(group) = self.pid() {
            // It may be empty by now.
            let _ = kill_process_group(group, signal);
        }
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.group).ok().and_then(Pid::from_raw)
    }
}

/// A command that is to end: asked first, then made to.
#[derive(Default)]
struct Stop {
    asked: Option<Instant>,
    made: bool,
}

impl Stop {
    fn look(&mut self, running: &Running, ctx: &Context<'_>) {
        match self.asked {
            None if ctx.is_cancelled() => {
                self.asked = Some(Instant::now());
                running.kill(Signal::TERM);
            }
            Some(asked) if !self.made && asked.elapsed() > GRACE => {
                self.made = true;
                running.kill(Signal::KILL);
            }
            _ => {}
        }
    }
}
