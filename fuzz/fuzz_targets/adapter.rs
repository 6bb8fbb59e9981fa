//! `cargo fuzz run adapter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palinode_models::fuzz::adapter(bytes));
