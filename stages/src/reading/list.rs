//! The items of a numbered list, as models write it.
//!
//! An answer is cut into pieces, each an item or something around the items; pieces put together are the answer again, so
//! nothing is lost. Items are then cleaned and taken, or rejected with a reason.

use std::{collections::BTreeSet, ops::Range};

use unicode_normalization::UnicodeNormalization;

use self::marker::{inline, marker};
use super::{
    broke_off,
    prefix::{bare, is_refusal, rest_of},
    thought,
};

/// Why a piece of an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rejection {
    /// It comes before the list.
    Preamble,
    /// It comes between or after the items, and is none.
    Remark,
    /// The model says that it won't.
    Refusal,
    /// Nothing is left of it.
    Empty,
    /// It leaves something to be filled in: `[name]`.
    Placeholder,
    /// It breaks off.
    Unfinished,
    /// It says no more than the prefix.
    OnlyPrefix,
    /// It was there before.
    Repeat,
    /// More were given than asked for.
    BeyondK,
    /// It holds a term that is not wanted.
    Term,
    /// The judge calls it toxic.
    Toxic,
    /// The judge's answer can't be read.
    Unjudged,
}

impl Rejection {
    /// As written in records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Preamble => "preamble",
            Self::Remark => "remark",
            Self::Refusal => "refusal",
            Self::Empty => "empty",
            Self::Placeholder => "placeholder",
            Self::Unfinished => "unfinished",
            Self::OnlyPrefix => "only_prefix",
            Self::Repeat => "repeat",
            Self::BeyondK => "beyond_k",
            Self::Term => "term",
            Self::Toxic => "toxic",
            Self::Unjudged => "unjudged",
        }
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Cleaned, if it is an item; else as it is.
    pub(crate) text: String,
    /// Where it is in the answer, its marker included.
    pub(crate) place: Range<usize>,
    /// What it is, if no item.
    pub(crate) around: Option<Rejection>,
}

/// A line, without the white space around it.
struct Line {
    place: Range<usize>,
    /// Bytes of its marker, of a line that begins an item.
    marker: Option<usize>,
    indented: bool,
    /// An empty line comes before.
    apart: bool,
}

/// Cuts an answer into pieces.
pub(crate) fn pieces(answer: &str) -> Vec<Piece> {
    let thought = thought(answer).0.len();
    let mut found = Vec::new();
    if !answer[..thought].trim().is_empty() {
        let what = if broke_off(answer) { Rejection::Unfinished } else { Rejection::Preamble };
        found.push(around(answer, trimmed(answer, 0..thought), what));
    }
    let mut lines = lines(answer, thought);
    // What a model writes into the mouth of others is no answer.
    let turn = lines.iter().position(|line| TURNS.contains(&&answer[line.place.clone()]));
    let others = lines.split_off(turn.unwrap_or(lines.len()));
    let marked = lines.iter().any(|line| line.marker.is_some());
    // Where an item that may go on began.
    let mut open: Option<(usize, usize)> = None;
    let mut items = 0;
    for (number, line) in lines.iter().enumerate() {
        let begins = if marked { line.marker } else { Some(0) };
        // Without markers each line is an item, unless the first one announces them.
        let announces = !marked && number == 0 && lines.len() > 1 && answer[line.place.clone()].ends_with(':');
        let fence = answer[line.place.clone()].starts_with("```");
        let heading = !marked && answer[line.place.clone()].starts_with('|');
        match begins.filter(|_| !announces && !fence && !heading) {
            Some(marker) => {
                items += 1;
                found.push(item(answer, line.place.clone(), marker));
                open = Some((found.len() - 1, marker));
            }
            None => {
                let wraps = |&(at, _): &(usize, usize)| {
                    let whole = ends_sentence(&answer[found[at].place.clone()]);
                    !fence && !line.apart && (line.indented || !whole)
                };
                if let Some((at, marker)) = open.filter(wraps) {
                    found[at] = item(answer, found[at].place.start..line.place.end, marker);
                } else {
                    open = None;
                    let what = if items == 0 { Rejection::Preamble } else { Rejection::Remark };
                    found.push(around(answer, line.place.clone(), what));
                }
            }
        }
    }
    found.extend(others.into_iter().map(|line| around(answer, line.place, Rejection::Remark)));
    found
}

/// Lines that begin a turn in a chat.
const TURNS: [&str; 5] = ["<|user|>", "<|assistant|>", "<|system|>", "### Human:", "### Instruction:"];

fn around(answer: &str, place: Range<usize>, what: Rejection) -> Piece {
    Piece { text: answer[place.clone()].to_owned(), place, around: Some(what) }
}

fn item(answer: &str, place: Range<usize>, marker: usize) -> Piece {
    Piece { text: clean(&answer[place.start + marker..place.end]), place, around: None }
}

fn trimmed(text: &str, place: Range<usize>) -> Range<usize> {
    let part = &text[place.clone()];
    let start = place.start + (part.len() - part.trim_start().len());
    start..(start + part.trim().len())
}

fn lines(answer: &str, from: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let (mut at, mut apart) = (from, false);
    // Numbers that a list on one line would go on with.
    let mut expected = 1;
    for line in answer[from..].split_inclusive(['\n', '\r', '\u{2028}', '\u{85}']) {
        let place = trimmed(answer, at..at + line.len());
        at += line.len();
        if place.is_empty() {
            apart = true;
            continue;
        }
        let indented = line.starts_with([' ', '\t']);
        let text = &answer[place.clone()];
        let marker = marker(text);
        let first = Line { place: place.clone(), marker: marker.map(|(length, _)| length), indented, apart };
        apart = false;
        lines.push(first);
        if let Some((_, Some(number))) = marker {
            expected = number + 1;
        }
        // "1. a. 2. b." on one line.
        let mut start = place.start;
        while let Some(next) = inline(&answer[start..place.end], expected) {
            let begin = start + next;
            let before = trimmed(answer, start..begin);
            if let Some(last) = lines.last_mut() {
                last.place.end = before.end;
            }
            let Some((length, _)) = marker::marker(&answer[begin..place.end]) else { break };
            lines.push(Line { place: begin..place.end, marker: Some(length), indented: false, apart: false });
            expected += 1;
            start = begin;
        }
    }
    lines
}

/// Without marks around it, in one line.
fn clean(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // An end of a table's row, or of a JSON array of texts with one on each line.
    text = text.trim_end_matches('|').trim_end().to_owned();
    let array =
        text.strip_prefix('[').unwrap_or(&text).strip_suffix(']').unwrap_or(text.trim_start_matches('[')).trim();
    if array.starts_with('"') && array.matches('"').count() == 2 {
        text = array.to_owned();
    }
    for mark in ["**", "__", "*", "`"] {
        let inner = text.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark));
        if let Some(inner) = inner.filter(|inner| !inner.contains(mark)).map(|inner| inner.trim().to_owned()) {
            text = inner;
        }
    }
    // Of `**1. text**` the first half went with the marker.
    if text.matches("**").count() == 1 {
        text = text.trim_start_matches("**").trim_end_matches("**").trim().to_owned();
    }
    for (open, close) in
        [("\"", "\""), ("\u{201c}", "\u{201d}"), ("'", "'"), ("\u{2018}", "\u{2019}"), ("\u{ab}", "\u{bb}")]
    {
        // The mark may stand within the quotes, or behind them.
        let (body, end) = match text.strip_suffix(['.', ',']) {
            Some(body) if body.ends_with(close) && !text.ends_with(',') => (body, "."),
            Some(body) if body.ends_with(close) => (body, ""),
            _ => (text.as_str(), ""),
        };
        let inner = body.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.contains(open) && !inner.contains(close)) {
            text = format!("{}{end}", inner.trim());
        }
    }
    text
}

fn ends_sentence(text: &str) -> bool {
    let text = text.trim_end().trim_end_matches(['"', '\'', '\u{201d}', '\u{2019}', ')', '*', '_']);
    text.ends_with(['.', '!', '?', '\u{3002}', '\u{61f}'])
}

/// Words that no English sentence ends with.
const OPEN_WORDS: [&str; 33] = [
    "a", "an", "the", "and", "or", "but", "of", "to", "with", "for", "as", "in", "at", "by", "from", "into", "that",
    "which", "who", "whose", "is", "are", "was", "were", "be", "been", "because", "their", "my", "your", "our", "its",
    "very",
];

/// What is wrong with an item by itself. `cut`: the answer was cut off behind it.
pub(crate) fn flaw(text: &str, prefix: &str, cut: bool) -> Option<Rejection> {
    if !text.chars().any(char::is_alphanumeric) {
        return Some(Rejection::Empty);
    }
    if is_refusal(text, prefix) {
        return Some(Rejection::Refusal);
    }
    if has_placeholder(text) {
        return Some(Rejection::Placeholder);
    }
    if normal(text) == normal(prefix) {
        return Some(Rejection::OnlyPrefix);
    }
    let unquoted = text.trim_end_matches(['"', '\u{201d}', '\u{2019}']);
    let last = unquoted.rsplit(char::is_whitespace).next().unwrap_or_default().to_lowercase();
    let breaks_off = unquoted.ends_with(['\u{2026}', ',', ':', ';', '-']) || unquoted.ends_with("..");
    let open = OPEN_WORDS.contains(&last.as_str());
    (breaks_off || open || (cut && !ends_sentence(text))).then_some(Rejection::Unfinished)
}

/// Brackets with words in them, a line to write on, or `XXX`.
fn has_placeholder(text: &str) -> bool {
    let crossed = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        word.len() > 2 && word.chars().all(|c| c == 'X')
    };
    if text.contains("__") || text.split_whitespace().any(crossed) {
        return true;
    }
    let told = text.split('(').skip(1).any(|inside| {
        let inside = inside.trim_start().to_lowercase();
        ["insert ", "your ", "fill in"].iter().any(|start| inside.starts_with(start))
    });
    if told {
        return true;
    }
    [('[', ']'), ('<', '>'), ('{', '}')].iter().any(|&(open, close)| {
        let inside = text.split_once(open).and_then(|(_, rest)| rest.split_once(close));
        inside.is_some_and(|(inside, _)| open == '[' || inside.chars().any(char::is_alphabetic))
    })
}

/// What tells one statement from another: letters and digits.
fn normal(text: &str) -> String {
    let letters = |part: &str| part.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    let text: String = text.nfkc().collect::<String>().to_lowercase();
    text.split_whitespace().map(letters).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Takes items: no more than `k` of an answer, none that is in `seen`. `cut`: the answer was cut off.
pub(crate) fn take(
    answer: &str,
    prefix: &str,
    k: usize,
    cut: bool,
    seen: &mut BTreeSet<String>,
) -> Vec<(Piece, Option<Rejection>)> {
    let mut pieces = pieces(answer);
    let last = pieces.len().saturating_sub(1);
    let mut taken = 0;
    // The prefix said once before the list, which then goes on with it.
    let first = pieces.iter().position(|piece| piece.around.is_none()).unwrap_or(0);
    let goes_on = first > 0 && !normal(prefix).is_empty() && normal(&pieces[first - 1].text) == normal(prefix);
    for piece in pieces.iter_mut().filter(|piece| piece.around.is_none()) {
        piece.text = bare(&piece.text, prefix);
        if goes_on && rest_of(&piece.text, prefix).is_none() && piece.text.contains(char::is_alphanumeric) {
            piece.text = format!("{} {}", prefix.trim_end(), piece.text);
        }
    }
    // What follows a refusal without being a statement about the prefix belongs to it.
    let refused = pieces.get(first).is_some_and(|piece| piece.around.is_none() && is_refusal(&piece.text, prefix));
    let judge = |(at, piece): (usize, Piece)| {
        let aside = refused && at > first && rest_of(&piece.text, prefix).is_none();
        let rejection = piece
            .around
            .or(aside.then_some(Rejection::Remark))
            .or_else(|| flaw(&piece.text, prefix, cut && at == last))
            .or_else(|| {
                if seen.contains(&normal(&piece.text)) {
                    return Some(Rejection::Repeat);
                }
                if taken == k {
                    return Some(Rejection::BeyondK);
                }
                seen.insert(normal(&piece.text));
                taken += 1;
                None
            });
        (piece, rejection)
    };
    pieces.into_iter().enumerate().map(judge).collect()
}

/// For fuzzing: pieces together are the whole answer, and what is taken has no flaw.
pub(crate) fn check(answer: &str) {
    let pieces = pieces(answer);
    let mut at = 0;
    for piece in &pieces {
        assert!(piece.place.start >= at && piece.place.end > piece.place.start, "{answer:?}: {pieces:?}");
        assert!(answer[at..piece.place.start].trim().is_empty(), "{answer:?}: {pieces:?}");
        at = piece.place.end;
    }
    assert!(answer[at..].trim().is_empty(), "{answer:?}: {pieces:?}");
    let mut seen = BTreeSet::new();
    let taken = take(answer, "she is", 5, true, &mut seen);
    assert_eq!(taken.len(), pieces.len());
    let accepted: Vec<_> = taken.iter().filter(|(_, rejection)| rejection.is_none()).collect();
    assert!(accepted.len() == seen.len() && accepted.len() <= 5);
    for (piece, _) in accepted {
        assert!(!piece.text.contains(char::is_control) && flaw(&piece.text, "she is", false).is_none());
    }
}

mod marker;
#[cfg(test)]
mod tests;
