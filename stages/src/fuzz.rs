//! What fuzz targets call: each takes any bytes whatever, and panics only if a promise is broken.

use crate::reading::{list, yes_no};

/// A judge's answer: it is read as one thing, or there is a reason why not.
pub fn answer(bytes: &[u8]) {
    yes_no::check(&String::from_utf8_lossy(bytes));
}

/// A list: nothing of it is lost, and what is taken has no flaw.
pub fn list(bytes: &[u8]) {
    list::check(&String::from_utf8_lossy(bytes));
}
