//! Continuing prompts, many at a time. What a prompt comes to does not depend on the batch it is in: prompts are
//! grouped by length so that no padding enters a sum, rows that are finished leave the batch, and random choices
//! are keyed by prompt, sample and token.

use std::collections::BTreeMap;

use crate::config::{ModelConfig, eos_ids};
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layers::{Batch, ops};
use crate::model::{CausalLm, values};
use crate::rng;
use crate::sampling::{SampleKey, Sampling};
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
    /// Continuations per prompt.
    pub samples: usize,
    /// Texts that end a continuation; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end a continuation; see [`end_of_text`].
    pub eos: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Seed of the choices.
    pub seed: u64,
    /// Most continuations made at once.
    pub batch_size: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_new_tokens: 20,
            samples: 1,
            stop: Vec::new(),
            eos: Vec::new(),
            sampling: Sampling::greedy(),
            seed: 0,
            batch_size: 32,
        }
    }
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// Number of the prompt.
    pub prompt: usize,
    /// Number among the prompt's continuations.
    pub sample: usize,
    /// The continuation alone, without special tokens.
    pub text: String,
    /// All tokens added, an end-of-text token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Whether the model's context left room for fewer than `max_new_tokens`.
    pub context_full: bool,
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
pub fn generate(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    options: &GenerateOptions,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<Completion>> {
    let total = prompts.len() * options.samples;
    let mut by_length: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
    for (number, prompt) in prompts.iter().enumerate() {
        let rows = by_length.entry(prompt.ids.len()).or_default();
        rows.extend((0..options.samples).map(|sample| Row { prompt, number, sample, tokens: Vec::new() }));
    }
    let mut done = Vec::with_capacity(total);
    for (length, rows) in by_length {
        for rows in rows.chunks(options.batch_size.max(1)) {
            let mut advance = |done: usize| progress(done, total);
            continue_rows(model, tokenizer, rows.to_vec(), length, options, &mut done, &mut advance)?;
        }
    }
    done.sort_by_key(|completion| (completion.prompt, completion.sample));
    Ok(done)
}

#[derive(Clone)]
struct Row<'a> {
    prompt: &'a Prompt,
    number: usize,
    sample: usize,
    tokens: Vec<u32>,
}

/// Rows of one length, to their ends.
fn continue_rows(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    mut rows: Vec<Row>,
    length: usize,
    options: &GenerateOptions,
    done: &mut Vec<Completion>,
    progress: &mut impl FnMut(usize) -> bool,
) -> Result<()> {
    let context = model.config().context;
    if length > context {
        return Err(ModelError::ContextLength { length, context });
    }
    let budget = options.max_new_tokens.min(context - length);
    let context_full = budget < options.max_new_tokens;
    if budget == 0 {
        for row in rows {
            done.push(row.finish(String::new(), Finish::Length, context_full));
        }
        return stop_unless(progress(done.len()));
    }
    let mut cache = model.cache(length + budget);
    let prompts: Vec<u32> = rows.iter().flat_map(|row| row.prompt.ids.iter().copied()).collect();
    let mut input = Batch::new(prompts, vec![true; rows.len() * length], [rows.len(), length])?;
    loop {
        let logits = values(model.decode(&input, &mut cache)?);
        let mut left = Vec::with_capacity(rows.len());
        let mut kept = Vec::with_capacity(rows.len());
        for (at, (mut row, logits)) in rows.into_iter().zip(logits.chunks(model.config().vocab_size)).enumerate() {
            row.choose(logits, options)?;
            match row.ended(tokenizer, options, budget)? {
                Some((text, finish)) => {
                    let short = context_full && finish == Finish::Length;
                    done.push(row.finish(text, finish, short));
                }
                None => {
                    left.push(row);
                    kept.push(at as i32);
                }
            }
        }
        stop_unless(progress(done.len()))?;
        if left.is_empty() {
            return Ok(());
        }
        let [before, _] = input.dims();
        if kept.len() < before {
            let count = kept.len();
            cache.keep(ops::ints(kept, [count], &model.device()));
        }
        rows = left;
        let last = rows.iter().filter_map(|row| row.tokens.last().copied()).collect();
        input = Batch::new(last, vec![true; rows.len()], [rows.len(), 1])?;
    }
}

impl Row<'_> {
    fn choose(&mut self, logits: &[f32], options: &GenerateOptions) -> Result<()> {
        let key = SampleKey {
            seed: options.seed,
            prompt: self.prompt.key,
            sample: self.sample as u64,
            token: self.tokens.len() as u64,
        };
        let so_far = match options.sampling.repetition_penalty {
            Some(_) => [&self.prompt.ids[..], &self.tokens].concat(),
            None => Vec::new(),
        };
        let token = options.sampling.choose(logits, &so_far, key);
        self.tokens.push(token.ok_or(ModelError::NotANumber)?);
        Ok(())
    }

    /// Text and reason, if the last token ended the continuation.
    fn ended(
        &self,
        tokenizer: &Tokenizer,
        options: &GenerateOptions,
        budget: usize,
    ) -> Result<Option<(String, Finish)>> {
        let eos = self.tokens.last().is_some_and(|last| options.eos.contains(last));
        let full = self.tokens.len() >= budget;
        if !eos && !full && options.stop.is_empty() {
            return Ok(None);
        }
        // An end-of-text id need not be a special token of the tokenizer; it is never text.
        let texted = &self.tokens[..self.tokens.len() - usize::from(eos)];
        let mut text = tokenizer.decode_continuation(&self.prompt.ids, texted)?;
        let stops = options.stop.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops.filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(at);
            return Ok(Some((text, Finish::Stop)));
        }
        Ok(match (eos, full) {
            (true, _) => Some((text, Finish::Eos)),
            (false, true) => Some((text, Finish::Length)),
            (false, false) => None,
        })
    }

    fn finish(self, text: String, finish: Finish, context_full: bool) -> Completion {
        let Row { number, sample, tokens, .. } = self;
        Completion { prompt: number, sample, text, tokens, finish, context_full }
    }
}

fn stop_unless(go_on: bool) -> Result<()> {
    if go_on { Ok(()) } else { Err(ModelError::Cancelled) }
}
