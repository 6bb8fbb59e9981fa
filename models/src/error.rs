//! What can go wrong with a model's files, and in what words.

use std::path::PathBuf;

/// An error of reading, writing or building a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that the model needs isn't among its files.
    #[error("the model has no `{name}`")]
    MissingFile {
        /// Name relative to the model's folder.
        name: String,
    },
    /// None of the files that hold a model's weights is there.
    #[error(
        "the model has no weights: `model.safetensors` or `pytorch_model.bin` is wanted, or shards with their \
         `.index.json`"
    )]
    NoWeights,
    /// None of the files that make a tokenizer is there.
    #[error(
        "the model has no tokenizer: `tokenizer.json` is wanted, or `vocab.json` with `merges.txt`, or `vocab.txt` (of a \
         `tokenizer.model` transformers' `AutoTokenizer.from_pretrained(...).save_pretrained(...)` makes the first)"
    )]
    NoTokenizer,
    /// What git keeps in place of a large file that wasn't fetched.
    #[error("`{name}` is only Git LFS's pointer to the file: fetch the file itself, by `git lfs pull`")]
    LfsPointer {
        /// Name relative to the model's folder.
        name: String,
    },
    /// A file could not be read or written.
    #[error("can't access {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file that doesn't parse.
    #[error("`{name}` is not valid: {reason}")]
    Json {
        /// Name relative to the model's folder.
        name: String,
        /// The parser's words.
        reason: String,
    },
    /// A config that this program has no model for.
    #[error("{0}")]
    Config(#[from] crate::config::ConfigError),
    /// A safetensors file that is cut off or otherwise broken.
    #[error("`{name}` is not a whole safetensors file: {reason}")]
    BrokenTensors {
        /// Name relative to the model's folder.
        name: String,
        /// The parser's words.
        reason: String,
    },
    /// A PyTorch checkpoint that is broken, or holds more than tensors.
    #[error("`{name}` can't be read as a PyTorch checkpoint: {reason}")]
    BrokenCheckpoint {
        /// Name relative to the model's folder.
        name: String,
        /// Why.
        reason: crate::weights::TorchError,
    },
    /// A tensor that isn't where the index says.
    #[error("the tensor `{name}` is not in `{shard}`, where the index says it is")]
    NotInShard {
        /// Name in the index.
        name: String,
        /// File by the index.
        shard: String,
    },
    /// A tensor that several files hold.
    #[error("several files hold the tensor `{name}`")]
    TwiceThere {
        /// Name in the files.
        name: String,
    },
    /// A tensor that the config calls for and no file holds.
    #[error("the weights lack the tensor `{name}`")]
    MissingTensor {
        /// Hugging Face name.
        name: String,
    },
    /// Tensors in the files that the model has no place for.
    #[error("the weights hold tensors that a {family} model has no place for: {}", listed(.names))]
    ExtraTensors {
        /// Model family.
        family: &'static str,
        /// Names as in the files.
        names: Vec<String>,
    },
    /// A tensor whose shape disagrees with the config.
    #[error("the tensor `{name}` has shape {found:?}, the config calls for {expected:?}")]
    WrongShape {
        /// Hugging Face name.
        name: String,
        /// Shape by the config.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// An element type other than f32, f16 and bf16.
    #[error("the tensor `{name}` is stored as {dtype}; f32, f16 and bf16 can be read")]
    ElementType {
        /// Hugging Face name.
        name: String,
        /// safetensors' word for it.
        dtype: String,
    },
    /// More tokens than the model has positions for.
    #[error("{length} tokens do not fit the model's context of {context}")]
    ContextLength {
        /// Tokens asked for.
        length: usize,
        /// What the model has.
        context: usize,
    },
    /// Examples that share a row longer than the model's context.
    #[error(
        "packing makes a row of {length} tokens, and the model's context is {context}: pack into rows of at most that"
    )]
    PackedLength {
        /// Tokens of the row.
        length: usize,
        /// What the model has.
        context: usize,
    },
    /// A prompt that is longer than the model's context.
    #[error("prompt {prompt} has {length} tokens, and the model's context is {context}: shorten it")]
    PromptLength {
        /// Which, counted from 0.
        prompt: usize,
        /// Its tokens.
        length: usize,
        /// What the model has.
        context: usize,
    },
    /// A prompt without tokens, of a tokenizer that has none to begin a text with.
    #[error("prompt {prompt} has no token to continue, and the tokenizer has none that begins a text")]
    EmptyPrompt {
        /// Which, counted from 0.
        prompt: usize,
    },
    /// Options of generating that contradict each other, or are out of range.
    #[error("{0}")]
    Generation(String),
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// Vocabulary size of the model.
        vocab: usize,
    },
    /// A batch with no rows or no tokens, or with a row of another length than its mask.
    #[error("a batch needs at least one row, and rows of at least one token")]
    EmptyBatch,
    /// A class that a classifier doesn't have.
    #[error("class {label} is outside the classifier's {classes}")]
    Class {
        /// Number of the class.
        label: u32,
        /// How many there are.
        classes: usize,
    },
    /// Token types for a model that has none.
    #[error("a {family} model has no token types")]
    TokenTypes {
        /// Model family.
        family: &'static str,
    },
    /// A token type that the model has no embedding for.
    #[error("token type {id} is outside the model's {types}")]
    TokenType {
        /// The type.
        id: u32,
        /// How many the model has.
        types: usize,
    },
    /// A model of another kind than the one that is wanted.
    #[error("the model is {found}; {wanted} is wanted")]
    Task {
        /// What `config.json` describes.
        found: String,
        /// What was to be loaded.
        wanted: &'static str,
    },
    /// A tokenizer with ids that the model has no embedding for.
    #[error(
        "the tokenizer's highest id is {highest} (`{token}`), but the model embeds only {vocab} ids: it is another model's, or tokens were added to it and the embedding wasn't resized"
    )]
    Vocabulary {
        /// Of all ids, added tokens included.
        highest: u32,
        /// Which token that is.
        token: String,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// The model's logits hold a NaN.
    #[error("the model's logits are not numbers (NaN)")]
    NotANumber,
    /// The model gives no token any probability.
    #[error("no token can be chosen: the model's logits are all -inf")]
    NoToken,
    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
    /// The tokenizer's own words.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

impl ModelError {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        ModelError::Io { path: path.into(), source }
    }
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, ModelError>;

/// The first of the names; a whole model of another family would fill the screen.
fn listed(names: &[String]) -> String {
    const MOST: usize = 12;
    match names.len().saturating_sub(MOST) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..MOST].join(", ")),
    }
}
