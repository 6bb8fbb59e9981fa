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
