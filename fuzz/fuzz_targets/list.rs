//! `cargo fuzz run list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palinode_stages::fuzz::list(bytes));
