//! One token at a time for all rows of a batch; rows come and go.

use std::collections::VecDeque;
use std::ops::Range;

use rayon::prelude::*;

use super::ending::Ending;
use super::{Completion, Finish, GenerateOptions, Prompt};
use crate::error::Result;
use crate::layers::Layout;
use crate::model::{CausalLm, values};
use crate::sampling::{SampleKey, log_probability};
use crate::tokenizer::Tokenizer;

/// Prompt tokens taken in at once, unless one prompt has more: bounds the memory of a pass.
const PREFILL: usize = 4096;
/// Logits below which choosing tokens stays on one thread.
const ALONE: usize = 1 << 14;

/// A continuation in the making.
struct Row<'a> {
    prompt: &'a Prompt,
    number: usize,
    sample: usize,
    budget: usize,
    tokens: Vec<u32>,
    logprobs: Vec<f64>,
}

/// Samples of one prompt that begin together: the prompt is read once for all of them.
struct Start<'a> {
    prompt: &'a Prompt,
    number: usize,
    samples: Range<usize>,
}

pub(super) fn run(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    options: &GenerateOptions,
    report: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Completion>> {
    let context = model.config().context;
    let ending = Ending::new(tokenizer, options);
    let seats = options.batch_size.max(1);
    let mut done = Vec::with_capacity(prompts.len() * options.samples);
    let mut waiting = VecDeque::new();
    for (number, prompt) in prompts.iter().enumerate() {
        if budget(prompt, options, context) == 0 {
            done.extend(
                (0..options.samples)
                    .map(|sample| Row::new(prompt, number, sample, 0).finish(String::new(), Finish::Length, options)),
            );
            continue;
        }
        waiting.extend((0..options.samples).step_by(seats).map(|first| {
            let samples = first..(first + seats).min(options.samples);
            Start { prompt, number, samples }
        }));
    }
    let layout = options.layout.unwrap_or_else(|| Layout::of(&model.device()));
    if layout == Layout::Padded {
        // Rows of about one length leave little to pad.
        waiting.make_contiguous().sort_by_key(|start| start.prompt.ids.len());
    }
    let longest = waiting.iter().map(|start| start.prompt.ids.len() + budget(start.prompt, options, context)).max();
    let mut cache = model.cache_in(layout, longest.unwrap_or(0));
    let mut rows: Vec<Row> = Vec::new();
    report(done.len())?;
    loop {
        let starts = admit(&mut waiting, &rows, seats, layout);
        if layout == Layout::Padded && rows.is_empty() {
            cache = model.cache_in(layout, longest.unwrap_or(0));
        }
        let input: Vec<&[u32]> = rows
            .iter()
            .map(|row| &row.tokens[row.tokens.len() - 1..])
            .chain(starts.iter().map(|start| &start.prompt.ids[..]))
            .collect();
        if input.is_empty() {
            return Ok(done);
        }
        let logits = values(model.decode(&input, &mut cache)?);
        // Each sample of a prompt that was just read becomes a row of its own.
        let mut sources: Vec<usize> = (0..rows.len()).collect();
        for (start, source) in starts.iter().zip(rows.len()..) {
            for sample in start.samples.clone() {
                sources.push(source);
                rows.push(Row::new(start.prompt, start.number, sample, budget(start.prompt, options, context)));
            }
        }
        choose(&mut rows, &sources, &logits, model.config().vocab_size, options)?;
        let mut left = Vec::with_capacity(rows.len());
        let mut kept = Vec::with_capacity(rows.len());
        for (row, source) in rows.into_iter().zip(sources) {
            match ending.reached(row.prompt, &row.tokens, row.budget)? {
                Some((text, finish)) => done.push(row.finish(text, finish, options)),
                None => {
                    left.push(row);
                    kept.push(source);
                }
            }
        }
        rows = left;
        cache.keep(&kept);
        report(done.len())?;
    }
}

/// Tokens that may be added to a prompt.
fn budget(prompt: &Prompt, options: &GenerateOptions, context: usize) -> usize {
    options.max_new_tokens.min(context - prompt.ids.len())
}

/// The next prompts for which there is a seat. In the padded form all rows of a batch begin together.
fn admit<'a>(waiting: &mut VecDeque<Start<'a>>, rows: &[Row<'a>], seats: usize, layout: Layout) -> Vec<Start<'a>> {
    let mut starts: Vec<Start> = Vec::new();
    if layout == Layout::Padded && !rows.is_empty() {
        return starts;
    }
    let (mut taken, mut tokens) = (rows.len(), 0);
    while let Some(next) = waiting.pop_front_if(|next| {
        let fits = taken + next.samples.len() <= seats && tokens + next.prompt.ids.len() <= PREFILL;
        fits || taken == 0
    }) {
        taken += next.samples.len();
        tokens += next.prompt.ids.len();
        starts.push(next);
    }
    starts
}

/// Adds a token to each row, chosen by the logits of its source.
fn choose(
    rows: &mut [Row<'_>],
    sources: &[usize],
    logits: &[f32],
    vocab: usize,
    options: &GenerateOptions,
) -> Result<()> {
    let one = |(row, &source): (&mut Row<'_>, &usize)| row.choose(&logits[source * vocab..][..vocab], options);
    if rows.len() * vocab < ALONE {
        rows.iter_mut().zip(sources).try_for_each(one)
    } else {
        rows.par_iter_mut().zip(sources).try_for_each(one)
    }
}

impl<'a> Row<'a> {
    fn new(prompt: &'a Prompt, number: usize, sample: usize, budget: usize) -> Self {
        Row { prompt, number, sample, budget, tokens: Vec::new(), logprobs: Vec::new() }
    }

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
        let token = options.sampling.choose(logits, &so_far, key)?;
        self.tokens.push(token);
        if options.logprobs {
            self.logprobs.push(log_probability(logits, token));
        }
        Ok(())
    }

    fn finish(self, text: String, finish: Finish, options: &GenerateOptions) -> Completion {
        let Row { number, sample, budget, tokens, logprobs, .. } = self;
        Completion {
            prompt: number,
            sample,
            text,
            tokens,
            finish,
            context_full: finish == Finish::Length && budget < options.max_new_tokens,
            logprobs: options.logprobs.then_some(logprobs),
            score: None,
        }
    }
}
