//! `cargo fuzz run record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palinode_engine::fuzz::record(bytes));
