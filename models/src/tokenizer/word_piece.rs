//! Training of WordPiece vocabularies (Schuster and Nakajima 2012; BERT's): characters first, then whatever two pieces
//! stand side by side most often become one, until the vocabulary is full. As the tokenizers library's trainer does it,
//! but for ties: there they follow the order of a hash table, and the vocabulary comes out otherwise on each run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::failed;
use crate::error::Result;

/// Special tokens of WordPiece vocabularies, by id: BERT's.
pub const WORD_PIECE_SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// What a piece begins with that doesn't begin a word.
const CONTINUES: &str = "##";
/// Longer words are unknown to BERT's tokenizer.
const LONGEST_WORD: usize = 100;

/// The tokens by id, at most `vocab_size`.
pub(super) fn vocabulary<S: AsRef<str>>(texts: &[S], vocab_size: usize, lowercase: bool) -> Result<Vec<String>> {
    let words = words(texts, lowercase)?;
    let mut pieces = Pieces::default();
    let characters = alphabet(&words, vocab_size.saturating_sub(WORD_PIECE_SPECIAL.len()));
    for token in WORD_PIECE_SPECIAL.into_iter().chain(characters.iter().map(String::as_str)) {
        pieces.id(token);
    }
    // Words with a character that has no room are unknown as a whole.
    let spelled = words.into_iter().filter_map(|(word, count)| Some((pieces.spelled(&word)?, count)));
    let mut merges = Merges::new(spelled.collect());
    while pieces.tokens.len() < vocab_size
        && let Some((left, right)) = merges.most_frequent()
    {
        let tail = pieces.tokens[right].strip_prefix(CONTINUES).unwrap_or(&pieces.tokens[right]);
        let merged = format!("{}{tail}", pieces.tokens[left]);
        let id = pieces.id(&merged);
        merges.merge((left, right), id);
    }
    Ok(pieces.tokens)
}

/// How often each word occurs, by what BERT takes for one.
fn words<S: AsRef<str>>(texts: &[S], lowercase: bool) -> Result<BTreeMap<String, usize>> {
    let normalizer = BertNormalizer::new(true, true, None, lowercase);
    let mut counts = BTreeMap::new();
    for text in texts {
        let mut normal = NormalizedString::from(text.as_ref());
        normalizer.normalize(&mut normal).map_err(failed)?;
        let mut split = PreTokenizedString::from(normal);
        BertPreTokenizer.pre_tokenize(&mut split).map_err(failed)?;
        for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            if word.chars().count() <= LONGEST_WORD {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(counts)
}

/// The characters, as they begin a word and as they go on in one: the most frequent ones, as far as there is room, in
/// order.
fn alphabet(words: &BTreeMap<String, usize>, room: usize) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (word, count) in words {
        for piece in characters(word) {
            *counts.entry(piece).or_default() += count;
        }
    }
    let mut all: Vec<(String, usize)> = counts.into_iter().collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(room);
    let mut kept: Vec<String> = all.into_iter().map(|(piece, _)| piece).collect();
    kept.sort_by_key(|piece| (piece.starts_with(CONTINUES), piece.clone()));
    kept
}

fn characters(word: &str) -> impl Iterator<Item = String> {
    let piece = |(at, character): (usize, char)| match at {
        0 => character.to_string(),
        _ => format!("{CONTINUES}{character}"),
    };
    word.chars().enumerate().map(piece)
}

/// The tokens so far.
#[derive(Default)]
struct Pieces {
    tokens: Vec<String>,
    ids: HashMap<String, usize>,
}

impl Pieces {
    /// The id of a token, which is made if there is none: two ways may lead to one.
    fn id(&mut self, token: &str) -> usize {
        if let Some(&id) = self.ids.get(token) {
            return id;
        }
        self.tokens.push(token.to_owned());
        self.ids.insert(token.to_owned(), self.tokens.len() - 1);
        self.tokens.len() - 1
    }

    fn spelled(&self, word: &str) -> Option<Vec<usize>> {
        characters(word).map(|piece| self.ids.get(&piece).copied()).collect()
    }
}

type Pair = (usize, usize);

/// Words as pieces, and how often each pair of pieces occurs.
struct Merges {
    words: Vec<(Vec<usize>, usize)>,
    counts: HashMap<Pair, usize>,
    /// Words that a pair occurs in, or did.
    places: HashMap<Pair, BTreeSet<usize>>,
    /// Pairs with a count that they had once; of equals, the one of the older pieces first.
    queue: BinaryHeap<(usize, Reverse<Pair>)>,
}

impl Merges {
    fn new(words: Vec<(Vec<usize>, usize)>) -> Self {
        let mut merges = Merges { words, counts: HashMap::new(), places: HashMap::new(), queue: BinaryHeap::new() };
        for at in 0..merges.words.len() {
            merges.count(at, true);
        }
        merges.queue = merges.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        merges
    }

    /// Counts the pairs of a word, or takes them out of the counts; gives those that it met.
    fn count(&mut self, at: usize, add: bool) -> Vec<Pair> {
        let (pieces, times) = &self.words[at];
        let pairs: Vec<Pair> = pieces.windows(2).map(|pair| (pair[0], pair[1])).collect();
        for &pair in &pairs {
            let count = self.counts.entry(pair).or_default();
            if add {
                *count += times;
                self.places.entry(pair).or_default().insert(at);
            } else {
                *count -= times;
            }
        }
        pairs
    }

    /// The pair that occurs most often, and more than once.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            match self.counts.get(&pair) {
                Some(&now) if now == count => return (count > 1).then_some(pair),
                // It has become rarer; one that became more frequent is in the queue again.
                Some(&now) if now > 0 && now < count => self.queue.push((now, Reverse(pair))),
                _ => {}
            }
        }
        None
    }

    fn merge(&mut self, pair: Pair, id: usize) {
        let mut changed = BTreeSet::new();
        for at in self.places.remove(&pair).unwrap_or_default() {
            changed.extend(self.count(at, false));
            let pieces = &mut self.words[at].0;
            let mut merged = Vec::with_capacity(pieces.len());
            for &piece in pieces.iter() {
                match merged.last_mut() {
                    Some(last) if (*last, piece) == pair => *last = id,
                    _ => merged.push(piece),
                }
            }
            *pieces = merged;
            changed.extend(self.count(at, true));
        }
        for pair in changed {
            if let Some(&count) = self.counts.get(&pair).filter(|&&count| count > 0) {
                self.queue.push((count, Reverse(pair)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 3] = ["The cat sat, the cat sat.", "A catalogue of hats: that hat!", "Ünique cat"];

    #[test]
    fn frequent_neighbours_become_one() {
        let tokens = vocabulary(&TEXTS, 60, true).unwrap();
        assert_eq!(tokens[..5], WORD_PIECE_SPECIAL);
        let has = |token: &str| tokens.iter().any(|other| other == token);
        // 4 times `##at` after c, 2 after s, 3 after h.
        assert!(["cat", "##at", "the", "sat", "hat", ",", "##g"].iter().all(|token| has(token)), "{tokens:?}");
        assert!(!has("T") && !has("##at,") && has("u"), "lower case, accents gone: {tokens:?}");
        assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), tokens.len());
        assert!(tokens.len() < 60, "a pair that occurs once is no token of its own: {}", tokens.len());
        for _ in 0..3 {
            assert_eq!(vocabulary(&TEXTS, 60, true).unwrap(), tokens);
        }
        assert!(vocabulary(&TEXTS, 60, false).unwrap().contains(&"T".to_owned()));
        // A smaller vocabulary is the beginning of a larger one, once the characters fit.
        let fewer = tokens.len() - 3;
        assert_eq!(vocabulary(&TEXTS, fewer, true).unwrap(), tokens[..fewer]);
        assert_eq!(vocabulary(&TEXTS, 8, true).unwrap().len(), 8);
    }
}
