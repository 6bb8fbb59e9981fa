//! Moments at which a test kills the process: each step that changes files passes here first, and the one that is armed
//! does not come back.
//!
//! A kill at a random time nearly always hits a stage's own work. These count the steps that matter instead, so a test
//! can go through all of them. Not armed, a step costs one relaxed load.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// Steps left before the armed one; 0: nothing is armed.
static LEFT: AtomicU64 = AtomicU64::new(0);
static ACT: OnceLock<fn()> = OnceLock::new();

/// Calls `act` at the `nth` step from now, counted from 1 over all threads of this process. Only the first call counts.
pub fn arm(nth: u64, act: fn()) {
    if ACT.set(act).is_ok() {
        LEFT.store(nth, Ordering::SeqCst);
    }
}

/// A step that changes files is about to be taken.
pub fn step() {
    if LEFT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let before = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if before == Ok(1)
        && let Some(act) = ACT.get()
    {
        act();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ACTED: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn acts_at_the_nth_step_and_no_other() {
        // Other tests of this process take steps too, so theirs may be among these: it acts once all the same.
        arm(3, || _ = ACTED.fetch_add(1, Ordering::SeqCst));
        for _ in 0..5 {
            step();
        }
        assert_eq!(ACTED.load(Ordering::SeqCst), 1);
        arm(1, || _ = ACTED.fetch_add(10, Ordering::SeqCst));
        step();
        assert_eq!(ACTED.load(Ordering::SeqCst), 1);
    }
}
