//! The items of a numbered list, as models write it.
//!
//! An answer is cut into pieces, each an item or something around the items; pieces put together are the answer again, so
//! nothing is lost. Items are then cleaned and taken, or rejected with a reason.

use std::{collections::BTreeSet, ops::Range};

use unicode_normalization::UnicodeNormalization;

use super::thought;

/// Why a piece of an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rejection {
    /// It comes before the list.
    Preamble,
    /// It comes between or after the items, and is none.
    Remark,
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
        found.push(around(answer, trimmed(answer, 0..thought), Rejection::Preamble));
    }
    let lines = lines(answer, thought);
    let marked = lines.iter().any(|line| line.marker.is_some());
    // Where an item that may go on began.
    let mut open: Option<(usize, usize)> = None;
    let mut items = 0;
    for (number, line) in lines.iter().enumerate() {
        let begins = if marked { line.marker } else { Some(0) };
        // Without markers each line is an item, unless the first one announces them.
        let announces = !marked && number == 0 && lines.len() > 1 && answer[line.place.clone()].ends_with(':');
        match begins.filter(|_| !announces) {
            Some(marker) => {
                items += 1;
                found.push(item(answer, line.place.clone(), marker));
                open = Some((found.len() - 1, marker));
            }
            None => {
                let wraps = |&(at, _): &(usize, usize)| {
                    let whole = ends_sentence(&answer[found[at].place.clone()]);
                    !line.apart && (line.indented || !whole)
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
    found
}

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
            let Some((length, _)) = self::marker(&answer[begin..place.end]) else { break };
            lines.push(Line { place: begin..place.end, marker: Some(length), indented: false, apart: false });
            expected += 1;
            start = begin;
        }
    }
    lines
}

/// Where in a line that holds more than its beginning the item `number` begins: behind white space, after the end of a
/// sentence or of an announcement.
fn inline(text: &str, number: usize) -> Option<usize> {
    [format!("{number}. "), format!("{number}) "), format!("({number}) ")].iter().find_map(|mark| {
        let at = text.find(mark.as_str()).filter(|&at| at > 0)?;
        let before = text[..at].trim_end();
        let behind_space = before.len() < at;
        // What is only a marker so far is not an item.
        let content = marker(before).map_or(before, |(length, _)| &before[length..]);
        (behind_space && before.ends_with(['.', '!', '?', ':', ';', ',', '"']) && !content.trim().is_empty())
            .then_some(at)
    })
}

/// The length of the marker that a line begins with, and its number: `1.`, `1)`, `(1)`, `1:`, `#1`, `**1.**`, `a)`, `-`,
/// `*`, a bullet, `Statement 1:`.
fn marker(line: &str) -> Option<(usize, Option<usize>)> {
    let bold = line.len() - line.trim_start_matches(['*', '_', '#']).len();
    for skip in [0, bold] {
        let rest = &line[skip..];
        if let Some((length, number)) = numbered(rest) {
            let behind = &rest[length..];
            // `**1.** text`: the marker alone is bold.
            let closing = if skip > 0 && behind.starts_with("**") { 2 } else { 0 };
            let length = skip + length + closing;
            let space = line[length..].len() - line[length..].trim_start().len();
            // "1.5 million" is no marker.
            if space > 0 || line.len() == length || !line[length..].starts_with(|c: char| c.is_ascii_digit()) {
                return Some((length + space, number));
            }
        }
    }
    let mut chars = line.chars();
    let bullet =
        chars.next().filter(|c| "-*+\u{2022}\u{2023}\u{25e6}\u{25aa}\u{25cf}\u{2013}\u{2014}\u{b7}".contains(*c))?;
    let rest = chars.as_str();
    let space = rest.len() - rest.trim_start().len();
    (space > 0 || rest.is_empty() || "\u{2022}\u{25cf}\u{25aa}".contains(bullet))
        .then(|| (bullet.len_utf8() + space, None))
}

/// A number with what sets it apart, perhaps behind a word.
fn numbered(text: &str) -> Option<(usize, Option<usize>)> {
    let words = ["counterfactual statement", "counterfactual", "statement", "option", "answer"];
    let word = words.iter().find_map(|word| {
        let (start, rest) = (text.get(..word.len())?, text.get(word.len()..)?);
        (start.eq_ignore_ascii_case(word) && rest.starts_with([' ', '#']))
            .then(|| word.len() + (rest.len() - rest.trim_start_matches([' ', '#']).len()))
    });
    let start = word.unwrap_or(0);
    let rest = &text[start..];
    let open = rest.chars().next().filter(|c| "([#".contains(*c)).map_or(0, char::len_utf8);
    let digits: String = rest[open..].chars().take_while(char::is_ascii_digit).take(4).collect();
    let letter =
        rest[open..].chars().next().filter(char::is_ascii_lowercase).filter(|_| digits.is_empty() && word.is_none());
    let length = if digits.is_empty() { usize::from(letter.is_some()) } else { digits.len() };
    if length == 0 {
        return None;
    }
    let behind = &rest[open + length..];
    let closes: &[&str] = match (&rest[..open], letter.is_some()) {
        ("(", _) => &[")"],
        ("[", false) => &["]"],
        ("", true) => &[")"],
        ("#", false) => &[":", ".", ")", ""],
        ("", false) => &[".)", ".", ")", ":", " -", "-", " \u{2013}"],
        _ => return None,
    };
    let close = closes.iter().find(|close| behind.starts_with(**close))?;
    Some((start + open + length + close.len(), digits.parse().ok()))
}

/// Without marks around it, in one line.
fn clean(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
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

/// Brackets with words in them, or a line to write on.
fn has_placeholder(text: &str) -> bool {
    if text.contains("__") {
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
    let pieces = pieces(answer);
    let last = pieces.len().saturating_sub(1);
    let mut taken = 0;
    let judge = |(at, piece): (usize, Piece)| {
        let rejection = piece.around.or_else(|| flaw(&piece.text, prefix, cut && at == last)).or_else(|| {
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

#[cfg(test)]
mod tests;
