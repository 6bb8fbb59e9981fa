//! The allocator, and what it keeps.

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

/// Has what is free go back to the system soon, from now on: for a process that plans and waits, and trains nothing.
pub(crate) fn keep_little() {
    // SAFETY: options may be set at any time.
    #[expect(unsafe_code, reason = "the crate has no safe form of it")]
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, MILLISECONDS);
    }
}

/// `mi_option_purge_delay`, which the crate leaves out, lies before this one.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;
const MILLISECONDS: std::ffi::c_long = 10;
