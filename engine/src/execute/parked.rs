//! Instances whose result another process is making: they occupy nothing meanwhile, and take that result when it is there.

use std::time::Duration;

use palinode_cache::StageKey;

use super::{Dispatcher, Message, RunError};
use crate::{event::Event, perform::Performed, plan::Decision, ready::TaskId};

/// How often another process's lock is tried again.
const RETRY: Duration = Duration::from_millis(25);

impl Dispatcher<'_> {
    /// Sets `id` aside until nobody holds the lock of `key`. A lock dies with its process, so this ends.
    pub(super) fn park(&mut self, id: TaskId, key: StageKey) {
        self.queue.park(id);
        if self.parked.insert(id) {
            self.tell(&Event::StageWaiting { address: self.plan.nodes[id].address.clone(), key });
        }
        let (cache, jobs) = (self.cache.clone(), self.jobs.clone());
        tokio::spawn(async move {
            while !jobs.is_closed() && matches!(cache.try_lock(&key), Ok(None)) {
                tokio::time::sleep(RETRY).await;
            }
            let _ = jobs.send(Message::Free(id));
        });
    }

    /// The lock was free a moment ago: the result is there, or else `id` is to make it after all.
    pub(super) fn unpark(&mut self, id: TaskId) -> Result<(), RunError> {
        self.parked.remove(&id);
        let hold = self.cache.hold()?;
        match self.planner.decide(self.plan.nodes[id].node)? {
            Decision::Hit(result) => self.ended(id, Ok(Performed { result, ran: None, hold }))?,
            _ => self.queue.enqueue(id),
        }
        Ok(())
    }
}
