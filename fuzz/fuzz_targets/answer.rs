//! `cargo fuzz run answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palinode_stages::fuzz::answer(bytes));
