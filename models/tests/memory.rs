//! What a training step holds at its peak, counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use palinode_models::train::{Example, Length, TrainConfig, train};
use palinode_models::{CausalLm, ModelConfig};

/// Counts the bytes that are held, and the most that were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator that passes everything on")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

/// MiB that a step on one text of so many tokens holds at its peak, beside the model.
fn peak(config: &ModelConfig, tokens: u32, change: impl FnOnce(&mut TrainConfig)) -> f64 {
    let model = CausalLm::random(config.clone(), 1, &Device::flex()).unwrap();
    let ids = (0..=tokens).map(|at| at * 31 % config.vocab_size as u32).collect();
    let mut how = TrainConfig { length: Length::Steps(1), micro_batch: 1, ..TrainConfig::default() };
    change(&mut how);
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    train(model, &[Example { ids, loss_from: 0 }], &how, |_, _| ControlFlow::Continue(())).unwrap();
    (PEAK.load(Ordering::Relaxed) - before) as f64 / f64::from(1 << 20)
}

/// One test, since all share the count.
#[test]
fn peaks() {
    // Logits of 256 tokens would be 40 MiB, of 1024 tokens 160 MiB; the model itself has 4 MiB.
    let wide = ModelConfig::gpt2(40_960, 1024, 16, 1, 2);
    let chunked = |tokens| peak(&wide, tokens, |config| config.logits = 64 * 40_960);
    let (short, long) = (chunked(256), chunked(1024));
    // What grows is attention: scores of 1024 x 1024 and what is made of them.
    assert!(long - short < 80.0, "{short} MiB for 256 tokens, {long} MiB for 1024");
    let whole = peak(&wide, 1024, |config| config.logits = usize::MAX);
    assert!(whole > 160.0 && long < whole - 80.0, "{long} MiB in chunks, {whole} MiB at once");

    // With blocks recomputed, another block adds what goes into it, and no activations.
    let deep = |layers| ModelConfig::gpt2(64, 256, 64, layers, 4);
    let of = |layers, recompute| peak(&deep(layers), 256, |config| config.recompute = recompute);
    let kept = of(12, false) - of(4, false);
    let recomputed = of(12, true) - of(4, true);
    assert!(recomputed < kept / 3.0, "8 more blocks take {recomputed} MiB recomputed, {kept} MiB kept");
}
