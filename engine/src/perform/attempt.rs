//! One attempt at a job, and what is done when it fails: a timeout ends it, `retries` begin the next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{NoResult, Performed, Task, Took};
use crate::{event::Event, executor::JobError, gpus::Claim, job::JobReport, stage_log::StageLog, stop::Stop};

/// How long a job that was asked to stop may take to do so before it is left to itself.
const GRACE: Duration = Duration::from_secs(5);
/// How often GPUs that another process uses are asked for again.
const RETRY: Duration = Duration::from_millis(100);

impl Task {
    /// Attempts until one succeeds or none is left.
    pub(super) async fn attempts(self) -> Result<Performed, NoResult> {
        let task = Arc::new(self);
        let mut number = 1;
        loop {
            let mut failure = match task.clone().attempt().await {
                Err(NoResult::Failed(failure)) if failure.retry => failure,
                result => return result,
            };
            // What failed is told rather than tried again by a run that is to end.
            let pause = task.attempts.pause(number).filter(|_| !task.interrupt.is_draining());
            let Some(pause) = pause else {
                if number > 1 {
                    failure.message.push_str(&format!(" (attempt {number} of {})", task.attempts.retries + 1));
                }
                return Err(NoResult::Failed(failure));
            };
            let _ = task.events.send(Event::StageRetrying {
                address: task.address.clone(),
                message: failure.message.clone(),
                attempt: number + 1,
                of: task.attempts.retries + 1,
                pause: pause.as_secs_f64(),
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => number += 1,
                () = task.interrupt.draining() => return Err(NoResult::Failed(failure)),
            }
        }
    }

    async fn attempt(self: Arc<Self>) -> Result<Performed, NoResult> {
        let claim = self.gpus().await?;
        let scratch = self.cache.scratch_with(self.folders())?;
        let job = self.job(&scratch, claim.ids());
        let log = Arc::new(StageLog::new(self.address.clone(), self.events.clone()));
        let (started, clock) = (Timestamp::now(), Instant::now());
        let stop = Arc::new(Stop::default());
        let mut work = tokio::spawn(self.executor.execute(job.clone(), log.clone(), stop.clone()));
        let limit = self.attempts.timeout.unwrap_or(Duration::MAX);
        let time = tokio::time::sleep(limit);
        tokio::pin!(time);
        let ran = loop {
            tokio::select! {
                ran = &mut work => break joined(ran),
                () = &mut time => {
                    stop.now();
                    // One that doesn't hear is left behind: its scratch folder goes, so nothing of it can be recorded.
                    let _ = tokio::time::timeout(GRACE, &mut work).await;
                    break Err(JobError::TimedOut { limit });
                }
                () = self.interrupt.stopping() => {
                    stop.now();
                    break match tokio::time::timeout(GRACE, &mut work).await {
                        // It had just come to its end.
                        Ok(Ok(Ok(report))) => Ok(report),
                        _ => Err(JobError::Cancelled),
                    };
                }
                // It may end, or keep a checkpoint.
                () = self.interrupt.draining(), if !stop.is_soon() => stop.soon(),
            }
        };
        let took = Took { started, seconds: clock.elapsed().as_secs_f64() };
        drop(claim);
        let collect = tokio::task::spawn_blocking(move || {
            let collected = self.collect(ran, &scratch, &job, &log, took);
            if collected.is_ok() {
                scratch.give_back();
            }
            collected
        });
        collect.await.unwrap_or_else(|error| Err(NoResult::failed(format!("collecting its outputs failed: {error}"))))
    }

    /// Waits for the GPUs that the job asks for. The run has enough of them, but another process may use some.
    async fn gpus(&self) -> Result<Claim, NoResult> {
        let mut told = false;
        loop {
            let claim = self.gpus.try_claim(self.resources.gpus);
            if let Some(claim) = claim.map_err(|error| NoResult::failed(format!("can't claim GPUs: {error}")))? {
                return Ok(claim);
            }
            if !std::mem::replace(&mut told, true) {
                let _ = self
                    .events
                    .send(Event::StageWaitingForGpus { address: self.address.clone(), gpus: self.resources.gpus });
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.interrupt.draining() => return Err(NoResult::Cancelled),
            }
        }
    }
}

fn joined(ran: Result<Result<JobReport, JobError>, tokio::task::JoinError>) -> Result<JobReport, JobError> {
    ran.unwrap_or_else(|error| Err(JobError::Failed(format!("its job broke off: {error}"))))
}
