//! The allocator, and what it keeps.

use std::io::Write as _;

/// Keeps big blocks instead of giving them back to the system after each training step: a quarter of the time of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives what is free back to the system. What reading a pipeline leaves behind is as large as the plan to come, and the
/// allocator would take new memory for that before it looks there.
pub(crate) fn give_back() {
    // SAFETY: it touches nothing but what is free, and may be called at any time.
    #[expect(unsafe_code, reason = "the crate has no safe form of it")]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// Ends the process at once. The allocator would first give back each of its blocks, and the system takes them all
/// together anyway: a sixth of the time of a run that finds nothing to do.
pub(crate) fn leave(code: i32) -> ! {
    let _ = std::io::stdout().flush();
    // SAFETY: nothing runs after it. Nobody waits for what a destructor would do at exit: files are written and closed by
    // those that own them.
    #[expect(unsafe_code, reason = "the standard library runs the handlers for exits")]
    unsafe {
        libc::_exit(code)
    }
}
