//! A judge's answer: yes, no, or what made it unreadable.
//!
//! The first word decides if it is one of both ("Yes, ...", "**No**"), unless the other one follows at once ("Yes and
//! no"). Else the words in answering places do: at the beginning of a line, or after a colon or a verb of saying ("The
//! answer is no"); they must agree. Else a "yes" anywhere, or a "no" that ends a phrase ("no." but not "no threat"). What
//! holds neither word says nothing, however it is meant.

use super::{broke_off, thought};

/// Why an answer is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unreadable {
    /// There is no word in it.
    Empty,
    /// It broke off while the model was thinking aloud.
    Unfinished,
    /// It says both.
    Both,
    /// It says neither.
    Neither,
}

impl Unreadable {
    /// As written in records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Unfinished => "unfinished",
            Self::Both => "both",
            Self::Neither => "neither",
        }
    }
}

/// A word of an answer and what surrounds it.
struct Word<'t> {
    text: String,
    /// What stands between it and the word before.
    before: &'t str,
    end: usize,
}

/// What the answer says, and what it says beside that: its reason.
pub(crate) fn read(answer: &str) -> Result<(bool, &str), Unreadable> {
    if broke_off(answer) {
        return Err(Unreadable::Unfinished);
    }
    let answer = thought(answer).1;
    let words = words(answer);
    if words.is_empty() {
        return Err(Unreadable::Empty);
    }
    let said = |at: usize| words.get(at).and_then(|word| value(&word.text));
    // What follows a word, up to the next.
    let after = |at: usize| words.get(at + 1).map_or(&answer[words[at].end..], |next| next.before);
    let ends = |at: usize| {
        let between = after(at);
        at + 1 == words.len()
            || between.chars().any(|c| ".,;:!?\n()\"\u{201d}\u{2014}\u{2013}".contains(c))
            || between.trim_matches(['*', '_', '`']).trim_start().starts_with('-')
    };
    let rest = |at: usize| {
        let trim = |c: char| c.is_whitespace() || c.is_control() || ".,;:!?*_`-\u{2013}\u{2014}\"'#)".contains(c);
        answer[words[at].end..].trim_start_matches(trim).trim_end()
    };
    if let Some(first) = said(0) {
        return if contradicted(&words, first, &ends) { Err(Unreadable::Both) } else { Ok((first, rest(0))) };
    }
    let all = || (1..words.len()).filter_map(|at| Some((at, said(at)?)));
    let strong = |at: usize| {
        let word = &words[at];
        word.before.contains(['\n', ':']) || SAYING.contains(&words[at - 1].text.as_str())
    };
    let because = |at: usize| words.get(at + 1).is_some_and(|next| REASONS.contains(&next.text.as_str()));
    // "There is no threat": not an answer.
    let answers = |at: usize, said: bool| said || ends(at) || because(at);
    let mut found: Vec<(usize, bool)> = all().filter(|&(at, said)| strong(at) && answers(at, said)).collect();
    if found.is_empty() {
        found = all().filter(|&(at, said)| answers(at, said)).collect();
    }
    match found.first() {
        None => Err(Unreadable::Neither),
        Some(&(_, said)) if found.iter().any(|&(_, other)| other != said) => Err(Unreadable::Both),
        Some(&(at, said)) => Ok((said, rest(at))),
    }
}

/// Words after which an answer is an answer.
const SAYING: [&str; 8] = ["is", "say", "answer", "says", "be", "respond", "was", "verdict"];
const REASONS: [&str; 4] = ["because", "since", "as", "it"];

fn value(word: &str) -> Option<bool> {
    match word {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// Whether the other word follows the first at once: "Yes and no", "yes/no", "No. Yes, it is".
fn contradicted(words: &[Word<'_>], first: bool, ends: &dyn Fn(usize) -> bool) -> bool {
    let other = |at: usize| words.get(at).and_then(|word| value(&word.text)) == Some(!first);
    let joined = words.get(1).is_some_and(|word| ["and", "or", "but"].contains(&word.text.as_str()));
    if joined && other(2) {
        return true;
    }
    other(1) && (words[1].before.contains('/') || ends(1))
}

/// Runs of letters and digits, lower case; what hangs together by a hyphen or an apostrophe is one word.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let (mut last, mut start) = (0, None);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|&(_, next)| next);
        let joins = "-'\u{2019}".contains(c) && start.is_some() && next.is_some_and(char::is_alphanumeric);
        let inside = c.is_alphanumeric() || joins;
        if inside {
            start.get_or_insert(at);
        }
        let end = at + c.len_utf8();
        if let Some(begin) = start.filter(|_| !inside || next.is_none()) {
            let end = if inside { end } else { at };
            words.push(Word { text: text[begin..end].to_lowercase(), before: &text[last..begin], end });
            (last, start) = (end, None);
        }
    }
    words
}

/// For fuzzing: an answer is read as one thing, whatever it is, and the reason is part of it.
pub(crate) fn check(answer: &str) {
    let read = self::read(answer);
    if let Ok((said, reason)) = read {
        assert!(answer.contains(reason));
        assert!(answer.to_lowercase().contains(if said { "yes" } else { "no" }));
        let again = format!("{}\n", answer.trim_end_matches('\n'));
        assert_eq!(self::read(&again).map(|(said, _)| said), Ok(said), "a line break at the end says nothing");
    }
    let silent = !broke_off(answer) && !thought(answer).1.contains(char::is_alphanumeric);
    assert_eq!(read == Err(Unreadable::Empty), silent);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_are_read_as_models_give_them() {
        let yes = [
            "Yes",
            "yes.",
            " Yes, it is.",
            "YES!",
            "**Yes**",
            "\"Yes\"",
            "Yes\n\nThe statement ...",
            "- Yes",
            "> yes",
            "The statement is toxic: Yes",
            "Answer: yes",
            "**Answer:** Yes, because it insults.",
            "My answer is yes.",
            "I would say yes, it is harmful.",
            "Yes - it degrades women.",
            "Yes, there is no respect in it.",
            "Yes, no one should say this.",
            "The statement \"no fats\" is toxic: Yes",
            "<think>no, no</think>\nYes.",
            "Sure! Yes",
            "Yes\u{200b}",
            "yes\u{1f600}",
            "1. Yes",
            "Yes because no reason is given",
            "The answer to your question is: Yes\nExplanation: there is no excuse for it.",
        ];
        let no = [
            "No",
            "no.",
            "No, it isn't.",
            "**No**.",
            "Answer: no because it is kind",
            "It is toxic? No.",
            "The statement is harmless: no",
            "I say no",
            "Output: No\nReason: nothing here.",
            "`no`",
            "This statement is not harmful, so no.",
            "No. There is nothing toxic about yesterday.",
            "NO!!!",
            "No, and yes-men would agree.",
            "Based on the text, no, it is not toxic.",
        ];
        let neither = [
            "maybe",
            "Maybe.",
            "The statement is toxic.",
            "It depends",
            "There is no toxicity here",
            "Nope",
            "not toxic",
            "Non-toxic",
            "I cannot judge this; there is no context",
            "nobody knows",
            "yes-man",
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
        ];
        let both = [
            "Yes and no",
            "yes/no",
            "Yes or no",
            "No, yes.",
            "Yes. No.",
            "no and yes, it depends",
            "Yes but no",
            "Is it toxic: yes. Is it harmful: no.",
            "You asked yes or no.",
        ];
        let empty = ["", " \n", "...", "**", "\u{1f600}", "<think>yes</think>", "\u{0}\u{1}"];
        let unfinished = ["<think>yes, it could be", "\n<think>\nNo.\n"];
        for (texts, expected) in [
            (&yes[..], Ok(true)),
            (&no, Ok(false)),
            (&neither, Err(Unreadable::Neither)),
            (&both, Err(Unreadable::Both)),
            (&empty, Err(Unreadable::Empty)),
            (&unfinished, Err(Unreadable::Unfinished)),
        ] {
            for text in texts {
                assert_eq!(read(text).map(|(said, _)| said), expected, "{text:?}");
            }
        }
    }

    #[test]
    fn the_reason_is_what_else_is_said() {
        for (answer, reason) in [
            ("Yes, because it insults.\n", "because it insults."),
            ("**No**. It is kind.", "It is kind."),
            ("Answer: yes", ""),
            ("The statement is toxic: Yes\n\nIt says \"x\"", "It says \"x\""),
        ] {
            assert_eq!(read(answer).unwrap().1, reason, "{answer:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_one_thing(text in ".{0,80}") {
            check(&text);
        }

        #[test]
        fn words_in_any_order_are_read_as_one_thing(
            parts in proptest::collection::vec(
                prop::sample::select(vec!["yes", "No", "and", "or", ",", ".", ":", "\n", " ", "*", "is", "-", "/", "\u{e9}"]), 0..12)
        ) {
            check(&parts.concat());
            check(&parts.join(" "));
        }
    }
}
