//! The parts that models are built of. Activations travel as rows `[batch * seq, width]`, so that every
//! linear layer is one 2-D matrix product; only attention looks at batch and heads.

mod attention;
mod batch;
mod cache;
mod dropout;
mod embedding;
pub(crate) mod fused;
pub(crate) mod fused_rows;
mod kernels;
mod linear;
mod norm;
pub mod ops;
mod precision;
mod rope;

pub use attention::{AttentionShape, attend};
pub use batch::{Batch, Pass};
pub(crate) use cache::Which;
pub use cache::{KvCache, Layout};
pub use dropout::DropoutKey;
pub use embedding::Embedding;
pub use linear::{Linear, LoraAdapter};
pub use norm::{LayerNorm, RmsNorm};
pub use precision::Precision;
pub use rope::Rope;
