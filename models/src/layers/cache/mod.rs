//! Keys and values of the tokens so far, in buffers made once for the longest that a row may become.
//!
//! There are two forms, and what the model says is the same in both up to rounding:
//!
//! | [`Layout`] | rows of different lengths | shapes | for |
//! |---|---|---|---|
//! | `Packed` | lie one behind the other, without padding | change with each step | the CPU |
//! | `Padded` | are padded on the left to a common length | few: rounded up, and kept as rows end | GPUs |
//!
//! In the packed form attention sums over a row's own keys in their order, so that a row's logits have the same bits
//! in any batch. In the padded form masked keys enter the sums as zeros, which may round otherwise.

mod packed;
mod padded;

use burn::tensor::Device;

pub(crate) use packed::{HeadRows, PackedCache, Span, attend_packed};
pub(crate) use padded::PaddedCache;

use super::{AttentionShape, Pass};
use crate::error::{ModelError, Result};

/// How rows of different lengths share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One behind the other, without padding.
    Packed,
    /// Padded on the left, in buffers whose shapes seldom change.
    Padded,
}

impl Layout {
    /// What suits a device: kernels are compiled and tuned for each shape on a GPU, and for none on the CPU.
    pub fn of(device: &Device) -> Self {
        if device.clone().without_autodiff() == Device::flex() { Layout::Packed } else { Layout::Padded }
    }
}

/// Keys and values of a batch of rows, by layer.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) store: Store,
    capacity: usize,
}

#[derive(Debug)]
pub(crate) enum Store {
    Packed(PackedCache),
    Padded(PaddedCache),
}

impl KvCache {
    /// Without rows yet; each may take up to `capacity` tokens.
    pub(crate) fn new(layout: Layout, layers: usize, shape: AttentionShape, capacity: usize) -> Self {
        let store = match layout {
            Layout::Packed => Store::Packed(PackedCache::new(layers, shape, capacity)),
            Layout::Padded => Store::Padded(PaddedCache::new(layers, capacity)),
        };
        KvCache { store, capacity }
    }

    /// Its form.
    pub fn layout(&self) -> Layout {
        match &self.store {
            Store::Packed(_) => Layout::Packed,
            Store::Padded(_) => Layout::Padded,
        }
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        match &self.store {
            Store::Packed(packed) => packed.rows.len(),
            Store::Padded(padded) => padded.order.len(),
        }
    }

    /// Tokens held of a row; 0 for one that is not there yet.
    pub fn len(&self, row: usize) -> usize {
        match &self.store {
            Store::Packed(packed) => packed.rows.get(row).map_or(0, |row| row.len),
            Store::Padded(padded) => padded.len(row),
        }
    }

    /// Whether it holds no row.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Most tokens of a row.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Keeps these rows in this order: drops those that are not named, and makes copies of those named again.
    pub fn keep(&mut self, rows: &[usize]) {
        match &mut self.store {
            Store::Packed(packed) => packed.keep(rows),
            Store::Padded(padded) => padded.keep(rows),
        }
    }

    /// Copies of these rows, in this order.
    pub fn copy(&self, rows: &[usize]) -> KvCache {
        let store = match &self.store {
            Store::Packed(packed) => Store::Packed(packed.copies(rows)),
            Store::Padded(padded) => {
                let mut copies = padded.clone();
                copies.keep(rows);
                Store::Padded(copies)
            }
        };
        KvCache { store, capacity: self.capacity }
    }

    /// What the layers need to take in `tokens` behind each row; rows beyond those held are new. Checks lengths
    /// against the capacity.
    pub(crate) fn pass(&mut self, tokens: &[&[u32]], device: &Device) -> Result<Pass> {
        if tokens.is_empty() || tokens.iter().any(|tokens| tokens.is_empty()) || tokens.len() < self.rows() {
            return Err(ModelError::EmptyBatch);
        }
        for (row, tokens) in tokens.iter().enumerate() {
            let length = self.len(row) + tokens.len();
            if length > self.capacity {
                return Err(ModelError::ContextLength { length, context: self.capacity });
            }
        }
        Ok(match &mut self.store {
            Store::Packed(packed) => packed.pass(tokens, device),
            Store::Padded(padded) => padded.pass(tokens, device),
        })
    }

    /// Where the hidden states of a pass hold those of the last token of each row, or of all tokens, row after row.
    /// `None` if that is all that there is, in that order.
    pub(crate) fn places(&self, tokens: &[&[u32]], which: Which) -> Option<Vec<i32>> {
        match &self.store {
            Store::Packed(_) => packed::places(tokens, which),
            Store::Padded(padded) => padded.places(tokens, which),
        }
    }

    /// Counts what a pass took in, once all layers have.
    pub(crate) fn advance(&mut self, tokens: &[&[u32]]) {
        match &mut self.store {
            Store::Packed(packed) => {
                packed.rows.iter_mut().zip(tokens).for_each(|(row, tokens)| row.len += tokens.len());
            }
            Store::Padded(padded) => padded.advance(tokens),
        }
    }
}

/// Which tokens of a pass are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Last,
    All,
}
