//! The models' fuzz targets on any compiler. `fuzz/` has the same targets for `cargo fuzz`.

#[path = "../../fuzz/replay.rs"]
mod replay;

use palinode_models::fuzz;
use replay::replay;

/// Pieces of headers, pickles and configs.
const WORDS: [&str; 44] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "1152921504606846976",
    "18446744073709551615",
    "\"dtype\":",
    "\"shape\":",
    "\"data_offsets\":",
    "\"F32\"",
    "\"U8\"",
    "\"BF16\"",
    "\"model_type\":",
    "\"llama\"",
    "\"bert\"",
    "\"opt\"",
    "\"id2label\":",
    "\"rope_scaling\":",
    "\"num_attention_heads\":",
    "PK\u{3}\u{4}",
    "PK\u{1}\u{2}",
    "PK\u{5}\u{6}",
    "PK\u{6}\u{6}",
    "PK\u{6}\u{7}",
    "ctorch._utils\n_rebuild_tensor_v2\n",
    "ctorch\nFloatStorage\n",
    "ccollections\nOrderedDict\n",
    "cposix\nsystem\n",
    "(",
    "t",
    "R",
    "Q",
    "s",
    "K\u{1}",
    "q\u{1}",
    "h\u{1}",
];

#[test]
fn safetensors() {
    replay("safetensors", &WORDS, fuzz::safetensors);
}

#[test]
fn checkpoint() {
    replay("checkpoint", &WORDS, fuzz::checkpoint);
}

#[test]
fn config() {
    replay("config", &WORDS, fuzz::config);
}

#[test]
fn tokenizer() {
    replay("tokenizer", &WORDS, fuzz::tokenizer);
}

#[test]
fn adapter() {
    replay("adapter", &WORDS, fuzz::adapter);
}
