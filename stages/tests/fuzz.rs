//! The stages' fuzz targets on any compiler. `fuzz/` has the same targets for `cargo fuzz`.

#[path = "../../fuzz/replay.rs"]
mod replay;

use palinode_stages::fuzz;
use replay::replay;

/// Pieces of answers and lists.
const WORDS: [&str; 34] = [
    "yes",
    "No",
    "and",
    "or",
    "because",
    "is",
    ":",
    ".",
    ",",
    "/",
    "\n",
    "\n\n",
    "\r",
    " ",
    "\t",
    "1. ",
    "2) ",
    "(3) ",
    "4: ",
    "- ",
    "* ",
    "**",
    "\u{2022}",
    "\"",
    "\u{201c}",
    "[x]",
    "__",
    "</think>",
    "statement 5: ",
    "she is",
    "\u{2028}",
    "\u{1f600}",
    "\u{301}",
    "\u{130}",
];

#[test]
fn answer() {
    replay("answer", &WORDS, fuzz::answer);
}

#[test]
fn list() {
    replay("list", &WORDS, fuzz::list);
}
