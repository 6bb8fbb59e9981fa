//! Classifiers of texts: what finetuning and predicting share.

pub(crate) mod finetune;
pub(crate) mod predict;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use palinode_engine::{context::Context, stage::StageError};
use palinode_models::{Family, ModelConfig, ModelError, ModelFiles, SequenceClassifier, Tokenizer, peft};

use crate::{
    device,
    records::{Example, Prediction},
    runtime::{base_files, failed},
};

/// Texts as tokens, cut to what a model reads.
struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    longest: usize,
    /// What a text must end with when it is cut: BERT's `[SEP]`.
    end: Option<u32>,
    /// Texts that were cut.
    cut: usize,
}

impl<'t> Encoder<'t> {
    fn new(tokenizer: &'t Tokenizer, config: &ModelConfig, max_length: Option<usize>) -> Self {
        let longest = max_length.map_or(config.context, |most| most.min(config.context));
        let end = (config.family == Family::Bert).then_some(tokenizer.special().sep).flatten();
        Encoder { tokenizer, longest, end, cut: 0 }
    }

    fn encode(&mut self, example: &Example) -> Result<Vec<u32>, StageError> {
        let mut ids = self.tokenizer.encode(&example.text, true).map_err(failed)?;
        if ids.is_empty() {
            return Err(StageError::failed(format!("the text of `{}` has no token", example.id)));
        }
        if ids.len() > self.longest {
            self.cut += 1;
            let ends = self.end.filter(|end| ids.last() == Some(end));
            ids.truncate(self.longest - ends.map_or(0, |_| 1));
            ids.extend(ends);
        }
        Ok(ids)
    }

    /// Says how many of `count` texts were cut; `of` is put before the name of what is told.
    fn tell(&self, ctx: &Context<'_>, of: &str, count: usize) {
        ctx.summary(&format!("{of}texts_cut"), self.cut);
        if self.cut > 0 {
            ctx.warn(format!("{} of {count} texts are longer than {} tokens and were cut", self.cut, self.longest));
        }
    }
}

/// The number of each example's class; an error if one has none.
fn classes(labels: &[String], examples: &[Example], of: &str) -> Result<Vec<u32>, StageError> {
    let numbers: BTreeMap<&str, u32> = labels.iter().zip(0..).map(|(label, number)| (label.as_str(), number)).collect();
    let number = |example: &Example| numbers.get(example.label.as_str()).copied();
    let unknown: Vec<&Example> = examples.iter().filter(|example| number(example).is_none()).collect();
    match unknown.first() {
        None => Ok(examples.iter().filter_map(number).collect()),
        Some(first) => Err(StageError::failed(format!(
            "{} of {} examples of the {of} part have a label that is no class (`{}` of `{}` is the first); the classes \
             are {}",
            unknown.len(),
            examples.len(),
            first.label,
            first.id,
            labels.join(", ")
        ))),
    }
}

/// The classifier at the port `model`, whole or adapted, and its tokenizer.
pub(crate) fn load(ctx: &Context<'_>) -> Result<(SequenceClassifier, Tokenizer), StageError> {
    let files = crate::runtime::model_files(ctx.input("model")?);
    let base = base_files(&files);
    let tokenizer = Tokenizer::load(&base).map_err(failed)?;
    let device = device::open(ctx)?;
    let model = match files.get(peft::CONFIG) {
        None => SequenceClassifier::load(&files, &device).map_err(failed)?,
        Some(_) => {
            // Where the base has no head, or one of other classes, the adapter brings its own.
            let (mut model, lacking) = match SequenceClassifier::load(&base, &device) {
                Ok(model) => (model, None),
                Err(error) => {
                    let labels = config(&base)?.labels;
                    let model = SequenceClassifier::with_new_head(&base, labels, 0, &device).map_err(failed)?;
                    (model, Some(error))
                }
            };
            let adapter = peft::load_adapter(&mut model, &files).map_err(failed)?;
            match lacking {
                Some(error) if adapter.modules_to_save.is_empty() => return Err(failed(error)),
                _ => model,
            }
        }
    };
    tokenizer.check(model.config().vocab_size).map_err(failed)?;
    Ok((model, tokenizer))
}

fn config(files: &ModelFiles) -> Result<ModelConfig, StageError> {
    const NAME: &str = "config.json";
    let text = files.text(NAME).map_err(failed)?;
    let text = text.ok_or_else(|| failed(ModelError::MissingFile { name: NAME.to_owned() }))?;
    ModelConfig::parse(&text).map_err(|error| failed(ModelError::from(error)))
}

/// What the model says of each text. Neither `batch` nor the other texts change it.
fn predict(
    ctx: &Context<'_>,
    model: &SequenceClassifier,
    examples: &[Example],
    ids: &[Vec<u32>],
    batch: usize,
) -> Result<Vec<Prediction>, StageError> {
    let labels = &model.config().labels;
    // Texts of one length go through the model together: neighbours should be.
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&at| ids[at].len());
    let mut logits: Vec<Vec<f32>> = vec![Vec::new(); ids.len()];
    for (done, part) in order.chunks(batch.max(1) * 16).enumerate() {
        ctx.progress(done * batch.max(1) * 16, ids.len(), "text")?;
        let rows: Vec<&[u32]> = part.iter().map(|&at| ids[at].as_slice()).collect();
        for (&at, found) in part.iter().zip(model.classify(&rows, batch).map_err(failed)?) {
            logits[at] = found;
        }
    }
    let one = |(example, logits): (&Example, Vec<f32>)| {
        let probabilities = softmax(&logits);
        let mut best = 0;
        for (at, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = at;
            }
        }
        Prediction {
            id: example.id.clone(),
            label: example.label.clone(),
            group: example.group.clone(),
            split: example.split,
            predicted: Some(labels[best].clone()),
            probabilities: labels.iter().cloned().zip(probabilities).collect(),
            answer: None,
        }
    };
    Ok(examples.iter().zip(logits).map(one).collect())
}

/// In f64, with functions that are the same on every machine.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&logit| libm::exp(f64::from(logit) - f64::from(most))).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Counts of what was predicted, for people who look at `status`.
pub(crate) fn tell_accuracy(ctx: &Context<'_>, of: &str, predictions: &[Prediction]) {
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for prediction in predictions {
        let (correct, count) = groups.entry(&prediction.group).or_default();
        *correct += usize::from(prediction.correct());
        *count += 1;
    }
    let correct: usize = groups.values().map(|(correct, _)| correct).sum();
    ctx.summary(&format!("{of}accuracy"), (!predictions.is_empty()).then(|| correct as f64 / predictions.len() as f64));
    let groups: BTreeMap<&str, f64> =
        groups.into_iter().map(|(group, (correct, count))| (group, correct as f64 / count as f64)).collect();
    ctx.summary(&format!("{of}accuracy_by_group"), serde_json::json!(groups));
}
