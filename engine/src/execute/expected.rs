//! How long the rest of a run may take, by how long its stages took before.

use std::time::{Duration, Instant};

use super::Dispatcher;
use crate::event::Event;

/// How often it is reckoned anew: it takes a look at every instance.
const PULSE: Duration = Duration::from_secs(1);

impl Dispatcher<'_> {
    /// Tells what is expected, unless it was told just now.
    pub(super) fn expect(&mut self) {
        if self.expected.is_some_and(|told| told.elapsed() < PULSE) {
            return;
        }
        self.expected = Some(Instant::now());
        let (mut work, mut longest, mut unknown) = (0.0, 0.0_f64, 0);
        for (id, node) in self.plan.nodes.iter().enumerate().filter(|(id, _)| self.outcomes[*id].is_none()) {
            match node.seconds {
                Some(seconds) => work += seconds,
                None => unknown += 1,
            }
            longest = longest.max(self.queue.chain(id));
        }
        // No run is faster than its longest chain, nor than all of its places at work all the time.
        let work = work / self.options.jobs.max(1) as f64;
        // A stage that never ran counts as a second in a chain: no time to tell people.
        let seconds = if unknown == 0 { longest.max(work) } else { work };
        self.tell(&Event::RunExpects { seconds, unknown });
    }
}
