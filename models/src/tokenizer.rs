//! Text to token ids and back, by a Hugging Face `tokenizer.json` or the vocabulary files before it; and training of
//! small tokenizers.

mod vocab;
mod word_piece;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Inner, TokenizerBuilder};

use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
pub use word_piece::WORD_PIECE_SPECIAL;

/// A tokenizer with the ids of its special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    special: Special,
}

/// Ids of special tokens, as far as there are such.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Special {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Fills up batches.
    pub pad: Option<u32>,
    /// Stands for what is not in the vocabulary.
    pub unk: Option<u32>,
    /// Stands before a text (BERT).
    pub cls: Option<u32>,
    /// Stands behind a text (BERT).
    pub sep: Option<u32>,
    /// Stands for what is to be guessed (BERT).
    pub mask: Option<u32>,
}

/// A pair of texts as one sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedPair {
    /// Of both texts and what the tokenizer puts around them.
    pub ids: Vec<u32>,
    /// By id: 0 for the first text, 1 for the second, as far as the tokenizer tells them apart.
    pub types: Vec<u32>,
}

impl Tokenizer {
    /// From a model's folder: `tokenizer.json`, or `vocab.json` with `merges.txt` (GPT-2, OPT), or `vocab.txt` (BERT);
    /// and the names of special tokens in `tokenizer_config.json` or `special_tokens_map.json`.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let mut names = Vec::new();
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            if let Some(text) = files.text(name)? {
                let invalid =
                    |error: serde_json::Error| ModelError::Json { name: name.into(), reason: error.to_string() };
                names.push(serde_json::from_str(&text).map_err(invalid)?);
            }
        }
        if let Some(path) = files.get("tokenizer.json") {
            let bytes = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
            return Tokenizer::new(&bytes, &names).map_err(|error| match error {
                ModelError::Tokenizer(reason) => ModelError::Json { name: "tokenizer.json".into(), reason },
                other => other,
            });
        }
        let (spec, usual) = vocab::compose(files, &names)?;
        names.push(usual);
        Tokenizer::new(spec.to_string().as_bytes(), &names)
    }

    /// Refuses a tokenizer with ids that a model of so many has no embedding for.
    pub fn check(&self, vocab: usize) -> Result<()> {
        // The one with the highest id; equal ids are one token.
        let highest = self.inner.get_vocab(true).into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)));
        match highest {
            Some((token, highest)) if highest as usize >= vocab => {
                Err(ModelError::Vocabulary { highest, token, vocab })
            }
            _ => Ok(()),
        }
    }

    /// From the bytes of a `tokenizer.json` alone; special tokens are known by their usual names.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Tokenizer::new(bytes, &[])
    }

    fn new(bytes: &[u8], names: &[Value]) -> Result<Self> {
        let mut inner = read(bytes)?;
        // Files may carry the settings of whoever used them last.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let named = |key: &str, usual: &[&str]| {
            if names.is_empty() {
                return usual.iter().find_map(|name| inner.token_to_id(name));
            }
            let token = names.iter().map(|names| &names[key]).find(|token| !token.is_null())?;
            inner.token_to_id(token.as_str().or_else(|| token["content"].as_str())?)
        };
        let special = Special {
            bos: named("bos_token", &["<s>", "<bos>", "<|endoftext|>"]),
            eos: named("eos_token", &["</s>", "<eos>", "<|endoftext|>"]),
            pad: named("pad_token", &["<pad>", "[PAD]"]),
            unk: named("unk_token", &["<unk>", "[UNK]"]),
            cls: named("cls_token", &["[CLS]"]),
            sep: named("sep_token", &["[SEP]"]),
            mask: named("mask_token", &["[MASK]"]),
        };
        Ok(Tokenizer { inner, special })
    }

    /// Ids of a text; `special` adds what the tokenizer puts around texts (such as a first `<s>`).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, special).map_err(failed)?.get_ids().to_vec())
    }

    /// Ids and types of two texts that belong together, with what the tokenizer puts around them.
    pub fn encode_pair(&self, text: &str, pair: &str) -> Result<EncodedPair> {
        let encoded = self.inner.encode_fast((text, pair), true).map_err(failed)?;
        Ok(EncodedPair { ids: encoded.get_ids().to_vec(), types: encoded.get_type_ids().to_vec() })
    }

    /// Text of ids; `skip_special` leaves out special tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(failed)
    }

    /// The text that `continuation` adds behind `prompt`. Decoding it alone would lose a leading space with some
    /// tokenizers, or break a character whose bytes lie on both sides.
    pub fn decode_continuation(&self, prompt: &[u32], continuation: &[u32]) -> Result<String> {
        let before = self.decode(prompt, true)?;
        let all = self.decode(&[prompt, continuation].concat(), true)?;
        let same = before.chars().zip(all.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        Ok(all[same..].to_owned())
    }

    /// The token of an id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token, as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of ids, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Ids of special tokens.
    pub fn special(&self) -> Special {
        self.special
    }
}

/// Special tokens of trained tokenizers, by id.
pub const TRAINED_SPECIAL: [&str; 4] = ["<pad>", "<s>", "</s>", "<unk>"];

/// A tokenizer of whole words, split at white space, most frequent first, at most `vocab_size` ids. Decoding joins
/// words by single spaces. Gives the bytes of a `tokenizer.json`: same texts, same bytes.
pub fn train_word_level<S: AsRef<str>>(texts: &[S], vocab_size: usize) -> Result<Vec<u8>> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in texts.iter().flat_map(|text| text.as_ref().split_whitespace()) {
        *counts.entry(word).or_default() += 1;
    }
    let mut words: Vec<(&str, usize)> =
        counts.into_iter().filter(|(word, _)| !TRAINED_SPECIAL.contains(word)).collect();
    words.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let tokens = TRAINED_SPECIAL.into_iter().chain(words.into_iter().map(|(word, _)| word));
    let vocab: serde_json::Map<String, Value> =
        tokens.take(vocab_size).zip(0..).map(|(token, id)| (token.to_owned(), json!(id))).collect();
    let added: Vec<Value> = (0..)
        .zip(TRAINED_SPECIAL)
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })
        })
        .collect();
    let spec = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
    });
    // Through the library once, which writes vocabularies by id and checks the rest.
    let inner = Inner::from_bytes(spec.to_string()).map_err(failed)?;
    Ok(inner.to_string(false).map_err(failed)?.into_bytes())
}

/// A byte-level BPE tokenizer as GPT-2's, with at most `vocab_size` ids, special tokens first. Gives the bytes of a
/// `tokenizer.json`: same texts, same bytes.
pub fn train_byte_bpe<S: AsRef<str> + Sync>(texts: &[S], vocab_size: usize) -> Result<Vec<u8>> {
    let mut trained = TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(Some(ByteLevel::default().trim_offsets(false)))
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .map_err(failed)?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(TRAINED_SPECIAL.map(|token| AddedToken::from(token, true)).to_vec())
        .build();
    trained.train(&mut trainer, texts.iter().map(AsRef::as_ref)).map_err(failed)?;
    Ok(trained.to_string(false).map_err(failed)?.into_bytes())
}

/// BERT's tokenizer with a WordPiece vocabulary of at most `vocab_size` ids, special tokens first: `[CLS]` before a text,
/// `[SEP]` behind it. Gives the bytes of a `tokenizer.json`: same texts, same bytes.
pub fn train_word_piece<S: AsRef<str>>(texts: &[S], vocab_size: usize, lowercase: bool) -> Result<Vec<u8>> {
    let tokens = word_piece::vocabulary(texts, vocab_size, lowercase)?;
    let spec = vocab::word_piece_of(&tokens, lowercase)?;
    let inner = Inner::from_bytes(spec.to_string()).map_err(failed)?;
    Ok(inner.to_string(false).map_err(failed)?.into_bytes())
}

const BROKEN_PART: &str = "its normalizer, decoder or post_processor is broken";

/// A tokenizer of the bytes of a `tokenizer.json`. The crate panics on some: where a decoder is no JSON, where a
/// normalizer's table of characters is broken, and, at the first text, where a template names a token that it doesn't
/// define.
fn read(bytes: &[u8]) -> Result<Inner> {
    #[derive(Deserialize)]
    struct Parts {
        #[serde(default, rename = "decoder")]
        _decoder: Value,
    }
    let invalid = |error: serde_json::Error| ModelError::Tokenizer(error.to_string());
    serde_json::from_slice::<Parts>(bytes).map_err(invalid)?;
    let tried = || {
        let inner = Inner::from_bytes(bytes)?;
        // Whether it has a token for these is no matter here.
        let _ = inner.encode_fast("a", true);
        let _ = inner.encode_fast(("a", "a"), true);
        Ok(inner)
    };
    match std::panic::catch_unwind(tried) {
        Ok(read) => read.map_err(failed),
        Err(_) => Err(ModelError::Tokenizer(BROKEN_PART.into())),
    }
}

fn failed(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 3] = ["the cat sat on the mat", "the dog saw the cat", "a naïve dog ☃"];

    #[test]
    fn word_level_round_trip() {
        let bytes = train_word_level(&TEXTS, 100).unwrap();
        assert_eq!(bytes, train_word_level(&TEXTS, 100).unwrap());
        let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
        let ids = tokenizer.encode("the cat flew", true).unwrap();
        assert_eq!(ids, [4, 5, 3], "most frequent first, unknown words are <unk>");
        assert_eq!(tokenizer.decode(&ids[..2], true).unwrap(), "the cat");
        assert_eq!(tokenizer.decode_continuation(&ids[..1], &ids[1..2]).unwrap(), " cat");
        let special = Special { pad: Some(0), bos: Some(1), eos: Some(2), unk: Some(3), ..Special::default() };
        assert_eq!(tokenizer.special(), special);
        assert_eq!(Tokenizer::from_bytes(&train_word_level(&TEXTS, 6).unwrap()).unwrap().vocab_size(), 6);
    }

    #[test]
    fn byte_bpe_holds_any_text_and_has_one_form() {
        let bytes = train_byte_bpe(&TEXTS, 280).unwrap();
        for _ in 0..3 {
            assert_eq!(bytes, train_byte_bpe(&TEXTS, 280).unwrap());
        }
        let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
        assert!((260..=280).contains(&tokenizer.vocab_size()), "{}", tokenizer.vocab_size());
        let text = " 東京  is\n\tTokyo 🚀";
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        for at in 0..ids.len() {
            let (prompt, rest) = ids.split_at(at);
            let continuation = tokenizer.decode_continuation(prompt, rest).unwrap();
            assert!(text.ends_with(&continuation) && !continuation.is_empty());
        }
    }

    #[test]
    fn word_pieces_round_trip() {
        let bytes = train_word_piece(&TEXTS, 100, true).unwrap();
        assert_eq!(bytes, train_word_piece(&TEXTS, 100, true).unwrap());
        let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
        let special = tokenizer.special();
        let [pad, unk, cls, sep, mask] = [special.pad, special.unk, special.cls, special.sep, special.mask];
        assert_eq!([pad, unk, cls, sep, mask], [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        let ids = tokenizer.encode("The CAT sat", true).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the cat sat");
        let cased = Tokenizer::from_bytes(&train_word_piece(&["The cat"], 100, false).unwrap()).unwrap();
        assert_eq!(cased.decode(&cased.encode("The cat", true).unwrap(), true).unwrap(), "The cat");
        let pair = tokenizer.encode_pair("the cat", "a dog").unwrap();
        assert_eq!((pair.types[0], pair.types[pair.types.len() - 1]), (0, 1));
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let message = |bytes: &[u8]| match Tokenizer::from_bytes(bytes).unwrap_err() {
            ModelError::Tokenizer(reason) => reason,
            other => panic!("{other}"),
        };
        insta::assert_snapshot!(message(b"{}"), @"Model missing. at line 1 column 2");
        insta::assert_snapshot!(message(b""), @"EOF while parsing a value at line 1 column 0");
        // Each of these makes the crate panic.
        let spec = |part: &str| {
            format!(r#"{{"version": "1.0", {part}, "model": {{"type": "BPE", "vocab": {{}}, "merges": []}}}}"#)
        };
        insta::assert_snapshot!(message(spec(r#""decoder": {"type": "Fuse" "x"}"#).as_bytes()), @"expected `,` or `}` at line 1 column 47");
        insta::assert_snapshot!(message(spec(r#""post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {}}"#).as_bytes()), @"its normalizer, decoder or post_processor is broken");
        insta::assert_snapshot!(message(spec(r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}"#).as_bytes()), @"its normalizer, decoder or post_processor is broken");
    }
}
