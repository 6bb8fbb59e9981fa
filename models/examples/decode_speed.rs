//! Tokens per second of greedy decoding by shape and number of prompts, and what a change of adapters costs:
//! `cargo run --release -p palinode-models --example decode_speed [large]`, on the device that `PALINODE_TEST_DEVICE` names.
#![expect(clippy::print_stdout, reason = "a program that is run by hand")]

use std::time::Instant;

use palinode_models::lora::{self, LoraConfig};
use palinode_models::tokenizer::{Tokenizer, train_word_level};
use palinode_models::{
    CausalLm, Device, DeviceError, DeviceSpec, GenerateOptions, ModelConfig, ModelFiles, Prompt, Sampling, generate,
    peft,
};

const TOKENS: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut shapes = vec![
        ("quickstart, 0.1 M", ModelConfig::gpt2(80, 80, 64, 2, 4)),
        ("GPT-2 of 4.5 M", ModelConfig::gpt2(4096, 512, 256, 4, 8)),
    ];
    if std::env::args().nth(1).as_deref() == Some("large") {
        shapes.push(("GPT-2 of 124 M", ModelConfig::gpt2(50257, 1024, 768, 12, 12)));
    }
    let words: Vec<String> = (0..76).map(|word| format!("w{word}")).collect();
    let tokenizer = Tokenizer::from_bytes(&train_word_level(&words, 80)?)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    for (name, config) in shapes {
        let model = CausalLm::random(config, 0, &device()?)?;
        let drawn = Sampling { temperature: 1.0, ..Sampling::greedy() };
        for (how, sampling) in [("greedy", Sampling::greedy()), ("drawn", drawn)] {
            for (count, length) in [(1, 8), (8, 8), (32, 8), (8, 15)] {
                let prompts = prompts(count, length);
                let options =
                    GenerateOptions { max_new_tokens: TOKENS, batch_size: 64, sampling, ..GenerateOptions::default() };
                let seconds =
                    pool.install(|| best_of(3, || generate(&model, &tokenizer, &prompts, &options, |_, _| true)))?;
                let rate = (count * TOKENS) as f64 / seconds;
                println!("{name}, {how}, {count} prompts of up to {length} tokens: {rate:.0} tokens/s");
            }
        }
        adapters(&model)?;
    }
    Ok(())
}

fn device() -> Result<Device, DeviceError> {
    std::env::var("PALINODE_TEST_DEVICE").as_deref().unwrap_or("cpu").parse().and_then(DeviceSpec::open)
}

/// Of one length for 8, else of as many lengths as prompts.
fn prompts(count: usize, length: usize) -> Vec<Prompt> {
    let length = |at: usize| if length == 8 { 8 } else { length - at };
    (0..count)
        .map(|at| Prompt::new((0..length(at)).map(|token| 4 + ((at * 31 + token * 7) % 70) as u32).collect()))
        .collect()
}

fn best_of<T, E>(runs: usize, mut run: impl FnMut() -> Result<T, E>) -> Result<f64, E> {
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Reading a base against putting another adapter on one that is there.
fn adapters(base: &CausalLm) -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("palinode-decode-speed-{}", std::process::id()));
    base.save(&folder.join("base"))?;
    let mut adapted = base.clone();
    let config = LoraConfig::peft_default(base.config().family, 8);
    lora::attach(&mut adapted, &config, 1)?;
    peft::save_adapter(&adapted, &config, "base", &folder.join("adapter"))?;
    let (base_files, adapter) = (ModelFiles::folder(folder.join("base"))?, ModelFiles::folder(folder.join("adapter"))?);
    let device = device()?;
    let read = best_of(3, || CausalLm::load(&base_files, &device))?;
    let swap = best_of(3, || peft::with_adapter(base, &adapter))?;
    println!("reading the base: {:.2} ms; another adapter on it: {:.2} ms", read * 1e3, swap * 1e3);
    Ok(std::fs::remove_dir_all(&folder)?)
}
