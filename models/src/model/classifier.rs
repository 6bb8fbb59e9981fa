//! What a sequence classifier does beside what all models do.

use burn::tensor::{Device, Tensor};

use super::{Classes, Model, SequenceClassifier, Spelling, config_of, values};
use crate::config::Family;
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layers::{Batch, ops};
use crate::weights::{Load, Random, Weights, is_class_head};

impl SequenceClassifier {
    /// Makes a classifier of a language model's files: its body, and a new head for these classes, drawn at random as
    /// transformers does it. The unembedding is left behind; classes that the model had before are, too.
    pub fn with_new_head(files: &ModelFiles, labels: Vec<String>, seed: u64, device: &Device) -> Result<Self> {
        let mut config = config_of(files)?;
        config.labels = labels;
        let spelling = Spelling::of(config.family);
        let mut weights = Weights::open(files)?;
        let head = Some(Random { seed });
        let source = &mut Load { weights: &mut weights, prefix: spelling.prefix, head };
        let model = Model::<Classes>::build(config, source, device)?;
        let old = |name: &str| is_class_head(name) || spelling.heads.iter().any(|head| name.starts_with(head));
        weights.finish(&model.config, |name| spelling.is_buffer(name) || old(name))?;
        Ok(model)
    }

    /// The modules that [`SequenceClassifier::with_new_head`] draws for these files, by the last part of their paths: an
    /// adapter has to hold them whole ([`crate::lora::LoraConfig::modules_to_save`]).
    pub fn new_modules(files: &ModelFiles) -> Result<Vec<String>> {
        let names: &[&str] = match config_of(files)?.family {
            Family::Gpt2 | Family::Opt | Family::Llama => &["score"],
            Family::Bert => {
                let weights = Weights::open(files)?;
                let pooler = ["bert.pooler.dense.weight", "pooler.dense.weight"];
                if pooler.iter().any(|name| weights.has(name)) { &["classifier"] } else { &["classifier", "pooler"] }
            }
        };
        Ok(names.iter().map(|&name| name.to_owned()).collect())
    }

    /// Logits `[batch, labels]`. Causal models are read at each row's last id that isn't `pad_token_id`, whatever the
    /// mask says (`GenericForSequenceClassification` in transformers' `modeling_layers.py`); BERT at its first.
    ///
    /// A row of padding alone gives the logits of its first token. A causal model without `pad_token_id` is read at each
    /// row's last real token, where transformers refuses a batch.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor<2>> {
        let [rows, seq] = batch.dims();
        let places = match self.config.family {
            Family::Bert => vec![0; rows],
            Family::Gpt2 | Family::Opt | Family::Llama => batch.last_places(self.config.pad),
        };
        let places: Vec<usize> = places.into_iter().enumerate().map(|(row, place)| row * seq + place).collect();
        let padding = places.iter().any(|&place| !batch.mask()[place]);
        let pass = self.pass(batch, padding)?;
        let places = ops::ints(places.into_iter().map(|place| place as i32).collect(), [rows], &self.device());
        let read = self.network.run(&pass, None, &mut |_| {}).select(0, places);
        Ok(self.network.unembed(read, &pass))
    }

    /// Logits of each row by itself, in order. Rows go through the model `batch` at a time, with others of their length,
    /// so that the result depends neither on `batch` nor on the other rows.
    ///
    /// # Errors
    /// As for [`SequenceClassifier::forward`]; a row without tokens is an error, no rows are none.
    pub fn classify<R: AsRef<[u32]>>(&self, rows: &[R], batch: usize) -> Result<Vec<Vec<f32>>> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&row| rows[row].as_ref().len());
        let mut logits = vec![Vec::new(); rows.len()];
        for same in order.chunk_by(|&a, &b| rows[a].as_ref().len() == rows[b].as_ref().len()) {
            for part in same.chunks(batch.max(1)) {
                let input: Vec<&[u32]> = part.iter().map(|&row| rows[row].as_ref()).collect();
                let found = values(self.forward(&Batch::right_padded(&input, 0)?)?);
                for (&row, found) in part.iter().zip(found.chunks(self.config.labels.len())) {
                    logits[row] = found.to_vec();
                }
            }
        }
        match logits.iter().flatten().any(|logit| logit.is_nan()) {
            true => Err(ModelError::NotANumber),
            false => Ok(logits),
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.config.labels.len()
    }
}
