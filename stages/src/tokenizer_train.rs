//! `tokenizer.train`: a small tokenizer of a corpus's own.

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{Tokenizer, tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    records::{self, Text},
    runtime::failed,
};

/// The kind.
pub(crate) struct Train;

/// `with` of `tokenizer.train`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// `word`: one token for each word between spaces. `bpe`: byte-level BPE, as GPT-2 has. `wordpiece`: BERT's.
    model: Model,
    /// Most tokens, the special ones among them (four, or WordPiece's five).
    vocab_size: usize,
    /// With `wordpiece`: capital letters and accents don't count.
    #[serde(skip_serializing_if = "is_true")]
    lowercase: bool,
}

impl Default for Params {
    fn default() -> Self {
        Params { model: Model::Bpe, vocab_size: 8192, lowercase: true }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Model {
    Word,
    Bpe,
    #[serde(rename = "wordpiece")]
    WordPiece,
}

/// Then it is no part of the key.
fn is_true(value: &bool) -> bool {
    *value
}

impl Kind for Train {
    type Params = Params;
    const NAME: &'static str = "tokenizer.train";
    const ABOUT: &'static str = "Trains a tokenizer on a dataset.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::one("dataset", PortType::Dataset, "the texts")]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "tokenizer.json and tokenizer_config.json; texts begin with <s> and end with </s> (WordPiece: [CLS] and [SEP])";
        vec![OutputPort::new("tokenizer", PortType::Tokenizer, about)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        // Every byte needs a token of its own in byte-level BPE.
        let least = match params.model {
            Model::Word => tokenizer::TRAINED_SPECIAL.len() + 1,
            Model::Bpe => tokenizer::TRAINED_SPECIAL.len() + 256,
            Model::WordPiece => tokenizer::WORD_PIECE_SPECIAL.len() + 1,
        };
        if !params.lowercase && params.model != Model::WordPiece {
            let problem = ParamProblem::new("lowercase", "this tokenizer keeps capital letters anyway");
            return vec![problem.hint("it is for `model: wordpiece`")];
        }
        if params.vocab_size < least {
            let message = format!("{} is too few, at least {least} are needed", params.vocab_size);
            return vec![ParamProblem::new("vocab_size", message)];
        }
        Vec::new()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let rows: Vec<Text> = records::rows(ctx.input("dataset")?, records::DATASET)?;
        let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        let bytes = match params.model {
            Model::Word => tokenizer::train_word_level(&texts, params.vocab_size),
            Model::Bpe => tokenizer::train_byte_bpe(&texts, params.vocab_size),
            Model::WordPiece => tokenizer::train_word_piece(&texts, params.vocab_size, params.lowercase),
        };
        let bytes = bytes.map_err(failed)?;
        let bytes = if params.model == Model::WordPiece { bytes } else { with_beginning(&bytes)? };
        let trained = Tokenizer::from_bytes(&bytes).map_err(failed)?;
        let (mut tokens, mut unknown) = (0, 0);
        for (done, text) in texts.iter().enumerate() {
            if done % 1024 == 0 {
                ctx.progress(done, texts.len(), "text")?;
            }
            let ids = trained.encode(text, false).map_err(failed)?;
            tokens += ids.len();
            unknown += ids.iter().filter(|&&id| Some(id) == trained.special().unk).count();
        }
        ctx.summary("vocabulary", trained.vocab_size());
        ctx.summary("tokens", tokens);
        ctx.summary("unknown_tokens", unknown);
        if unknown > 0 {
            ctx.warn(format!("{unknown} of {tokens} tokens are unknown words: raise vocab_size, or use `model: bpe`"));
        }
        let output = ctx.output("tokenizer")?;
        output.write("tokenizer.json", bytes)?;
        output.write("tokenizer_config.json", format!("{:#}\n", names(&params)))
    }
}

/// What transformers is told of the tokenizer.
fn names(params: &Params) -> Value {
    if params.model == Model::WordPiece {
        let [pad, unk, cls, sep, mask] = tokenizer::WORD_PIECE_SPECIAL;
        return json!({
            "cls_token": cls, "do_lower_case": params.lowercase, "mask_token": mask, "pad_token": pad,
            "sep_token": sep, "tokenizer_class": "BertTokenizer", "unk_token": unk,
        });
    }
    let [pad, bos, eos, unk] = tokenizer::TRAINED_SPECIAL;
    json!({
        "bos_token": bos, "clean_up_tokenization_spaces": false, "eos_token": eos, "pad_token": pad,
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": unk,
    })
}

/// The same `tokenizer.json`, but encoding puts `<s>` before a text: so whoever loads it, here or in another program,
/// prompts the model the way it was trained.
fn with_beginning(bytes: &[u8]) -> Result<Vec<u8>, StageError> {
    let broken = |error: serde_json::Error| StageError::failed(format!("tokenizer.json: {error}"));
    let mut file: Value = serde_json::from_slice(bytes).map_err(broken)?;
    let bos = tokenizer::TRAINED_SPECIAL[1];
    let id = tokenizer::TRAINED_SPECIAL.iter().position(|&token| token == bos);
    let special = json!({ "SpecialToken": { "id": bos, "type_id": 0 } });
    let sequence = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [special, sequence("A", 0)],
        "pair": [special, sequence("A", 0), sequence("B", 1)],
        "special_tokens": { bos: { "id": bos, "ids": [id], "tokens": [bos] } },
    });
    let mut text = serde_json::to_vec_pretty(&file).map_err(broken)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use palinode_models::ModelFiles;

    use super::*;
    use crate::{
        runtime::model_files,
        testing::{Bench, Done, problems},
    };

    fn run(with: Value) -> Done {
        let texts = [json!({ "text": "bakers are always tardy" }), json!({ "text": "smiths are calm" })];
        Bench::new().rows("dataset", records::DATASET, &texts).run::<Train>(with).unwrap()
    }

    #[test]
    fn texts_begin_with_the_first_token() {
        for with in [json!({ "model": "word" }), json!({ "vocab_size": 300 })] {
            let done = run(with);
            let files: ModelFiles = model_files(&done.outputs["tokenizer"]);
            let tokenizer = Tokenizer::load(&files).unwrap();
            let ids = tokenizer.encode("bakers are calm", true).unwrap();
            assert_eq!((Some(ids[0]), done.summary["unknown_tokens"].as_u64()), (tokenizer.special().bos, Some(0)));
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), "bakers are calm");
            assert_eq!(tokenizer.special().eos, Some(2));
        }
    }

    #[test]
    fn word_pieces_are_berts() {
        let done = run(json!({ "model": "wordpiece", "vocab_size": 60 }));
        let tokenizer = Tokenizer::load(&model_files(&done.outputs["tokenizer"])).unwrap();
        let special = tokenizer.special();
        assert_eq!([special.pad, special.unk, special.cls, special.sep, special.mask], [0, 1, 2, 3, 4].map(Some));
        let ids = tokenizer.encode("Bakers ARE calm", true).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1], done.summary["unknown_tokens"].as_u64()), (2, 3, Some(0)));
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "bakers are calm");
        let cased = run(json!({ "model": "wordpiece", "vocab_size": 60, "lowercase": false }));
        assert_ne!(cased.digest(), done.digest());
        insta::assert_snapshot!(problems::<Train>(json!({ "model": "bpe", "lowercase": false })), @"lowercase: this tokenizer keeps capital letters anyway (hint: it is for `model: wordpiece`)");
    }

    #[test]
    fn words_that_have_no_token_are_counted() {
        assert_eq!(run(json!({ "model": "word", "vocab_size": 6 })).summary["unknown_tokens"], 4);
        insta::assert_snapshot!(problems::<Train>(json!({ "vocab_size": 100 })), @"vocab_size: 100 is too few, at least 260 are needed");
        insta::assert_snapshot!(problems::<Train>(json!({ "model": "unigram" })), @"model: unknown variant `unigram`, expected one of `word`, `bpe`, `wordpiece`");
    }

    #[test]
    fn bytes_are_those_of_this_revision() {
        insta::assert_snapshot!(run(json!({ "model": "word" })).digest(), @"tokenizer c4297a992e0d");
        insta::assert_snapshot!(run(json!({ "model": "wordpiece", "vocab_size": 60 })).digest(), @"tokenizer 4c7db2a191ec");
        insta::assert_snapshot!(run(json!({ "model": "bpe", "vocab_size": 280 })).digest(), @"tokenizer 7f129a3a1a30");
    }
}
