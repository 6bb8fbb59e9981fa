//! The same text whatever the batch size, the order and the number of threads, on a model whose sums are large
//! enough for the matrix product to split and to share among threads.

use burn::module::Param;
use burn::tensor::Device;
use palinode_models::layers::{LoraAdapter, ops::from_vec};
use palinode_models::model::values;
use palinode_models::rng::Stream;
use palinode_models::tokenizer::{Tokenizer, train_word_level};
use palinode_models::{
    Batch, CausalLm, Completion, Finish, GenerateOptions, ModelConfig, ModelError, ModelFiles, Prompt, Sampling,
    generate,
};

const VOCAB: usize = 8192;

fn tokenizer() -> Tokenizer {
    let words: Vec<String> = (0..VOCAB).map(|word| format!("w{word:05}")).collect();
    Tokenizer::from_bytes(&train_word_level(&words, VOCAB).unwrap()).unwrap()
}

fn prompts() -> Vec<Prompt> {
    let ids = |at: u32| (0..2 + at % 5).map(|token| 4 + (at * 131 + token * 977) % 8000).collect();
    (0..16).map(|at| Prompt::new(ids(at))).collect()
}

fn large(family: ModelConfig) -> CausalLm {
    let config = ModelConfig { initializer_range: 0.06, ..family };
    CausalLm::random(config, 11, &Device::flex()).unwrap()
}

/// Adds adapters to all linear layers: their products have a narrow side, for which sums are ordered otherwise.
fn adapt(model: &mut CausalLm, rank: usize) {
    let mut stream = Stream::new(3, &[rank as u64]);
    let mut matrix = |rows: usize, columns: usize| {
        let values = (0..rows * columns).map(|_| stream.normal() as f32 * 0.1).collect();
        Param::from_tensor(from_vec(values, [rows, columns], &Device::flex()))
    };
    model.each_linear(|_, linear| {
        let [input, output] = linear.dims();
        let (a, b) = (matrix(input, rank), matrix(rank, output));
        linear.lora = Some(LoraAdapter { a, b, scale: 2.0, dropout: 0.0, stream: 0 });
    });
}

/// A short length, sampled, with an end-of-text set wide enough that rows leave the batch at different times.
fn options(batch_size: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 6,
        eos: (0..VOCAB as u32).filter(|id| id % 7 == 0).collect(),
        sampling: Sampling { temperature: 1.0, top_k: Some(200), ..Sampling::greedy() },
        samples: 2,
        seed: 5,
        batch_size,
        ..GenerateOptions::default()
    }
}

fn run(model: &CausalLm, prompts: &[Prompt], batch_size: usize, threads: usize) -> Vec<Completion> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let tokenizer = tokenizer();
    pool.install(|| generate(model, &tokenizer, prompts, &options(batch_size), |_, _| true).unwrap())
}

#[test]
fn batch_order_and_threads_do_not_matter() {
    let gpt2 = ModelConfig::gpt2(VOCAB, 32, 576, 1, 9);
    let llama = ModelConfig { kv_heads: 3, tied: true, ..ModelConfig::llama(VOCAB, 32, 576, 1, 9, 1408) };
    for config in [gpt2, llama] {
        let model = large(config);
        let prompts = prompts();
        let alone = run(&model, &prompts, 1, 1);
        assert!(alone.iter().any(|one| one.finish == Finish::Eos && one.tokens.len() < 6));
        assert!(alone.iter().any(|one| one.finish == Finish::Length));
        for (batch_size, threads) in [(3, 1), (16, 1), (1, 2), (16, 2)] {
            assert_eq!(run(&model, &prompts, batch_size, threads), alone, "{batch_size} rows, {threads} threads");
        }
        let reversed: Vec<Prompt> = prompts.iter().rev().cloned().collect();
        let mut found = run(&model, &reversed, 16, 2);
        found.iter_mut().for_each(|one| one.prompt = prompts.len() - 1 - one.prompt);
        found.sort_by_key(|one| (one.prompt, one.sample));
        assert_eq!(found, alone);
    }
}

/// Bits, not only choices: logits of a row alone and among others.
#[test]
fn logits_have_the_same_bits_in_any_batch() {
    let shapes = [
        ModelConfig::gpt2(VOCAB, 16, 576, 1, 9),
        ModelConfig::gpt2(24, 16, 64, 2, 2),
        ModelConfig::gpt2(40, 16, 640, 1, 10),
        ModelConfig { tied: true, kv_heads: 1, ..ModelConfig::llama(100, 16, 48, 2, 4, 700) },
    ];
    for (config, rank) in shapes.into_iter().zip([8, 1, 3, 2]) {
        let vocab = config.vocab_size as u32;
        let mut model = large(config);
        adapt(&mut model, rank);
        let row = |at: u32| -> Vec<u32> { (0..1 + at % 6).map(|token| (at * 31 + token * 7) % vocab).collect() };
        let decode = |rows: &[Vec<u32>]| {
            let mut cache = model.cache(8);
            let first = values(model.decode(rows, &mut cache).unwrap());
            let next: Vec<Vec<u32>> = rows.iter().map(|row| vec![row[0]]).collect();
            let second = values(model.decode(&next, &mut cache).unwrap());
            [first, second]
        };
        for count in [2, 3, 16, 70] {
            let rows: Vec<Vec<u32>> = (0..count).map(row).collect();
            let together = decode(&rows);
            for (at, alone) in rows.iter().enumerate().take(7) {
                let width = vocab as usize;
                for (alone, together) in decode(std::slice::from_ref(alone)).iter().zip(&together) {
                    let same = alone[..] == together[at * width..(at + 1) * width];
                    assert!(same, "row {at} of {count}, vocabulary {vocab}");
                }
            }
        }
    }
}

#[test]
fn cached_decoding_agrees_with_the_whole_pass() {
    let gqa = ModelConfig { kv_heads: 2, ..ModelConfig::llama(50, 16, 32, 2, 4, 40) };
    for config in [ModelConfig::gpt2(50, 16, 32, 2, 4), gqa] {
        let model = large(config);
        let ids: Vec<u32> = (0..9).map(|at| at * 5 % 50).collect();
        let whole = values(model.forward(&Batch::single(&ids).unwrap()).unwrap());
        let mut cache = model.cache(16);
        for (start, end) in [(0, 4), (4, 5), (5, 8), (8, 9)] {
            let step = values(model.decode(&[&ids[start..end]], &mut cache).unwrap());
            for (a, b) in step.iter().zip(&whole[(end - 1) * 50..end * 50]) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }
}

#[test]
fn stops_context_and_cancelling() {
    let tokenizer = tokenizer();
    let model = large(ModelConfig::gpt2(VOCAB, 8, 64, 1, 2));
    let start = [Prompt::text("w00001 w00002 w00003", &tokenizer).unwrap()];
    let go = |options: &GenerateOptions| generate(&model, &tokenizer, &start, options, |_, _| true);
    let open = go(&GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() }).unwrap().remove(0);
    assert_eq!((open.tokens.len(), open.finish, open.context_full), (4, Finish::Length, false));
    let words: Vec<&str> = open.text.split_whitespace().collect();
    assert_eq!(words.len(), 4);

    let stop = vec!["never".to_owned(), format!(" {}", words[2])];
    let stopped = go(&GenerateOptions { stop, ..GenerateOptions::default() }).unwrap().remove(0);
    assert_eq!(stopped.finish, Finish::Stop);
    assert_eq!(open.text.strip_prefix(&stopped.text).map(str::trim_start).unwrap().find(words[2]), Some(0));

    let full = go(&GenerateOptions { max_new_tokens: 20, ..GenerateOptions::default() }).unwrap().remove(0);
    assert_eq!((full.tokens.len(), full.finish, full.context_full), (5, Finish::Length, true));
    let long = Prompt::new(vec![4; 9]);
    let error = generate(&model, &tokenizer, &[long], &GenerateOptions::default(), |_, _| true).unwrap_err();
    assert_eq!(error.to_string(), "prompt 0 has 9 tokens, and the model's context is 8: shorten it");
    let cancelled = generate(&model, &tokenizer, &start, &GenerateOptions::default(), |_, _| false);
    assert!(matches!(cancelled, Err(ModelError::Cancelled)));
    assert!(matches!(model.forward(&Batch::single(&[9000]).unwrap()), Err(ModelError::TokenId { id: 9000, .. })));
}

#[test]
fn random_models_depend_on_the_seed_alone() {
    let config = ModelConfig::gpt2(30, 16, 32, 8, 2);
    let tensors = |seed| CausalLm::random(config.clone(), seed, &Device::flex()).unwrap().tensors();
    assert_eq!(tensors(1), tensors(1));
    assert_ne!(tensors(1), tensors(2));
    let deviation = |name: &str| {
        let values = &tensors(1)[name].1;
        (values.iter().map(|value| f64::from(value * value)).sum::<f64>() / values.len() as f64).sqrt()
    };
    assert!((deviation("transformer.h.0.mlp.c_fc.weight") - 0.02).abs() < 0.002);
    assert!((deviation("transformer.h.0.mlp.c_proj.weight") - 0.005).abs() < 0.0005, "0.02 / sqrt(2 * 8)");
}

#[test]
fn broken_weights_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = large(ModelConfig::gpt2(30, 16, 32, 1, 2));
    model.save(folder.path()).unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let message = |tensors: &std::collections::BTreeMap<_, _>| {
        palinode_models::weights::write_safetensors(&path, tensors).unwrap();
        CausalLm::load(&files, &Device::flex()).unwrap_err().to_string()
    };
    let mut tensors = model.tensors();
    let norm = tensors.remove("transformer.ln_f.bias").unwrap();
    assert_eq!(message(&tensors), "the weights lack the tensor `transformer.ln_f.bias`");
    tensors.insert("transformer.ln_f.bias".into(), (vec![2, 16], norm.1.clone()));
    assert_eq!(message(&tensors), "the tensor `transformer.ln_f.bias` has shape [2, 16], the config calls for [32]");
    tensors.insert("transformer.ln_f.bias".into(), norm);
    tensors.insert("transformer.h.1.ln_1.bias".into(), (vec![1], vec![0.0]));
    assert_eq!(
        message(&tensors),
        "the weights hold tensors that a gpt2 model has no place for: transformer.h.1.ln_1.bias"
    );
    model.save(folder.path()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 4, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let error = CausalLm::load(&files, &Device::flex()).unwrap_err().to_string();
        assert!(error.starts_with("`model.safetensors` is not a whole safetensors file: "), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    let files = ModelFiles::folder(folder.path()).unwrap();
    assert_eq!(
        CausalLm::load(&files, &Device::flex()).unwrap_err().to_string(),
        "the model has no weights: `model.safetensors` or `pytorch_model.bin` is wanted, or shards with their `.index.json`"
    );
}
