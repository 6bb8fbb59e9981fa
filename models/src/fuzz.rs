//! What fuzz targets call: each takes any bytes whatever, and panics only if a promise is broken.

use std::mem::discriminant;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::peft;
use crate::tokenizer::Tokenizer;
use crate::weights::{read_bytes, read_pickle};

/// A safetensors file: its tensors can be read, each in full, or there is an error with words.
pub fn safetensors(bytes: &[u8]) {
    whole(read_bytes("model.safetensors", bytes));
}

/// A PyTorch checkpoint, or the pickle of one beside storages of a few bytes: its tensors can be read, each in full, or
/// there is an error with words.
pub fn checkpoint(bytes: &[u8]) {
    whole(read_bytes("pytorch_model.bin", bytes));
    whole(read_pickle(bytes, &[0x41; 64]));
}

fn whole(done: Result<Vec<(usize, Option<usize>)>>) {
    match done {
        Ok(tensors) => assert!(tensors.iter().all(|(count, found)| found.is_none_or(|found| found == *count))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A `config.json`: what is read can be written and read again, or there is an error with words. Numbers may be off in
/// the last place, by the JSON parser.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match ModelConfig::parse(text) {
        Ok(config) => {
            let written = config.render();
            let Ok(mut again) = ModelConfig::parse(&written) else { panic!("what was written is refused: {written}") };
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-14 * b.abs();
            assert!(near(again.norm_eps, config.norm_eps) && near(again.rope_theta, config.rope_theta), "{written}");
            assert!(near(again.initializer_range, config.initializer_range), "{written}");
            assert_eq!(discriminant(&again.rope_scaling), discriminant(&config.rope_scaling), "{written}");
            again.norm_eps = config.norm_eps;
            again.rope_theta = config.rope_theta;
            again.initializer_range = config.initializer_range;
            again.rope_scaling = config.rope_scaling;
            assert_eq!(again, config, "{written}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A `tokenizer.json`: it takes a text apart and puts it together, or there is an error with words.
pub fn tokenizer(bytes: &[u8]) {
    const TEXT: &str = " don't na\u{ef}ve\n\u{2603} 12";
    let read = Tokenizer::from_bytes(bytes);
    let done = read.and_then(|tokenizer| tokenizer.decode(&tokenizer.encode(TEXT, true)?, false));
    if let Err(error) = done {
        assert!(!error.to_string().is_empty());
    }
}

/// An `adapter_config.json`: it is read, or there is an error with words.
pub fn adapter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = peft::read_config(text, &ModelConfig::llama(8, 8, 8, 1, 2, 8)) {
        assert!(!error.to_string().is_empty());
    }
}
