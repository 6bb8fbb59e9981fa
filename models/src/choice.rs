//! Forced choice: how probable each of a few given continuations of a prompt is (`P(yes)`, `P(no)`), as judges and
//! multiple-choice tests ask. A prompt is read once, whatever the number of options; the tokens of longer options are
//! read behind copies of what was kept of it.

use crate::error::{ModelError, Result};
use crate::generate::{Prompt, check_prompts};
use crate::layers::Layout;
use crate::model::{CausalLm, values};
use crate::sampling::log_probability;
use crate::tokenizer::Tokenizer;

/// A prompt with its options, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What comes before.
    pub prompt: Vec<u32>,
    /// The continuations to compare, of at least one token each.
    pub options: Vec<Vec<u32>>,
}

/// How probable the options of a prompt are.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceScores {
    /// For each option the log-probability in nats of all its tokens behind the prompt: the sum of those of its tokens.
    pub logprobs: Vec<f64>,
    /// For each option its probability among the options: [`ChoiceScores::logprobs`] normalised over them.
    pub probabilities: Vec<f64>,
}

impl Choice {
    /// Of texts. Prompt and option are encoded together, since a tokenizer may join the end of the one with the
    /// beginning of the other; what all encodings begin with is the prompt, the rest of each is the option.
    pub fn text<S: AsRef<str>>(prompt: &str, options: &[S], tokenizer: &Tokenizer) -> Result<Self> {
        let mut prompt_ids = Prompt::text(prompt, tokenizer)?.ids;
        let begins = if tokenizer.encode(prompt, true)?.is_empty() { prompt_ids.len() } else { 0 };
        let joined = |option: &S| {
            let ids = tokenizer.encode(&format!("{prompt}{}", option.as_ref()), true)?;
            Ok([&prompt_ids[..begins], &ids].concat())
        };
        let joined: Vec<Vec<u32>> = options.iter().map(joined).collect::<Result<_>>()?;
        for ids in &joined {
            let same = prompt_ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
            prompt_ids.truncate(same);
        }
        let options = joined.into_iter().map(|ids| ids[prompt_ids.len()..].to_vec()).collect();
        Ok(Choice { prompt: prompt_ids, options })
    }

    fn check(&self, number: usize, context: usize, vocab: usize) -> Result<()> {
        let invalid = |what: String| Err(ModelError::Generation(format!("choice {number}: {what}")));
        if self.options.is_empty() {
            return invalid("there is no option to choose".into());
        }
        if let Some(empty) = self.options.iter().position(Vec::is_empty) {
            return invalid(format!("option {empty} has no token of its own"));
        }
        for (at, option) in self.options.iter().enumerate() {
            if let Some(same) = self.options[..at].iter().position(|other| other == option) {
                return invalid(format!("options {same} and {at} are the same tokens"));
            }
            // The last token of an option is predicted and never read.
            let length = self.prompt.len() + option.len() - 1;
            if length > context {
                return invalid(format!(
                    "prompt and option {at} have {} tokens, of which the model would read {length}, and its context \
                     is {context}: shorten the prompt",
                    length + 1
                ));
            }
            if let Some(&id) = option.iter().find(|&&id| id as usize >= vocab) {
                return Err(ModelError::TokenId { id, vocab });
            }
        }
        Ok(())
    }
}

/// Scores the options of each prompt, by prompt. On the CPU they are the same for any `batch_size` and order.
/// `progress` hears how many prompts of all are done, and stops the work with [`ModelError::Cancelled`] by saying
/// `false`.
///
/// Options that begin alike are scored each as a whole: where one is the beginning of another, its probability holds
/// that of the other.
pub fn score_choices(
    model: &CausalLm,
    choices: &[Choice],
    batch_size: usize,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<ChoiceScores>> {
    let prompts: Vec<Prompt> = choices.iter().map(|choice| Prompt::new(choice.prompt.clone())).collect();
    check_prompts(model, &prompts)?;
    let (context, vocab) = (model.config().context, model.config().vocab_size);
    for (number, choice) in choices.iter().enumerate() {
        choice.check(number, context, vocab)?;
    }
    let mut order: Vec<usize> = (0..choices.len()).collect();
    if Layout::of(&model.device()) == Layout::Padded {
        order.sort_by_key(|&number| choices[number].prompt.len());
    }
    let mut scores = vec![ChoiceScores { logprobs: Vec::new(), probabilities: Vec::new() }; choices.len()];
    let mut done = 0;
    for numbers in order.chunks(batch_size.max(1)) {
        let batch: Vec<&Choice> = numbers.iter().map(|&number| &choices[number]).collect();
        for (&number, logprobs) in numbers.iter().zip(score(model, &batch, batch_size.max(1))?) {
            let probabilities = normalised(&logprobs);
            scores[number] = ChoiceScores { logprobs, probabilities };
        }
        done += numbers.len();
        if !progress(done, choices.len()) {
            return Err(ModelError::Cancelled);
        }
    }
    Ok(scores)
}

fn score(model: &CausalLm, batch: &[&Choice], rows: usize) -> Result<Vec<Vec<f64>>> {
    let vocab = model.config().vocab_size;
    let read = |choice: &&Choice| choice.prompt.len() + choice.options.iter().map(Vec::len).max().unwrap_or(1) - 1;
    let capacity = batch.iter().map(read).max().unwrap_or(0);
    let mut cache = model.cache(capacity);
    let prompts: Vec<&[u32]> = batch.iter().map(|choice| &choice.prompt[..]).collect();
    let logits = values(model.decode(&prompts, &mut cache)?);
    if logits.iter().any(|logit| logit.is_nan()) {
        return Err(ModelError::NotANumber);
    }
    let first = |(choice, logits): (&&Choice, &[f32])| -> Vec<f64> {
        choice.options.iter().map(|option| log_probability(logits, option[0])).collect()
    };
    let mut scores: Vec<Vec<f64>> = batch.iter().zip(logits.chunks(vocab)).map(first).collect();
    // Options of several tokens continue copies of their prompt's row, some at a time.
    let longer: Vec<(usize, usize)> = (0..batch.len())
        .flat_map(|row| (0..batch[row].options.len()).map(move |option| (row, option)))
        .filter(|&(row, option)| batch[row].options[option].len() > 1)
        .collect();
    for some in longer.chunks(rows) {
        let mut copies = cache.copy(&some.iter().map(|&(row, _)| row).collect::<Vec<_>>());
        let option = |&(row, option): &(usize, usize)| &batch[row].options[option][..];
        let input: Vec<&[u32]> =
            some.iter().map(|place| option(place).split_last().map_or(&[][..], |(_, rest)| rest)).collect();
        let logits = values(model.decode_all(&input, &mut copies)?);
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(ModelError::NotANumber);
        }
        let mut logits = logits.chunks(vocab);
        for place in some {
            let rest = option(place)[1..].iter().zip(&mut logits);
            scores[place.0][place.1] += rest.map(|(&id, logits)| log_probability(logits, id)).sum::<f64>();
        }
    }
    Ok(scores)
}

/// `softmax` of log-probabilities; equal shares if none is possible at all.
fn normalised(logprobs: &[f64]) -> Vec<f64> {
    let most = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> =
        logprobs.iter().map(|&logprob| if logprob == most { 1.0 } else { libm::exp(logprob - most) }).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}
