//! Products in bfloat16: close to f32, and only products.

use palinode_models::train::{Length, Precision, TrainConfig, TrainReport, Trained, train};
use palinode_models::{CausalLm, lora};

use crate::fixtures::{MODELS, own, silent};

fn run(model: CausalLm, name: &str, trained: Trained, precision: Precision) -> (CausalLm, TrainReport) {
    let config = TrainConfig {
        length: Length::Steps(8),
        micro_batch: 4,
        trained,
        precision,
        rate: 1e-3,
        ..TrainConfig::default()
    };
    train(model, &own().examples(name), &config, silent).unwrap()
}

/// 8 bits of significand: products are off by some 0.4%, losses of 7 nats by some hundredths.
#[test]
fn losses_are_close_to_those_in_f32() {
    for name in MODELS {
        let adapted = own().adapted(name, "r8/plain").0;
        for (model, trained) in [(own().base(name), Trained::All), (adapted, Trained::Adapters)] {
            let (full, exact) = run(model.clone(), name, trained.clone(), Precision::F32);
            let (half, rounded) = run(model, name, trained.clone(), Precision::Bf16);
            for (a, b) in exact.steps.iter().zip(&rounded.steps) {
                assert!((a.loss - b.loss).abs() < 0.02 * a.loss, "{name}: {} {}", a.loss, b.loss);
                assert!((a.gradient_norm - b.gradient_norm).abs() < 0.1 * a.gradient_norm, "{name}: {a:?} {b:?}");
                assert_ne!(a.loss, b.loss, "nothing was rounded");
            }
            let falls = |report: &TrainReport| report.steps[7].loss < report.steps[0].loss;
            assert!(falls(&exact) && falls(&rounded), "{name}");
            assert!((exact.delta_norm - rounded.delta_norm).abs() < 0.1 * exact.delta_norm, "{name}");
            if trained == Trained::Adapters {
                // The base comes back as it was, not rounded.
                assert!(full.tensors() == half.tensors());
                assert!(lora::has_adapters(&half));
            }
        }
    }
}

/// Weights and moments stay f32: steps that are too small for bf16 (which has 8 bits) still add up.
#[test]
fn small_steps_are_not_lost() {
    let config =
        TrainConfig { length: Length::Steps(3), rate: 1e-7, precision: Precision::Bf16, ..TrainConfig::default() };
    let (_, report) = train(own().base("llama"), &own().examples("llama"), &config, silent).unwrap();
    assert!(report.delta_norms.len() > 20, "{:?}", report.delta_norms);
}
