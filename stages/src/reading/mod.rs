//! What models write, read: a yes or a no, and the items of a list. Nothing is guessed, and nothing is lost: what can't
//! be read, or isn't taken, is told with the reason.

pub(crate) mod list;
pub(crate) mod prefix;
pub(crate) mod yes_no;

/// What comes before, and what comes after a model's thinking aloud (`<think>...</think>`). Thinking that broke off is
/// followed by nothing.
fn thought(text: &str) -> (&str, &str) {
    const END: &str = "</think>";
    match text.rfind(END) {
        Some(at) => text.split_at(at + END.len()),
        None if broke_off(text) => (text, ""),
        None => ("", text),
    }
}

/// Whether it is nothing but thinking aloud, cut off.
fn broke_off(text: &str) -> bool {
    text.trim_start().starts_with("<think>") && !text.contains("</think>")
}
