//! Continuing prompts, many at a time: greedily, by drawing, or by beam search. What a prompt comes to does not depend
//! on the batch it is in: prompts of different lengths share a batch without padding (on the CPU), rows that are
//! finished leave it and others take their places, and random choices are keyed by prompt, sample and token.
//!
//! | file | what for |
//! |---|---|
//! | `rows` | one token at a time for all rows of a batch |
//! | `beam` | beam search, as transformers does it |
//! | `ending` | what ends a continuation: end-of-text tokens, stop texts, room |

mod beam;
mod ending;
mod rows;

use crate::config::{ModelConfig, eos_ids};
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layers::Layout;
use crate::model::CausalLm;
use crate::rng;
use crate::sampling::Sampling;
use crate::tokenizer::Tokenizer;

/// A text to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens, special ones included.
    pub ids: Vec<u32>,
    /// Tells its random choices from those of other prompts.
    pub key: u64,
}

impl Prompt {
    /// Of tokens; equal prompts draw equal tokens.
    pub fn new(ids: Vec<u32>) -> Self {
        let words: Vec<u64> = ids.iter().copied().map(u64::from).collect();
        Prompt { key: rng::fold(0, &words), ids }
    }

    /// Of text, with the special tokens that the tokenizer adds, or its first-of-text token if that leaves none.
    pub fn text(text: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let mut ids = tokenizer.encode(text, true)?;
        if ids.is_empty() {
            ids.extend(tokenizer.special().bos.or(tokenizer.special().eos));
        }
        Ok(Prompt::new(ids))
    }
}

/// How to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to add.
    pub max_new_tokens: usize,
    /// Continuations per prompt; with beams the best of them.
    pub samples: usize,
    /// Texts that end a continuation, even where they span tokens; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end a continuation; see [`end_of_text`].
    pub eos: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Beam search in place of choosing token by token.
    pub beams: Option<Beams>,
    /// Whether to tell the log-probability of each token chosen.
    pub logprobs: bool,
    /// Seed of the choices.
    pub seed: u64,
    /// Most continuations (or beams) made at once.
    pub batch_size: usize,
    /// How rows of different lengths share a batch; what suits the device, if not said.
    pub layout: Option<Layout>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_new_tokens: 20,
            samples: 1,
            stop: Vec::new(),
            eos: Vec::new(),
            sampling: Sampling::greedy(),
            beams: None,
            logprobs: false,
            seed: 0,
            batch_size: 32,
            layout: None,
        }
    }
}

/// Beam search with transformers' parameters and defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beams {
    /// Continuations kept at each token (`num_beams`).
    pub beams: usize,
    /// A finished continuation of `n` tokens has the score `sum of log-probabilities / n^length_penalty`.
    pub length_penalty: f64,
    /// When a prompt's search ends.
    pub early_stopping: EarlyStopping,
}

impl Beams {
    /// As many beams, the rest as transformers has it.
    pub fn new(beams: usize) -> Self {
        Beams { beams, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic }
    }
}

/// When a beam search ends that could still go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best beam, if it ended now, would be no better than the worst of `beams` finished ones: transformers'
    /// `False`, its default.
    #[default]
    Heuristic,
    /// As soon as `beams` are finished: `True`.
    AtOnce,
    /// When no beam can become better than the worst finished one: `"never"`.
    Never,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    Eos,
    /// A stop text came up.
    Stop,
    /// `max_new_tokens` are there, or the context is full.
    Length,
}

impl Finish {
    /// As written in records.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Eos => "eos",
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// One continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Number of the prompt.
    pub prompt: usize,
    /// Number among the prompt's continuations; with beams the best is 0.
    pub sample: usize,
    /// The continuation alone, without special tokens.
    pub text: String,
    /// All tokens added, an end-of-text token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Whether the model's context left room for fewer than `max_new_tokens`, and the continuation met its end.
    pub context_full: bool,
    /// For each of `tokens` its log-probability in nats, if asked for. Of the model's own distribution
    /// `log_softmax(logits)`: temperature, penalties and cuts do not change it.
    pub logprobs: Option<Vec<f64>>,
    /// What beam search ranked it by, in nats.
    pub score: Option<f64>,
}

/// What ends a text by a model's files: `generation_config.json`, else `config.json`, else the tokenizer.
pub fn end_of_text(files: &ModelFiles, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    if let Some(text) = files.text("generation_config.json")? {
        let ids = eos_ids(&text)
            .map_err(|error| ModelError::Json { name: "generation_config.json".into(), reason: error.to_string() })?;
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    match config.eos.is_empty() {
        false => Ok(config.eos.clone()),
        true => Ok(tokenizer.special().eos.into_iter().collect()),
    }
}

/// Continues each prompt `samples` times; by prompt, then sample. `progress` hears how many of all continuations are
/// done, after each step, and stops the work with [`ModelError::Cancelled`] by saying `false`.
///
/// Never makes a token past the model's context: a continuation that meets its end says so
/// ([`Completion::context_full`]). A prompt as long as the context thus comes back with nothing added; one that is
/// longer, or holds no token at all, is an error, before anything is computed.
pub fn generate(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    options: &GenerateOptions,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<Completion>> {
    options.check()?;
    check_prompts(model, prompts)?;
    let total = prompts.len() * options.samples;
    let mut report = |done: usize| match progress(done, total) {
        true => Ok(()),
        false => Err(ModelError::Cancelled),
    };
    let mut done = match options.beams {
        Some(beams) => beam::search(model, tokenizer, prompts, options, beams, &mut report)?,
        None => rows::run(model, tokenizer, prompts, options, &mut report)?,
    };
    done.sort_by_key(|completion| (completion.prompt, completion.sample));
    Ok(done)
}

impl GenerateOptions {
    /// Refuses what contradicts itself.
    fn check(&self) -> Result<()> {
        let invalid = |reason: String| Err(ModelError::Generation(reason));
        let Some(beams) = self.beams else { return self.sampling.check() };
        if beams.beams == 0 {
            return invalid("beam search needs at least 1 beam".into());
        }
        if !beams.length_penalty.is_finite() {
            return invalid(format!("the length penalty is {}, expected a finite number", beams.length_penalty));
        }
        if self.samples > beams.beams {
            return invalid(format!("{} beams can't give {} continuations of a prompt", beams.beams, self.samples));
        }
        if self.sampling.draws() {
            return invalid("beam search takes the most probable continuations; it doesn't draw".into());
        }
        self.sampling.check()
    }
}

/// Refuses prompts that the model has no place for.
pub(crate) fn check_prompts(model: &CausalLm, prompts: &[Prompt]) -> Result<()> {
    let ModelConfig { context, vocab_size: vocab, .. } = *model.config();
    for (prompt, Prompt { ids, .. }) in prompts.iter().enumerate() {
        if ids.is_empty() {
            return Err(ModelError::EmptyPrompt { prompt });
        }
        if ids.len() > context {
            return Err(ModelError::PromptLength { prompt, length: ids.len(), context });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(ModelError::TokenId { id, vocab });
        }
    }
    Ok(())
}
