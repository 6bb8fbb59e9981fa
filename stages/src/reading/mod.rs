//! What models write, read: a yes or a no, and the items of a list. Nothing is guessed, and nothing is lost: what can't
//! be read, or isn't taken, is told with the reason.

pub(crate) mod list;
pub(crate) mod yes_no;

/// What comes before, and what comes after a model's thinking aloud (`<think>...</think>`).
fn thought(text: &str) -> (&str, &str) {
    const END: &str = "</think>";
    text.rfind(END).map_or(("", text), |at| text.split_at(at + END.len()))
}
