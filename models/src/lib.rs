//! Language models on burn: GPT-2, OPT, Llama and BERT from and to Hugging Face folders, LoRA, training, decoding,
//! taps on the residual stream. Results on the CPU do not depend on batch size, order or thread count.
//!
//! | module | what for |
//! |---|---|
//! | [`config`], [`files`], [`weights`] | a model's folder |
//! | [`layers`] | linear with LoRA, norms, attention, cache; the hot operations in [`layers::ops`] |
//! | [`gpt2`], [`opt`], [`llama`], [`bert`], [`model`] | the families, and one type over them |
//! | [`lora`], [`peft`] | adapters, and their files |
//! | [`train`] | the training loop |
//! | [`tokenizer`] | text to ids and back; training small tokenizers |
//! | [`generate`], [`sampling`] | continuing prompts, batched |
//! | [`choice`] | how probable each of a few given continuations is |
//! | [`lens`], [`divergence`] | the logit lens; how far two distributions are apart |
//! | [`rng`] | counter-based random numbers |

pub mod bert;
pub mod choice;
pub mod config;
mod device;
pub mod divergence;
mod error;
pub mod files;
pub mod fuzz;
pub mod generate;
pub mod gpt2;
pub mod layers;
pub mod lens;
pub mod llama;
pub mod lora;
pub mod model;
pub mod opt;
mod parameterized;
pub mod peft;
pub mod rng;
pub mod sampling;
pub mod tokenizer;
pub mod train;
pub mod weights;

pub use burn::tensor::Device;
pub use choice::{Choice, ChoiceScores, score_choices};
pub use config::{Activation, ConfigError, DropoutRates, Family, ModelConfig, RopeScaling};
pub use device::{DeviceError, DeviceSpec};
pub use divergence::{Divergence, divergence};
pub use error::{ModelError, Result};
pub use files::ModelFiles;
pub use generate::{Beams, Completion, EarlyStopping, Finish, GenerateOptions, Prompt, generate};
pub use layers::{Batch, DropoutKey, Layout};
pub use lens::{LensPoint, LogitLens};
pub use model::{CausalLm, MaskedLm, SequenceClassifier, values};
pub use parameterized::Parameterized;
pub use sampling::Sampling;
pub use tokenizer::Tokenizer;

/// Bumped by hand when the same model and the same input give other bytes than before: it is part of the key of
/// every result that was computed with a model.
pub const NUMERICS_REVISION: u32 = 2;
