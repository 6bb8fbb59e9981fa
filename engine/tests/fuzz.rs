//! The engine's fuzz targets on any compiler. `fuzz/` has the same targets for `cargo fuzz`.

#[path = "../../fuzz/replay.rs"]
mod replay;

use palinode_engine::fuzz;
use replay::replay;

/// Texts that mean something to one of the targets.
const WORDS: [&str; 40] = [
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    "=",
    ".",
    "\"",
    "'",
    "&a",
    "*a",
    "<<: ",
    "${",
    "$${",
    "\n",
    "\n  ",
    "\t",
    "- ",
    "!t ",
    "|\n",
    "null",
    "~",
    "1e999",
    "-0.0",
    "axes",
    "over",
    "gather",
    "stages",
    "profiles",
    "extends: ",
    "params",
    "from",
    "skip",
    "../",
    "\0",
    "é",
    "\u{FEFF}",
    "0x7fffffffffffffff",
    "5e-5",
];

#[test]
fn yaml() {
    replay("yaml", &WORDS, fuzz::yaml);
}

#[test]
fn address() {
    replay("address", &WORDS, fuzz::address);
}

#[test]
fn record() {
    replay("record", &WORDS, fuzz::record);
}
