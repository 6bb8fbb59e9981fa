//! Training: one loop for pretraining, full finetuning and LoRA, and for every model that is [`Trainable`]. Same
//! examples, same config, same bytes, on any number of threads.
//!
//! | file | what for |
//! |---|---|
//! | `config`, `report`, `error` | how to train, what it came to |
//! | `run` | the loop |
//! | `trainable` | what the loop asks of a model |
//! | `causal`, `layout` | causal language models: rows of tokens, what is predicted where |
//! | `masked` | masked language models: which tokens are taken out |
//! | `tokens` | loss and gradients at some places of a batch, for both |
//! | `classes` | sequence classifiers |
//! | `recompute` | gradient checkpointing by block |
//! | `order` | order of examples, micro-batches |
//! | `evaluation` | held-out examples, early stopping |
//! | `state`, `values` | a run's state between two steps, from which it goes on |
//! | `schedule` | learning rate by step |
//! | `loss` | cross-entropy and its gradient in one pass |
//! | `adamw`, `optimizer`, `select` | the update of one tensor, and of a model; which parameters learn |

mod adamw;
mod causal;
mod classes;
mod config;
mod error;
mod evaluation;
mod layout;
mod loss;
mod masked;
mod optimizer;
mod order;
mod recompute;
mod report;
mod run;
mod schedule;
mod select;
mod state;
mod tokens;
mod trainable;
mod values;

pub use crate::layers::Precision;
pub use adamw::AdamW;
pub use causal::Example;
pub use classes::Labelled;
pub use config::{Length, Reduction, TrainConfig, Trained};
pub use error::TrainError;
pub use evaluation::{Evaluate, Keep, evaluate};
pub use loss::cross_entropy;
pub use masked::{MaskedText, Masking};
pub use report::{Evaluation, StepReport, TrainReport};
pub use run::{Data, Next, Observer, train, train_from};
pub use schedule::{Decay, Schedule};
pub use state::TrainState;
pub use trainable::{LossPass, Sample, Trainable};
