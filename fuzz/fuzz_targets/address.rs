//! `cargo fuzz run address`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palinode_engine::fuzz::address(bytes));
