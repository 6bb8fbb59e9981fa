//! Tokenizers of folders without `tokenizer.json`: `vocab.json` and `merges.txt` (GPT-2's byte-level BPE, OPT's too) or
//! `vocab.txt` (BERT's WordPiece), put together as transformers' converters do it (`convert_slow_tokenizer.py`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::{ModelError, Result};
use crate::files::ModelFiles;

const BPE: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const WORD_PIECE: &str = "vocab.txt";
const CONFIG: &str = "tokenizer_config.json";

/// What a `tokenizer.json` would say, and the names of special tokens that the folder doesn't give.
pub(super) fn compose(files: &ModelFiles, names: &[Value]) -> Result<(Value, Value)> {
    if let Some(vocab) = files.text(BPE)? {
        let merges = files.text(MERGES)?.ok_or_else(|| ModelError::MissingFile { name: MERGES.into() })?;
        return byte_level(&vocab, &merges, &Settings::read(files, names)?);
    }
    match files.text(WORD_PIECE)? {
        Some(vocab) => word_piece(&vocab, &Settings::read(files, names)?),
        None => Err(ModelError::NoTokenizer),
    }
}

/// What the other files say.
struct Settings<'a> {
    names: &'a [Value],
    opt: bool,
    /// Tokens beside the vocabulary, by id.
    added: BTreeMap<u64, String>,
}

impl<'a> Settings<'a> {
    fn read(files: &ModelFiles, names: &'a [Value]) -> Result<Self> {
        let config = files.text("config.json")?.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let opt = config.is_some_and(|config| config["model_type"] == "opt");
        let mut added = BTreeMap::new();
        for (id, token) in names.iter().filter_map(|names| names["added_tokens_decoder"].as_object()).flatten() {
            let entry = id.parse().ok().zip(token["content"].as_str());
            let (id, content) = entry.ok_or_else(|| wrong(CONFIG, format!("added token {id} is {token}")))?;
            added.insert(id, content.to_owned());
        }
        if let Some(text) = files.text("added_tokens.json")? {
            let map = object("added_tokens.json", &text)?;
            for (content, id) in map {
                let id = id.as_u64().ok_or_else(|| wrong("added_tokens.json", format!("`{content}` has id {id}")))?;
                added.insert(id, content);
            }
        }
        Ok(Settings { names, opt, added })
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.names.iter().map(|names| &names[key]).find(|value| !value.is_null())
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// The token of a role.
    fn token(&self, key: &str, usual: &str) -> String {
        let named = self.get(key).and_then(|token| token.as_str().or_else(|| token["content"].as_str()));
        named.unwrap_or(usual).to_owned()
    }

    /// Special tokens for `added_tokens`: those of the roles that the vocabulary holds, and those beside it.
    fn special(&self, vocab: &Map<String, Value>, roles: &Value) -> Vec<Value> {
        let mut tokens = self.added.clone();
        for token in roles.as_object().into_iter().flatten().filter_map(|(_, token)| token.as_str()) {
            if let Some(id) = vocab.get(token).and_then(Value::as_u64) {
                tokens.insert(id, token.to_owned());
            }
        }
        let entry = |(id, token)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })
        };
        tokens.into_iter().map(entry).collect()
    }
}

/// `GPT2Converter`; OPT puts its first-of-text token in front.
fn byte_level(vocab: &str, merges: &str, settings: &Settings<'_>) -> Result<(Value, Value)> {
    let vocab = object(BPE, vocab)?;
    let lines = merges.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    let pair = |(number, line): (usize, &str)| match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok(json!([left, right]))
        }
        _ => Err(wrong(MERGES, format!("line {} is `{line}`, expected two tokens", number + 1))),
    };
    let merges: Vec<Value> = lines.map(pair).collect::<Result<_>>()?;
    let end = if settings.opt { "</s>" } else { "<|endoftext|>" };
    let mut roles = json!({
        "bos_token": settings.token("bos_token", end),
        "eos_token": settings.token("eos_token", end),
        "unk_token": settings.token("unk_token", end),
    });
    if settings.opt || settings.get("pad_token").is_some() {
        roles["pad_token"] = json!(settings.token("pad_token", "<pad>"));
    }
    let first = roles["bos_token"].as_str().unwrap_or(end).to_owned();
    let processor = match settings.flag("add_bos_token", settings.opt) {
        true => template(&[&first], &[(&first, id(BPE, &vocab, &first)?)]),
        false => json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true }),
    };
    let byte_level = |prefix: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true });
    let spec = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": settings.special(&vocab, &roles),
        "pre_tokenizer": byte_level(settings.flag("add_prefix_space", false)),
        "post_processor": processor,
        "decoder": byte_level(true),
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges },
    });
    Ok((spec, roles))
}

/// What a `tokenizer.json` of BERT's says, with these tokens by id.
pub(super) fn word_piece_of(tokens: &[String], lowercase: bool) -> Result<Value> {
    let names = [json!({ "do_lower_case": lowercase })];
    let settings = Settings { names: &names, opt: false, added: BTreeMap::new() };
    Ok(word_piece(&tokens.join("\n"), &settings)?.0)
}

/// `BertConverter`.
fn word_piece(vocab: &str, settings: &Settings<'_>) -> Result<(Value, Value)> {
    let vocab: Map<String, Value> =
        vocab.lines().enumerate().map(|(id, token)| (token.to_owned(), json!(id))).collect();
    let usual = [("unk", "[UNK]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("cls", "[CLS]"), ("mask", "[MASK]")];
    let roles: Map<String, Value> = usual
        .into_iter()
        .map(|(role, usual)| (format!("{role}_token"), json!(settings.token(&format!("{role}_token"), usual))))
        .collect();
    let roles = Value::from(roles);
    let [cls, sep] = ["cls_token", "sep_token"].map(|role| roles[role].as_str().unwrap_or_default().to_owned());
    let ids = [(&*cls, id(WORD_PIECE, &vocab, &cls)?), (&*sep, id(WORD_PIECE, &vocab, &sep)?)];
    let strip_accents = settings.get("strip_accents").and_then(Value::as_bool);
    let spec = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": settings.special(&vocab, &roles),
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "strip_accents": strip_accents,
            "handle_chinese_chars": settings.flag("tokenize_chinese_chars", true),
            "lowercase": settings.flag("do_lower_case", true) },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": template(&[&cls, &sep], &ids),
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": roles["unk_token"], "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab },
    });
    Ok((spec, roles))
}

/// `[first] text` alone or twice, or `[first] text [last] pair [last]`, where the pair has type 1.
fn template(around: &[&str], ids: &[(&str, u64)]) -> Value {
    let token = |token: &str, kind: usize| json!({ "SpecialToken": { "id": token, "type_id": kind } });
    let text = |name: &str, kind: usize| json!({ "Sequence": { "id": name, "type_id": kind } });
    let (single, pair) = match *around {
        [first, last] => {
            let single = vec![token(first, 0), text("A", 0), token(last, 0)];
            (single.clone(), [single, vec![text("B", 1), token(last, 1)]].concat())
        }
        _ => {
            let first = || token(around[0], 0);
            (vec![first(), text("A", 0)], vec![first(), text("A", 0), first(), text("B", 0)])
        }
    };
    let known: Map<String, Value> = ids
        .iter()
        .map(|(name, id)| ((*name).to_owned(), json!({ "id": name, "ids": [id], "tokens": [name] })))
        .collect();
    json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known })
}

fn id(file: &str, vocab: &Map<String, Value>, token: &str) -> Result<u64> {
    vocab.get(token).and_then(Value::as_u64).ok_or_else(|| wrong(file, format!("it has no id for `{token}`")))
}

fn object(name: &str, text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| wrong(name, error.to_string()))
}

fn wrong(name: &str, reason: String) -> ModelError {
    ModelError::Json { name: name.into(), reason }
}
