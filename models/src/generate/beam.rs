//! Beam search as transformers' `GenerationMixin._beam_search` (5.23) does it, for each prompt by itself: what a
//! prompt comes to does not depend on the others of its batch.

use rayon::prelude::*;

use super::ending::Ending;
use super::{Beams, Completion, EarlyStopping, Finish, GenerateOptions, Prompt};
use crate::error::{ModelError, Result};
use crate::layers::Layout;
use crate::model::{CausalLm, values};
use crate::sampling::{log_probabilities, penalize};
use crate::tokenizer::Tokenizer;

/// The score of what is out of the race.
const OUT: f64 = -1e9;

/// A beam: tokens behind the prompt, and their log-probabilities.
#[derive(Debug, Clone)]
struct Beam {
    tokens: Vec<u32>,
    logprobs: Vec<f64>,
    score: f64,
    /// The row of the cache that holds all but the last token.
    row: usize,
}

/// A beam that ended, with its final score.
#[derive(Debug, Clone)]
struct Ended {
    beam: Beam,
    text: String,
    finish: Finish,
    score: f64,
}

/// The search for one prompt.
struct Search<'a> {
    prompt: &'a Prompt,
    number: usize,
    budget: usize,
    running: Vec<Beam>,
    /// The best that ended, best first, at most as many as there are beams.
    ended: Vec<Ended>,
    over: bool,
}

pub(super) fn search(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    options: &GenerateOptions,
    beams: Beams,
    report: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Completion>> {
    let context = model.config().context;
    let ending = Ending::new(tokenizer, options);
    let layout = options.layout.unwrap_or_else(|| Layout::of(&model.device()));
    let mut done = Vec::with_capacity(prompts.len() * options.samples);
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    if layout == Layout::Padded {
        order.sort_by_key(|&number| prompts[number].ids.len());
    }
    for numbers in order.chunks((options.batch_size / beams.beams).max(1)) {
        let mut searches: Vec<Search> = numbers
            .iter()
            .map(|&number| {
                let budget = options.max_new_tokens.min(context - prompts[number].ids.len());
                Search::new(&prompts[number], number, budget)
            })
            .collect();
        run(model, &mut searches, &ending, beams, layout, &mut |ended| report(done.len() + ended * options.samples))?;
        done.extend(searches.into_iter().flat_map(|search| search.finish(options)));
        report(done.len())?;
    }
    Ok(done)
}

fn run(
    model: &CausalLm,
    searches: &mut [Search<'_>],
    ending: &Ending<'_>,
    beams: Beams,
    layout: Layout,
    report: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let vocab = model.config().vocab_size;
    let longest = searches.iter().map(|search| search.prompt.ids.len() + search.budget).max().unwrap_or(0);
    let mut cache = model.cache_in(layout, longest);
    loop {
        // All beams begin as the prompt, which is read once.
        let mut rows = 0..;
        for search in searches.iter_mut().filter(|search| !search.over) {
            if search.running.is_empty() {
                search.running = Beam::start(beams.beams);
                let row = rows.next().unwrap_or_default();
                search.running.iter_mut().for_each(|beam| beam.row = row);
            } else {
                search.running.iter_mut().zip(&mut rows).for_each(|(beam, row)| beam.row = row);
            }
        }
        let input: Vec<&[u32]> = searches.iter().filter(|search| !search.over).flat_map(Search::input).collect();
        if input.is_empty() {
            return Ok(());
        }
        let logits = values(model.decode(&input, &mut cache)?);
        searches
            .par_iter_mut()
            .filter(|search| !search.over)
            .try_for_each(|search| search.step(&logits, vocab, ending, beams))?;
        let running = searches.iter().filter(|search| !search.over).flat_map(|search| &search.running);
        cache.keep(&running.map(|beam| beam.row).collect::<Vec<usize>>());
        report(searches.iter().filter(|search| search.over).count())?;
    }
}

impl Beam {
    /// As many as asked for; all but the first out of the race, or they would all find the same.
    fn start(count: usize) -> Vec<Beam> {
        let score = |at| if at == 0 { 0.0 } else { OUT };
        let beam = |at| Beam { tokens: Vec::new(), logprobs: Vec::new(), score: score(at), row: 0 };
        (0..count).map(beam).collect()
    }
}

impl<'a> Search<'a> {
    fn new(prompt: &'a Prompt, number: usize, budget: usize) -> Self {
        Search { prompt, number, budget, running: Vec::new(), ended: Vec::new(), over: budget == 0 }
    }

    /// What the model has not read yet.
    fn input(&self) -> Vec<&[u32]> {
        let fresh = |beam: &Beam| beam.tokens.is_empty();
        match self.running.iter().all(fresh) {
            true => vec![&self.prompt.ids],
            false => self.running.iter().map(|beam| &beam.tokens[beam.tokens.len() - 1..]).collect(),
        }
    }

    /// Adds a token to each beam.
    fn step(&mut self, logits: &[f32], vocab: usize, ending: &Ending<'_>, beams: Beams) -> Result<()> {
        let candidates = self.candidates(logits, vocab, ending.options, beams.beams)?;
        let length = candidates.first().map_or(0, |beam| beam.tokens.len());
        let mut ends = Vec::with_capacity(candidates.len());
        for beam in &candidates {
            ends.push(ending.reached(self.prompt, &beam.tokens, self.budget)?);
        }
        let all_end = ends.iter().all(Option::is_some);
        let mut running: Vec<(f64, usize)> = Vec::with_capacity(candidates.len());
        for (at, (beam, end)) in candidates.iter().zip(&ends).enumerate() {
            running.push((beam.score + if end.is_some() { OUT } else { 0.0 }, at));
        }
        running.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        running.truncate(beams.beams);
        self.running = running.iter().map(|&(score, at)| Beam { score, ..candidates[at].clone() }).collect();
        // Only those among the best `beams` of all count as results.
        for (beam, end) in candidates.into_iter().zip(ends).take(beams.beams) {
            let Some((text, finish)) = end else { continue };
            let score = beam.score / libm::pow(length as f64, beams.length_penalty);
            self.ended.push(Ended { beam, text, finish, score });
        }
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(beams.beams);
        let full = self.ended.len() == beams.beams;
        let possible = match beams.early_stopping {
            EarlyStopping::Never if beams.length_penalty > 0.0 => self.budget,
            _ => length,
        };
        let best = self.running.first().map_or(OUT, |beam| beam.score);
        let best = best / libm::pow(possible as f64, beams.length_penalty);
        let worst = if full { self.ended.last().map_or(OUT, |ended| ended.score) } else { OUT };
        self.over = all_end || best <= worst || full && beams.early_stopping == EarlyStopping::AtOnce;
        Ok(())
    }

    /// The best continuations of all beams by one token, best first: so many that `beams` are left if each beam's
    /// best tokens all end it.
    fn candidates(&self, logits: &[f32], vocab: usize, options: &GenerateOptions, beams: usize) -> Result<Vec<Beam>> {
        let mut eos = options.eos.clone();
        eos.sort_unstable();
        eos.dedup();
        let mut all: Vec<(f64, usize, u32)> = Vec::with_capacity(self.running.len() * vocab);
        let mut raw = Vec::with_capacity(self.running.len());
        for (at, beam) in self.running.iter().enumerate() {
            let logits = &logits[beam.row * vocab..][..vocab];
            if logits.iter().any(|logit| logit.is_nan()) {
                return Err(ModelError::NotANumber);
            }
            if logits.iter().all(|&logit| logit == f32::NEG_INFINITY) {
                return Err(ModelError::NoToken);
            }
            let logprobs = log_probabilities(logits);
            let mut scores = logprobs.clone();
            if let Some(penalty) = options.sampling.repetition_penalty {
                penalize(&mut scores, &[&self.prompt.ids[..], &beam.tokens].concat(), penalty);
            }
            all.extend((0..).zip(scores).map(|(id, score)| (beam.score + score, at, id)));
            raw.push(logprobs);
        }
        let order =
            |a: &(f64, usize, u32), b: &(f64, usize, u32)| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
        let count = (eos.len() + 1).max(2) * beams;
        if count < all.len() {
            all.select_nth_unstable_by(count - 1, order);
            all.truncate(count);
        }
        all.sort_unstable_by(order);
        let beam = |(score, at, id): (f64, usize, u32)| {
            let mut beam = self.running[at].clone();
            beam.tokens.push(id);
            beam.logprobs.push(raw[at][id as usize]);
            Beam { score, ..beam }
        };
        Ok(all.into_iter().map(beam).collect())
    }

    fn finish(mut self, options: &GenerateOptions) -> Vec<Completion> {
        if self.budget == 0 {
            let nothing = Beam { tokens: Vec::new(), logprobs: Vec::new(), score: 0.0, row: 0 };
            let ended = Ended { beam: nothing, text: String::new(), finish: Finish::Length, score: 0.0 };
            self.ended = vec![ended; options.samples];
        }
        let short = self.budget < options.max_new_tokens;
        let completion = |(sample, ended): (usize, Ended)| Completion {
            prompt: self.number,
            sample,
            text: ended.text,
            tokens: ended.beam.tokens,
            finish: ended.finish,
            context_full: short && ended.finish == Finish::Length,
            logprobs: options.logprobs.then_some(ended.beam.logprobs),
            score: Some(ended.score),
        };
        self.ended.into_iter().take(options.samples).enumerate().map(completion).collect()
    }
}
