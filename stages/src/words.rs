//! Words of a text, and finding terms of one or more words among them.

use std::collections::HashMap;

use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};
use unicode_segmentation::UnicodeSegmentation as _;

/// Terms to find.
pub(crate) struct Terms {
    accents: Accents,
    /// By first word: each term's words and the term as given.
    by_first: HashMap<String, Vec<(Vec<String>, String)>>,
    /// Terms without a word (emoji), found as they are.
    symbols: Vec<String>,
}

/// Whether é is e.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accents {
    Keep,
    Strip,
}

impl Terms {
    /// Prepares `terms`; repeated ones count once.
    pub(crate) fn new(terms: impl IntoIterator<Item = String>, accents: Accents) -> Self {
        let mut all = Terms { accents, by_first: HashMap::new(), symbols: Vec::new() };
        for term in terms {
            let words = words(&term, accents);
            let symbol = term.trim().to_owned();
            match words.first() {
                Some(first) => {
                    let list = all.by_first.entry(first.clone()).or_default();
                    if list.iter().all(|(known, _)| *known != words) {
                        list.push((words, symbol));
                    }
                }
                None if !symbol.is_empty() && !all.symbols.contains(&symbol) => all.symbols.push(symbol),
                None => {}
            }
        }
        all
    }

    /// How many different terms there are.
    pub(crate) fn len(&self) -> usize {
        self.by_first.values().map(Vec::len).sum::<usize>() + self.symbols.len()
    }

    /// The terms that occur in `text`, in the order in which they occur first, each once.
    pub(crate) fn hits(&self, text: &str) -> Vec<&str> {
        let words = words(text, self.accents);
        let mut hits: Vec<&str> = Vec::new();
        for at in 0..words.len() {
            for (term, name) in self.by_first.get(&words[at]).into_iter().flatten() {
                if words[at..].starts_with(term) && !hits.contains(&name.as_str()) {
                    hits.push(name);
                }
            }
        }
        hits.extend(self.symbols.iter().filter(|symbol| text.contains(symbol.as_str())).map(String::as_str));
        hits
    }
}

/// The words of `text`, in lower case. A word is a run of letters and digits by Unicode's word boundaries, so "don't"
/// is one, "well-known" are two, and punctuation is none.
pub(crate) fn words(text: &str, accents: Accents) -> Vec<String> {
    let clean = |word: &str| -> String {
        let lower = word.to_lowercase();
        match accents {
            Accents::Keep => lower.nfc().collect(),
            Accents::Strip => lower.nfd().filter(|c| !is_combining_mark(*c)).collect(),
        }
    };
    text.unicode_words().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_unicode() {
        assert_eq!(
            words("Don't SHOUT, well-known Straße!", Accents::Keep),
            ["don't", "shout", "well", "known", "straße"]
        );
        assert_eq!(words("Café na\u{ef}ve cafe\u{301}", Accents::Strip), ["cafe", "naive", "cafe"]);
        assert_eq!(words("café cafe\u{301}", Accents::Keep), ["café", "café"]);
        assert!(words("... !?", Accents::Keep).is_empty());
    }

    #[test]
    fn a_term_is_found_as_whole_words_in_a_row() {
        let terms =
            Terms::new(["ass", "two girls", "Two  GIRLS", "café", "🖕", " "].map(str::to_owned), Accents::Strip);
        assert_eq!(terms.len(), 4);
        assert_eq!(terms.hits("a class of assassins; cafes"), Vec::<&str>::new());
        assert_eq!(terms.hits("Two girls, an ASS. Ass 🖕 CAFE"), ["two girls", "ass", "café", "🖕"]);
        assert_eq!(terms.hits("two small girls"), Vec::<&str>::new());
    }
}
