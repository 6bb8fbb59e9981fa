//! Milliseconds per training step of the quickstart's shape, by threads and by what is trained:
//! `cargo run --release -p palinode-models --example train_speed [STEPS]`.
#![expect(clippy::print_stdout, reason = "a program that is run by hand")]

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use palinode_models::lora::{self, LoraConfig};
use palinode_models::train::{Example, Length, TrainConfig, Trained, train};
use palinode_models::{CausalLm, ModelConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let steps = std::env::args().nth(1).and_then(|steps| steps.parse().ok()).unwrap_or(200);
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        for (name, rank, loss_from) in [("full, all tokens", None, 0), ("full", None, 3), ("LoRA r=8", Some(8), 3)] {
            let milliseconds = pool.install(|| milliseconds(steps, rank, loss_from))?;
            let (wall, cpu) = milliseconds;
            println!("{threads} threads, {name}: {wall:.2} ms per step of 128 x 5 ({cpu:.2} ms of CPU in the first)");
        }
    }
    // Independent runs side by side, each on a thread of its own.
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().ok()?;
                pool.install(|| milliseconds(steps, None, 0)).ok()
            });
        }
    });
    println!("2 runs side by side: {:.2} ms per step of each", start.elapsed().as_secs_f64() * 1e3 / steps as f64);
    Ok(())
}

fn milliseconds(
    steps: usize,
    rank: Option<usize>,
    loss_from: usize,
) -> Result<(f64, f64), palinode_models::train::TrainError> {
    let mut model = CausalLm::random(ModelConfig::gpt2(80, 8, 64, 2, 4), 0, &Device::flex())?;
    let mut config = TrainConfig { length: Length::Steps(steps), micro_batch: 128, ..TrainConfig::default() };
    if let Some(rank) = rank {
        lora::attach(&mut model, &LoraConfig::paper_text(rank), 0)?;
        config.trained = Trained::Adapters;
    }
    let ids = |at: u32| vec![0, 1 + at % 32, 33 + at % 8, 41 + at % 31, 79];
    let examples: Vec<Example> = (0..900).map(|at| Example { ids: ids(at), loss_from }).collect();
    let (start, cpu) = (Instant::now(), cpu_of_this_thread());
    train(model, &examples, &config, |_, _| ControlFlow::Continue(()))?;
    let per_step = 1e3 / steps as f64;
    Ok((start.elapsed().as_secs_f64() * per_step, (cpu_of_this_thread() - cpu) * per_step))
}

/// Seconds; 0 where the kernel doesn't tell.
fn cpu_of_this_thread() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}
