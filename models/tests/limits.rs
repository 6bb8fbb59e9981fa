//! What is at the edge of what models can take: broken and disagreeing files, rows of padding, empty and many rows.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::model::values;
use palinode_models::{
    Batch, CausalLm, GenerateOptions, ModelConfig, ModelFiles, Prompt, SequenceClassifier, Tokenizer, generate,
};

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model)
}

fn files(model: &str) -> ModelFiles {
    ModelFiles::folder(fixture(model)).unwrap()
}

/// A model's files with others in the place of some.
fn files_with(model: &str, others: &[(&str, &[u8])], folder: &Path) -> ModelFiles {
    let written = others.iter().map(|(name, bytes)| {
        std::fs::write(folder.join(name), bytes).unwrap();
        ((*name).to_owned(), folder.join(name))
    });
    let kept = files(model).iter().map(|(name, path)| (name.to_owned(), path.to_path_buf())).collect::<Vec<_>>();
    kept.into_iter().chain(written).collect()
}

fn refusal(model: &str, others: &[(&str, &[u8])]) -> String {
    let folder = tempfile::tempdir().unwrap();
    CausalLm::load(&files_with(model, others, folder.path()), &Device::flex()).unwrap_err().to_string()
}

fn families() -> [ModelConfig; 3] {
    [ModelConfig::gpt2(40, 16, 8, 2, 2), ModelConfig::opt(40, 16, 8, 2, 2, 12), ModelConfig::llama(40, 16, 8, 2, 2, 12)]
}

fn classifier(config: ModelConfig, pad: Option<u32>) -> SequenceClassifier {
    let config = ModelConfig { labels: vec!["a".into(), "b".into(), "c".into()], pad, ..config };
    SequenceClassifier::random(config, 3, &Device::flex()).unwrap()
}

fn header(text: &str, length: u64, data: usize) -> Vec<u8> {
    [length.to_le_bytes().as_slice(), text.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn broken_safetensors_are_told() {
    let message =
        |text: &str, data: usize| refusal("gpt2", &[("model.safetensors", &header(text, text.len() as u64, data))]);
    let longer = header("{}", 1 << 20, 0);
    insta::assert_snapshot!(refusal("gpt2", &[("model.safetensors", &longer)]), @"`model.safetensors` is not a whole safetensors file: invalid header length");
    let longest = header("{}", u64::MAX, 0);
    insta::assert_snapshot!(refusal("gpt2", &[("model.safetensors", &longest)]), @"`model.safetensors` is not a whole safetensors file: header too large");
    insta::assert_snapshot!(message("[1]", 0), @"`model.safetensors` is not a whole safetensors file: invalid JSON in header: invalid type: sequence, expected struct HashMetadata at line 1 column 0");
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    insta::assert_snapshot!(message(overlapping, 12), @"`model.safetensors` is not a whole safetensors file: invalid offset for tensor `b`");
    let huge = r#"{"a":{"dtype":"F32","shape":[1152921504606846976,64],"data_offsets":[0,8]}}"#;
    insta::assert_snapshot!(message(huge, 8), @"`model.safetensors` is not a whole safetensors file: overflow computing buffer size from shape and/or element type");
    let beyond = r#"{"a":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}}"#;
    insta::assert_snapshot!(message(beyond, 8), @"`model.safetensors` is not a whole safetensors file: incomplete metadata, file not fully covered");
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n";
    insta::assert_snapshot!(refusal("gpt2", &[("model.safetensors", pointer)]), @"`model.safetensors` is only Git LFS's pointer to the file: fetch the file itself, by `git lfs pull`");
    // Sizes whose sum comes round to that of the file.
    let quarter = 1u64 << 62;
    let entry = |at: u64| {
        let (from, to) = (quarter * at, (quarter * at).wrapping_add(quarter));
        format!(r#""{at}":{{"dtype":"U8","shape":[{quarter}],"data_offsets":[{from},{to}]}}"#)
    };
    let round = format!("{{{}}}", (0..4).map(entry).collect::<Vec<_>>().join(","));
    assert!(message(&round, 0).starts_with("`model.safetensors` is not a whole safetensors file: "));
    let wrong = r#"{"transformer.h.0.ln_1.weight":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#;
    insta::assert_snapshot!(message(wrong, 8), @"the weights lack the tensor `transformer.h.0.attn.c_attn.weight`");
}

#[test]
fn models_that_are_not_built_are_refused() {
    let config = |text: &str| refusal("gpt2", &[("config.json", text.as_bytes())]);
    insta::assert_snapshot!(config(r#"{"model_type": "mixtral"}"#), @"model_type `mixtral` is not supported (supported: gpt2, opt, llama, bert)");
    insta::assert_snapshot!(config("{"), @"config.json is not a JSON object: EOF while parsing an object at line 1 column 1");
    insta::assert_snapshot!(refusal("bert_cls", &[]), @"the model is a classifier (BertForSequenceClassification) with 3 classes; a causal language model is wanted");
    insta::assert_snapshot!(refusal("opt_cls", &[]), @"the model is a classifier (OPTForSequenceClassification) with 3 classes; a causal language model is wanted");
    let plain = SequenceClassifier::load(&files("gpt2"), &Device::flex()).unwrap_err();
    insta::assert_snapshot!(plain, @"the model is one without classes (GPT2LMHeadModel); a sequence classifier is wanted");
    let nothing = CausalLm::load(&files("gpt2").below("gone/"), &Device::flex()).unwrap_err();
    insta::assert_snapshot!(nothing, @"the model has no `config.json`");
}

#[test]
fn configs_that_disagree_with_the_weights_are_told() {
    let config = |model: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(fixture(model).join("config.json")).unwrap();
        assert!(text.contains(from), "{text}");
        refusal(model, &[("config.json", text.replace(from, to).as_bytes())])
    };
    insta::assert_snapshot!(config("gpt2", r#""n_layer": 3"#, r#""n_layer": 4"#), @"the weights lack the tensor `transformer.h.3.attn.c_attn.weight`");
    insta::assert_snapshot!(config("gpt2", r#""n_layer": 3"#, r#""n_layer": 2"#), @"the weights hold tensors that a gpt2 model has no place for: transformer.h.2.attn.c_attn.bias, transformer.h.2.attn.c_attn.weight, transformer.h.2.attn.c_proj.bias, transformer.h.2.attn.c_proj.weight, transformer.h.2.ln_1.bias, transformer.h.2.ln_1.weight, transformer.h.2.ln_2.bias, transformer.h.2.ln_2.weight, transformer.h.2.mlp.c_fc.bias, transformer.h.2.mlp.c_fc.weight, transformer.h.2.mlp.c_proj.bias, transformer.h.2.mlp.c_proj.weight");
    insta::assert_snapshot!(config("opt", r#""vocab_size": 480"#, r#""vocab_size": 481"#), @"the tensor `model.decoder.embed_tokens.weight` has shape [480, 32], the config calls for [481, 32]");
    insta::assert_snapshot!(config("opt", r#""ffn_dim": 96"#, r#""ffn_dim": 95"#), @"the tensor `model.decoder.layers.0.fc1.weight` has shape [96, 32], the config calls for [95, 32]");
    insta::assert_snapshot!(config("opt", r#""word_embed_proj_dim": 32"#, r#""word_embed_proj_dim": 16"#), @"the weights lack the tensor `model.decoder.project_in.weight`");
    insta::assert_snapshot!(config("llama", r#""num_key_value_heads": 4"#, r#""num_key_value_heads": 2"#), @"the tensor `model.layers.0.self_attn.k_proj.weight` has shape [32, 32], the config calls for [16, 32]");
}

#[test]
fn a_vocabulary_larger_than_the_embedding_is_refused() {
    let tokenizer = Tokenizer::load(&files("gpt2")).unwrap();
    tokenizer.check(512).unwrap();
    insta::assert_snapshot!(tokenizer.check(511).unwrap_err(), @"the tokenizer's highest id is 511 (`<|endoftext|>`), but the model embeds only 511 ids: it is another model's, or tokens were added to it and the embedding wasn't resized");
    insta::assert_snapshot!(tokenizer.check(100).unwrap_err(), @"the tokenizer's highest id is 511 (`<|endoftext|>`), but the model embeds only 100 ids: it is another model's, or tokens were added to it and the embedding wasn't resized");
}

#[test]
fn vocabulary_files_that_make_no_tokenizer_are_told() {
    let message = |others: &[(&str, &[u8])], without: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let all = files_with("opt_bin", others, folder.path());
        let kept: ModelFiles = all.iter().filter(|(name, _)| !without.contains(name)).collect();
        Tokenizer::load(&kept).unwrap_err().to_string()
    };
    insta::assert_snapshot!(message(&[], &["vocab.json"]), @"the model has no tokenizer: `tokenizer.json` is wanted, or `vocab.json` with `merges.txt`, or `vocab.txt` (of a `tokenizer.model` transformers' `AutoTokenizer.from_pretrained(...).save_pretrained(...)` makes the first)");
    insta::assert_snapshot!(message(&[("tokenizer.json", b"{")], &[]), @"`tokenizer.json` is not valid: EOF while parsing an object at line 1 column 1");
    insta::assert_snapshot!(message(&[], &["merges.txt"]), @"the model has no `merges.txt`");
    insta::assert_snapshot!(message(&[("vocab.json", b"[]")], &[]), @"`vocab.json` is not valid: invalid type: sequence, expected a map at line 1 column 0");
    insta::assert_snapshot!(message(&[("vocab.json", b"{\"a\": 0}")], &[]), @"`vocab.json` is not valid: it has no id for `</s>`");
    insta::assert_snapshot!(message(&[("merges.txt", b"#version: 0.2\na b\na b c\n")], &[]), @"`merges.txt` is not valid: line 3 is `a b c`, expected two tokens");
    insta::assert_snapshot!(message(&[("merges.txt", b"zz zz\n")], &[]), @"tokenizer: Token `zz` out of vocabulary at line 1 column 5318");
    insta::assert_snapshot!(message(&[("vocab.txt", b"a\nb\n")], &["vocab.json"]), @"`vocab.txt` is not valid: it has no id for `[CLS]`");
    insta::assert_snapshot!(message(&[("tokenizer_config.json", b"{")], &[]), @"`tokenizer_config.json` is not valid: EOF while parsing an object at line 1 column 1");
}

/// A row of padding gives numbers, and changes nothing in the rows beside it.
#[test]
fn rows_of_padding() {
    for config in families() {
        let model = CausalLm::random(config.clone(), 1, &Device::flex()).unwrap();
        let (ids, width) = (vec![3, 4, 5, 0, 0, 0, 6, 7, 0], 3 * config.vocab_size);
        let mask = [[true; 3], [false; 3], [true, true, false]].concat();
        let logits = values(model.forward(&Batch::new(ids, mask, [3, 3]).unwrap()).unwrap());
        assert!(logits.iter().all(|logit| logit.is_finite()), "{config:?}");
        let alone = values(model.forward(&Batch::single(&[3, 4, 5]).unwrap()).unwrap());
        assert_eq!(logits[..width], alone, "{config:?}");
    }
    let bert = ModelConfig::bert(40, 16, 8, 2, 2, 12);
    for config in families().into_iter().chain([bert]) {
        for pad in [Some(0), None] {
            let model = classifier(config.clone(), pad);
            let (ids, mask) = (vec![3, 4, 0, 0, 0, 0], vec![true, true, false, false, false, false]);
            let logits = values(model.forward(&Batch::new(ids, mask, [2, 3]).unwrap()).unwrap());
            assert!(logits.len() == 6 && logits.iter().all(|logit| logit.is_finite()), "{config:?}");
            let alone = model.classify(&[[3, 4]], 1).unwrap().remove(0);
            let apart = logits[..3].iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(apart, "{config:?}: {logits:?} for {alone:?}");
        }
    }
}

/// transformers reads the rightmost id that isn't padding, whatever the mask says.
#[test]
fn classes_are_read_where_transformers_reads_them() {
    for config in families() {
        let model = classifier(config.clone(), Some(9));
        let at = |ids: &[u32], mask: &[bool]| {
            values(model.forward(&Batch::new(ids.to_vec(), mask.to_vec(), [1, ids.len()]).unwrap()).unwrap())
        };
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        let whole = at(&[3, 4, 5], &[true; 3]);
        assert!(near(&at(&[3, 4, 5, 9], &[true; 4]), &whole), "{config:?}: a real token that looks like padding");
        assert!(near(&at(&[3, 4, 5, 9], &[true, true, true, false]), &whole), "{config:?}");
        let left = at(&[9, 9, 3, 4, 5], &[false, false, true, true, true]);
        assert!(near(&left, &whole), "{config:?}");
        // The last id is masked, but it isn't padding.
        assert!(!near(&at(&[3, 4, 5, 7], &[true, true, true, false]), &whole), "{config:?}");
        let first = at(&[9, 9], &[true; 2]);
        assert!(near(&first, &at(&[9], &[true])), "{config:?}: nothing but padding is read at its start");
    }
}

#[test]
fn no_rows_and_empty_rows_are_errors() {
    let model = CausalLm::random(families()[0].clone(), 1, &Device::flex()).unwrap();
    assert!(Batch::right_padded::<Vec<u32>>(&[], 0).is_err());
    insta::assert_snapshot!(Batch::single(&[]).unwrap_err(), @"a batch needs at least one row, and rows of at least one token");
    insta::assert_snapshot!(model.forward(&Batch::single(&[0; 17]).unwrap()).unwrap_err(), @"17 tokens do not fit the model's context of 16");
    insta::assert_snapshot!(model.forward(&Batch::single(&[40]).unwrap()).unwrap_err(), @"token id 40 is outside the vocabulary of 40");
    let typed = Batch::single(&[1, 2]).unwrap().with_types(vec![0, 1]).unwrap();
    insta::assert_snapshot!(model.forward(&typed).unwrap_err(), @"a gpt2 model has no token types");
    let bert = classifier(ModelConfig::bert(40, 16, 8, 2, 2, 12), Some(0));
    let typed = Batch::single(&[1, 2]).unwrap().with_types(vec![0, 2]).unwrap();
    insta::assert_snapshot!(bert.forward(&typed).unwrap_err(), @"token type 2 is outside the model's 2");
    let tokenizer = Tokenizer::load(&files("gpt2")).unwrap();
    let empty = Prompt::text("", &tokenizer).unwrap();
    assert_eq!(empty.ids, tokenizer.special().bos.into_iter().collect::<Vec<_>>(), "the first-of-text token");
    let opt = Tokenizer::load(&files("opt")).unwrap();
    assert_eq!(Prompt::text("", &opt).unwrap().ids, opt.special().bos.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_thousand_rows_are_as_good_as_one() {
    for config in families() {
        let model = CausalLm::random(config.clone(), 1, &Device::flex()).unwrap();
        let rows: Vec<Vec<u32>> =
            (0..1000u32).map(|at| (0..8).map(|token| (at * 7 + token * 11) % 40).collect()).collect();
        let all = values(model.forward(&Batch::right_padded(&rows, 0).unwrap()).unwrap());
        for at in [0, 499, 999] {
            let one = values(model.forward(&Batch::single(&rows[at]).unwrap()).unwrap());
            assert_eq!(all[at * one.len()..][..one.len()], one, "{config:?} row {at}");
        }
        let classes = classifier(config, Some(0));
        let all = classes.classify(&rows, 1000).unwrap();
        assert_eq!(classes.classify(&rows[499..500], 1).unwrap(), all[499..500]);
    }
}

/// Greedy tokens of an OPT, cached, are those of full passes.
#[test]
fn opt_decodes_as_it_reads() {
    for model in ["opt", "opt_proj", "opt_post_norm"] {
        let model = CausalLm::load(&files(model), &Device::flex()).unwrap();
        let tokenizer = Tokenizer::load(&files("opt")).unwrap();
        let start = Prompt::text("The teacher repairs", &tokenizer).unwrap();
        let options = GenerateOptions { max_new_tokens: 12, ..GenerateOptions::default() };
        let found = generate(&model, &tokenizer, std::slice::from_ref(&start), &options, |_, _| true).unwrap();
        let mut ids = start.ids;
        for &token in &found[0].tokens {
            let logits = values(model.forward(&Batch::single(&ids).unwrap()).unwrap());
            let last = &logits[logits.len() - model.config().vocab_size..];
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
            assert_eq!(best as u32, token);
            ids.push(token);
        }
        assert_eq!(found[0].tokens.len(), 12);
    }
}

/// A language model becomes a classifier: its body stays, the unembedding goes, and the head depends on the seed alone.
#[test]
fn classifiers_made_of_language_models() {
    for name in ["gpt2", "llama", "opt_proj", "opt_bin"] {
        let labels = || vec!["clean".to_owned(), "toxic".to_owned()];
        let made = |seed| SequenceClassifier::with_new_head(&files(name), labels(), seed, &Device::flex()).unwrap();
        let (first, second) = (made(1).tensors(), made(2).tensors());
        assert_eq!(first, made(1).tensors(), "{name}");
        assert_ne!(first["score.weight"], second["score.weight"], "{name}");
        let base = CausalLm::load(&files(name), &Device::flex()).unwrap().tensors();
        let body = |(key, _): &(&String, &_)| !key.starts_with("score.") && !key.starts_with("lm_head.");
        assert!(first.iter().filter(body).eq(base.iter().filter(body)), "{name}");
        assert_eq!(made(1).config().architecture().split("For").nth(1), Some("SequenceClassification"));
    }
    let again = SequenceClassifier::with_new_head(&files("bert_cls"), vec!["x".into(); 5], 0, &Device::flex()).unwrap();
    assert_eq!(again.classes(), 5);
}
