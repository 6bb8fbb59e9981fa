//! Milliseconds per training step of the quickstart's shape, by threads and by what is trained:
//! `cargo run --release -p palinode-models --example train_speed [STEPS] [large]`, on the device that
//! `PALINODE_TEST_DEVICE` names; `large` adds a GPT-2 of 124 M, 4 x 128 tokens.
#![expect(clippy::print_stdout, reason = "a program that is run by hand")]

use std::ops::ControlFlow;
use std::time::Instant;

use palinode_models::lora::{self, LoraConfig};
use palinode_models::train::{Example, Length, Precision, TrainConfig, Trained, train};
use palinode_models::{CausalLm, Device, DeviceError, DeviceSpec, ModelConfig};

fn main() -> Result<(), Failed> {
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
    if std::env::args().nth(2).as_deref() == Some("large") {
        large(steps)?;
    }
    Ok(())
}

fn device() -> Result<Device, DeviceError> {
    std::env::var("PALINODE_TEST_DEVICE").as_deref().unwrap_or("cpu").parse().and_then(DeviceSpec::open)
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A GPT-2 as it is usual: what a step costs where arithmetic is all there is.
fn large(steps: usize) -> Result<(), Failed> {
    const ROWS: usize = 4;
    const TOKENS: u32 = 128;
    let ids = |at: u32| (0..TOKENS + 1).map(|i| (at * 8191 + i * i * 31) % 50257).collect();
    let examples: Vec<Example> = (0..32).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
    for (name, rank) in [("full", None), ("LoRA r=8", Some(8))] {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut model = CausalLm::random(ModelConfig::gpt2(50257, 1024, 768, 12, 12), 0, &device()?)?;
            let mut config = TrainConfig { micro_batch: ROWS, precision, ..TrainConfig::default() };
            if let Some(rank) = rank {
                lora::attach(&mut model, &LoraConfig::paper_text(rank), 0)?;
                config.trained = Trained::Adapters;
            }
            // The first steps compile kernels and find the fastest.
            let warm = TrainConfig { length: Length::Steps(3), ..config.clone() };
            let go = |_: &_, _: usize| ControlFlow::Continue(());
            let (model, _) = train(model, &examples, &warm, go)?;
            config.length = Length::Steps(steps);
            let start = Instant::now();
            train(model, &examples, &config, go)?;
            let seconds = start.elapsed().as_secs_f64() / steps as f64;
            let rate = (ROWS as f64 * f64::from(TOKENS)) / seconds;
            println!(
                "GPT-2 of 124 M, {name}, {precision:?}: {:.1} ms per step of 4 x 128, {rate:.0} tokens/s",
                seconds * 1e3
            );
        }
    }
    Ok(())
}

fn milliseconds(steps: usize, rank: Option<usize>, loss_from: usize) -> Result<(f64, f64), Failed> {
    let mut model = CausalLm::random(ModelConfig::gpt2(80, 8, 64, 2, 4), 0, &device()?)?;
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
