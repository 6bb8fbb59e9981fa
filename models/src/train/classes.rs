//! Training of sequence classifiers: cross-entropy of each text's class, one loss per text.

use burn::tensor::Tensor;

use super::loss::cross_entropy;
use super::{LossPass, Sample, Trainable};
use crate::error::ModelError;
use crate::layers::{Batch, ops};
use crate::model::SequenceClassifier;

/// A text with its class.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Token types, one per token (BERT's first and second text); empty if all are 0.
    pub types: Vec<u32>,
    /// Number of the class.
    pub label: u32,
    /// Its loss counts so many times: 1, unless classes are weighed.
    pub weight: f32,
}

impl Sample for Labelled {
    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn targets(&self) -> usize {
        1
    }
}

impl Trainable for SequenceClassifier {
    type Sample = Labelled;

    /// Texts never share a row, and nothing is computed again.
    fn loss(&self, rows: &[&Labelled], pass: &LossPass) -> Result<Tensor<1>, ModelError> {
        let labels: Vec<u32> = rows.iter().map(|row| row.label).collect();
        let classes = self.classes();
        if let Some(&label) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(ModelError::Class { label, classes });
        }
        let logits = self.forward(&self.batch(rows, pass)?)?;
        if rows.iter().all(|row| row.weight == 1.0) {
            return Ok(cross_entropy(logits, &labels, pass.denominator));
        }
        // Rows of one weight together: few classes have few weights.
        let mut weights: Vec<f32> = rows.iter().map(|row| row.weight).collect();
        weights.sort_by(f32::total_cmp);
        weights.dedup();
        let loss = weights.into_iter().map(|weight| {
            let same: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].weight == weight).collect();
            let places = same.iter().map(|&at| at as i32).collect();
            let part = logits.clone().select(0, ops::ints(places, [same.len()], &logits.device()));
            let labels: Vec<u32> = same.iter().map(|&at| labels[at]).collect();
            cross_entropy(part, &labels, pass.denominator).mul_scalar(weight)
        });
        loss.reduce(|sum, loss| sum + loss).ok_or(ModelError::EmptyBatch)
    }
}

impl SequenceClassifier {
    fn batch(&self, rows: &[&Labelled], pass: &LossPass) -> Result<Batch, ModelError> {
        if rows.iter().any(|row| row.ids.is_empty()) {
            return Err(ModelError::EmptyBatch);
        }
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
        let mut batch = Batch::right_padded(&ids, self.config().pad.unwrap_or(0))?.with_precision(pass.precision);
        if rows.iter().any(|row| !row.types.is_empty()) {
            let [_, width] = batch.dims();
            let typed = |row: &&Labelled| {
                let mut types = row.types.clone();
                // Of the padding, or of a row that gives none.
                types.resize(width, 0);
                types
            };
            if rows.iter().any(|row| !row.types.is_empty() && row.types.len() != row.ids.len()) {
                return Err(ModelError::EmptyBatch);
            }
            batch = batch.with_types(rows.iter().flat_map(typed).collect())?;
        }
        Ok(match pass.dropout {
            Some(key) => batch.with_dropout(key),
            None => batch,
        })
    }
}
