//! What goes into a forward pass: token ids with padding, and what all layers of one pass share.

use std::sync::{OnceLock, atomic::AtomicU64};

use burn::tensor::{Device, Int, Tensor};

use super::{DropoutKey, Precision, Rope, cache::Span, ops};
use crate::config::{Family, ModelConfig};
use crate::error::{ModelError, Result};

/// Token ids `[rows, seq]` with a mask that says which are real. Holds no tensors: one batch serves any device.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    ids: Vec<u32>,
    mask: Vec<bool>,
    types: Option<Vec<u32>>,
    rows: usize,
    seq: usize,
    dropout: Option<DropoutKey>,
    precision: Precision,
    segments: Option<Vec<u32>>,
}

impl Batch {
    /// From ids and mask, row after row.
    pub fn new(ids: Vec<u32>, mask: Vec<bool>, [rows, seq]: [usize; 2]) -> Result<Self> {
        if rows == 0 || seq == 0 || ids.len() != rows * seq || mask.len() != rows * seq {
            return Err(ModelError::EmptyBatch);
        }
        let precision = Precision::F32;
        Ok(Batch { ids, mask, types: None, rows, seq, dropout: None, precision, segments: None })
    }

    /// Rows of tokens, padded on the right to the longest (which costs attention no mask: no real token looks
    /// to its right).
    pub fn right_padded<R: AsRef<[u32]>>(rows: &[R], pad: u32) -> Result<Self> {
        let seq = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * seq);
        let mut mask = Vec::with_capacity(rows.len() * seq);
        for row in rows {
            let row = row.as_ref();
            ids.extend(row.iter().copied().chain(std::iter::repeat_n(pad, seq - row.len())));
            mask.extend((0..seq).map(|at| at < row.len()));
        }
        Batch::new(ids, mask, [rows.len(), seq])
    }

    /// One row without padding.
    pub fn single(ids: &[u32]) -> Result<Self> {
        Batch::right_padded(&[ids], 0)
    }

    /// The same batch, with dropout on: that of adapters, and the model's own at the key's rates.
    pub fn with_dropout(self, key: DropoutKey) -> Self {
        Batch { dropout: Some(key), ..self }
    }

    /// The same batch with token types (BERT's segments), row after row; without, all are 0.
    pub fn with_types(self, types: Vec<u32>) -> Result<Self> {
        match types.len() == self.ids.len() {
            true => Ok(Batch { types: Some(types), ..self }),
            false => Err(ModelError::EmptyBatch),
        }
    }

    /// The same batch, with matrix products in this precision.
    pub fn with_precision(self, precision: Precision) -> Self {
        Batch { precision, ..self }
    }

    /// The same batch, in which a row holds several texts: `segments` gives each token the number of its text in its
    /// row, ascending. A token sees only tokens of its own text, whose positions begin at 0.
    ///
    /// # Errors
    /// If it isn't one number per token.
    pub fn with_segments(self, segments: Vec<u32>) -> Result<Self> {
        match segments.len() == self.ids.len() {
            true => Ok(Batch { segments: Some(segments), ..self }),
            false => Err(ModelError::EmptyBatch),
        }
    }

    /// `[rows, seq]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.seq]
    }

    /// All ids, row after row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Which ids are real.
    pub fn mask(&self) -> &[bool] {
        &self.mask
    }

    /// The number of a token's text in its row.
    fn segment(&self, at: usize) -> u32 {
        self.segments.as_ref().map_or(0, |segments| segments[at])
    }

    /// Whether some real token stands to the right of padding.
    fn padded_left(&self) -> bool {
        self.mask.chunks(self.seq).any(|row| row.windows(2).any(|pair| !pair[0] && pair[1]))
    }

    /// Whether rows differ in where their texts begin.
    fn uneven(&self) -> bool {
        self.padded_left() || self.segments.is_some()
    }

    /// Whether any id is padding.
    fn padded(&self) -> bool {
        self.mask.contains(&false)
    }

    fn padding_ids(&self, pad: Option<u32>, device: &Device) -> Option<Tensor<2>> {
        let pad = pad.filter(|pad| self.ids.contains(pad))?;
        let values = self.ids.iter().map(|&id| f32::from(u8::from(id == pad))).collect();
        Some(ops::from_vec(values, [self.ids.len(), 1], device))
    }

    /// By row, the place of the last id that isn't `pad`, whatever the mask says: where transformers reads a causal
    /// model's class (0 if there is none). Without a pad id, the last real one.
    pub(crate) fn last_places(&self, pad: Option<u32>) -> Vec<usize> {
        let rows = self.ids.chunks(self.seq).zip(self.mask.chunks(self.seq));
        let last = |(ids, mask): (&[u32], &[bool])| match pad {
            Some(pad) => ids.iter().rposition(|&id| id != pad),
            None => mask.iter().rposition(|&real| real),
        };
        rows.map(|row| last(row).unwrap_or(0)).collect()
    }

    /// Refuses ids and lengths that the model has no place for.
    pub(crate) fn check(&self, start: usize, context: usize, vocab: usize) -> Result<()> {
        if start + self.seq > context {
            return Err(ModelError::ContextLength { length: start + self.seq, context });
        }
        match self.ids.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => Err(ModelError::TokenId { id, vocab }),
            None => Ok(()),
        }
    }
}

/// What the layers of one forward pass share: made once, used by each.
#[derive(Debug)]
pub struct Pass {
    /// `[rows, seq]`.
    pub dims: [usize; 2],
    /// How many tokens the cache held before.
    pub start: usize,
    /// Ids `[rows * seq]`.
    pub ids: Tensor<1, Int>,
    /// 1 where an id is the config's padding, else 0, `[rows * seq, 1]`; none if no id is, or if the family's embedding
    /// learns from padding too.
    pub padding_ids: Option<Tensor<2>>,
    /// Token types `[rows * seq]`; none if all are 0.
    pub types: Option<Tensor<1, Int>>,
    /// Positions `[rows * seq]`, given only where rows differ (padding on the left); else `start..start + seq`.
    pub positions: Option<Tensor<1, Int>>,
    /// Added to attention scores, broadcast over `[rows, heads, seq, keys]`; none for a single query.
    pub bias: Option<Tensor<4>>,
    /// Keys the dropout masks of training.
    pub dropout: Option<DropoutKey>,
    /// Where in the model the pass is, and how many masks were drawn there.
    pub(crate) place: AtomicU64,
    /// What matrix products are computed in.
    pub precision: Precision,
    /// Rotations of the positions, made by the first layer that needs them.
    pub rope: OnceLock<Rope>,
    /// Where the tokens of each row lie, given only where rows of different lengths lie one behind the other.
    pub(crate) spans: Vec<Span>,
}

impl Pass {
    /// Of no tokens: what the unembedding of given rows needs.
    pub(crate) fn bare(device: &Device) -> Self {
        let ids = ops::ints(Vec::new(), [0], device);
        Pass {
            dims: [0, 0],
            start: 0,
            ids,
            padding_ids: None,
            types: None,
            positions: None,
            bias: None,
            dropout: None,
            place: AtomicU64::new(0),
            precision: Precision::F32,
            rope: OnceLock::new(),
            spans: Vec::new(),
        }
    }

    /// For a batch that follows `start` cached tokens. With a cache no padding is allowed, so rows agree.
    pub fn new(batch: &Batch, start: usize, device: &Device) -> Self {
        Pass::causal(batch, start, start == 0 && batch.uneven(), device)
    }

    /// For a batch that a model of this family starts with. `padding`: padding is computed as transformers does it,
    /// for who reads its outputs.
    pub(crate) fn of(config: &ModelConfig, batch: &Batch, padding: bool, device: &Device) -> Result<Self> {
        if config.family == Family::Bert {
            return Pass::bidirectional(config, batch, device);
        }
        if batch.types.is_some() {
            return Err(ModelError::TokenTypes { family: config.family.name() });
        }
        let mut pass = Pass::causal(batch, 0, batch.uneven() || padding && batch.padded(), device);
        if config.family != Family::Gpt2 {
            pass.padding_ids = batch.padding_ids(config.pad, device);
        }
        if config.family == Family::Opt && pass.positions.is_some() {
            let [rows, seq] = pass.dims;
            // OPT's padding has the position before the first; there is one, since its table begins with two spare rows.
            let real = positions(batch).into_iter().zip(&batch.mask);
            let places = real.map(|(at, &real)| if real { at } else { -1 }).collect();
            pass.positions = Some(ops::ints(places, [rows * seq], device));
        }
        Ok(pass)
    }

    /// All real tokens see each other; positions count from the row's start, padding included.
    fn bidirectional(config: &ModelConfig, batch: &Batch, device: &Device) -> Result<Self> {
        let Batch { rows, seq, .. } = *batch;
        let ints = |ids: &[u32]| ops::ints(ids.iter().map(|&id| id as i32).collect(), [rows * seq], device);
        if let Some(&id) = batch.types.iter().flatten().find(|&&id| id as usize >= config.token_types) {
            return Err(ModelError::TokenType { id, types: config.token_types });
        }
        let bias = batch.padded().then(|| {
            let bias = batch.mask.iter().map(|&real| if real { 0.0 } else { f32::MIN }).collect();
            ops::from_vec(bias, [rows, 1, 1, seq], device)
        });
        Ok(Pass {
            dims: [rows, seq],
            start: 0,
            ids: ints(&batch.ids),
            padding_ids: batch.padding_ids(config.pad, device),
            types: batch.types.as_deref().map(ints),
            positions: None,
            bias,
            dropout: batch.dropout,
            place: AtomicU64::new(0),
            precision: batch.precision,
            rope: OnceLock::new(),
            spans: Vec::new(),
        })
    }

    /// `uneven`: rows have positions and masks of their own.
    fn causal(batch: &Batch, start: usize, uneven: bool, device: &Device) -> Self {
        let Batch { rows, seq, .. } = *batch;
        let ids = batch.ids.iter().map(|&id| id as i32).collect();
        Pass {
            dims: [rows, seq],
            start,
            ids: ops::ints(ids, [rows * seq], device),
            padding_ids: None,
            types: None,
            positions: uneven.then(|| ops::ints(positions(batch), [rows * seq], device)),
            bias: if uneven {
                Some(ops::from_vec(padded_bias(batch), [rows, 1, seq, seq], device))
            } else if seq > 1 {
                Some(ops::from_vec(causal_bias(seq, start), [1, 1, seq, start + seq], device))
            } else {
                None
            },
            dropout: batch.dropout,
            place: AtomicU64::new(0),
            precision: batch.precision,
            rope: OnceLock::new(),
            spans: Vec::new(),
        }
    }
}

/// Number of real tokens before each one in its text; padding has that of the last one before it, or 0.
fn positions(batch: &Batch) -> Vec<i32> {
    let mut positions = Vec::with_capacity(batch.ids.len());
    for row in 0..batch.rows {
        let (mut text, mut count) = (batch.segment(row * batch.seq), 0);
        for at in row * batch.seq..(row + 1) * batch.seq {
            if batch.segment(at) != text {
                (text, count) = (batch.segment(at), 0);
            }
            count += i32::from(batch.mask[at]);
            positions.push((count - 1).max(0));
        }
    }
    positions
}

fn causal_bias(seq: usize, start: usize) -> Vec<f32> {
    let keys = start + seq;
    (0..seq * keys).map(|at| if at % keys <= start + at / keys { 0.0 } else { f32::MIN }).collect()
}

fn padded_bias(batch: &Batch) -> Vec<f32> {
    let seq = batch.seq;
    let mut bias = Vec::with_capacity(batch.rows * seq * seq);
    for row in 0..batch.rows {
        for query in row * seq..(row + 1) * seq {
            let seen = |key: usize| key <= query && batch.mask[key] && batch.segment(key) == batch.segment(query);
            bias.extend((row * seq..(row + 1) * seq).map(|key| if seen(key) { 0.0 } else { f32::MIN }));
        }
    }
    bias
}
