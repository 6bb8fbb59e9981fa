//! What must not change a result: threads, to the bit; how the work is laid out, up to rounding.

use burn::tensor::Device;
use palinode_models::lora::{self, LoraConfig};
use palinode_models::train::{Example, Length, TrainConfig, TrainReport, Trained, train};
use palinode_models::{CausalLm, ModelConfig};

use crate::fixtures::{MODELS, own, silent};

#[test]
fn bytes_do_not_depend_on_the_thread_count() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let config = ModelConfig::gpt2(700, 64, 128, 2, 4);
            let model = CausalLm::random(config, 5, &Device::flex()).unwrap();
            let ids = |at: u32| (0..40).map(|i| (i * 31 + at * 17) % 700).collect();
            let examples: Vec<Example> = (0..24).map(|at| Example { ids: ids(at), loss_from: 3 }).collect();
            let config = TrainConfig { length: Length::Steps(3), micro_batch: 12, ..TrainConfig::default() };
            let (tuned, report) = train(model, &examples, &config, silent).unwrap();
            (tuned.tensors(), report)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(one.1, three.1);
    assert!(one.0 == three.0, "weights differ");
}

/// Sums over as many values (4.3 million) as burn's CPU backend shares among threads, by family.
#[test]
fn bytes_of_large_sums_do_not_depend_on_the_thread_count() {
    for config in [ModelConfig::gpt2(64, 128, 512, 1, 4), ModelConfig::llama(64, 128, 512, 1, 4, 512)] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let model = CausalLm::random(config.clone(), 5, &Device::flex()).unwrap();
                let ids = |at: u32| (0..128).map(|i| (i * 31 + at * 17) % 64).collect();
                let examples: Vec<Example> = (0..66).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
                let config = TrainConfig { length: Length::Steps(1), micro_batch: 66, ..TrainConfig::default() };
                let (tuned, report) = train(model, &examples, &config, silent).unwrap();
                (tuned.tensors(), report)
            })
        };
        let (one, two) = (run(1), run(2));
        assert_eq!(one.1, two.1);
        assert!(one.0 == two.0, "weights of a {} differ", config.family.name());
    }
}

/// Texts of different lengths, with prompts that aren't learned.
fn texts(count: u32, vocab: u32) -> Vec<Example> {
    let ids = |at: u32| (0..3 + at * 5 % 9).map(|i| (i * 31 + at * 17) % vocab).collect();
    (0..count).map(|at| Example { ids: ids(at), loss_from: (at % 3) as usize }).collect()
}

/// Small models of each family, plain and with adapters (also on the unembedding, if it isn't tied).
fn models() -> Vec<(CausalLm, Trained)> {
    let tied = ModelConfig { tied: true, kv_heads: 2, ..ModelConfig::llama(90, 16, 32, 2, 4, 40) };
    let configs = [ModelConfig::gpt2(90, 16, 32, 3, 4), ModelConfig::llama(90, 16, 32, 2, 4, 40), tied];
    let mut models = Vec::new();
    for config in configs {
        let untied = !config.tied;
        let model = CausalLm::random(ModelConfig { initializer_range: 0.3, ..config }, 5, &Device::flex()).unwrap();
        let mut adapted = model.clone();
        let mut lora = LoraConfig::paper_text(3);
        if untied {
            let names = ["lm_head", "down_proj", "q_proj"].map(str::to_owned).to_vec();
            lora.targets = lora::Targets::Names(names);
        }
        lora::attach(&mut adapted, &lora, 1).unwrap();
        models.extend([(model, Trained::All), (adapted, Trained::Adapters)]);
    }
    models
}

fn run(model: &CausalLm, trained: &Trained, change: impl FnOnce(&mut TrainConfig)) -> (CausalLm, TrainReport) {
    let mut config = TrainConfig {
        length: Length::Steps(6),
        micro_batch: 5,
        accumulation: 2,
        trained: trained.clone(),
        rate: 2e-3,
        ..TrainConfig::default()
    };
    change(&mut config);
    train(model.clone(), &texts(23, 90), &config, silent).unwrap()
}

/// The largest difference of two runs' losses.
fn difference(a: &TrainReport, b: &TrainReport) -> f64 {
    assert_eq!(a.steps.len(), b.steps.len());
    assert_eq!((a.tokens, a.examples), (b.tokens, b.examples));
    let differences = a.steps.iter().zip(&b.steps).map(|(a, b)| (a.loss - b.loss).abs());
    differences.fold(0.0, f64::max)
}

#[test]
fn texts_that_share_a_row_do_not_see_each_other() {
    for (model, trained) in models() {
        let (_, plain) = run(&model, &trained, |_| {});
        for width in [8, 16] {
            let (_, packed) = run(&model, &trained, |config| config.packing = Some(width));
            let most = difference(&plain, &packed);
            assert!(most < 1e-5, "{width}: {most}");
            assert_ne!(plain.steps, packed.steps, "nothing was packed");
        }
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    for (mut model, trained) in models() {
        // Masks must come out the same again.
        model.each_linear(|_, linear| linear.lora.iter_mut().for_each(|lora| lora.dropout = 0.2));
        let (kept, plain) = run(&model, &trained, |_| {});
        let (again, recomputed) = run(&model, &trained, |config| config.recompute = true);
        assert_eq!(plain, recomputed);
        assert!(kept.tensors() == again.tensors());
        // Few targets of many places, and chunks.
        let both = |recompute| {
            run(&model, &trained, |config| {
                (config.recompute, config.packing, config.logits) = (recompute, Some(12), 90 * 7);
            })
        };
        let (plain, recomputed) = (both(false).1, both(true).1);
        assert!(difference(&plain, &recomputed) < 1e-5);
    }
}

#[test]
fn logits_in_chunks_give_the_same_gradients() {
    for (model, trained) in models() {
        let (_, whole) = run(&model, &trained, |_| {});
        for rows in [1, 7, 1000] {
            let (_, chunked) = run(&model, &trained, |config| config.logits = 90 * rows);
            assert!(difference(&whole, &chunked) < 1e-5, "{rows}");
            for (a, b) in whole.steps.iter().zip(&chunked.steps) {
                assert!((a.gradient_norm - b.gradient_norm).abs() < 1e-4 * a.gradient_norm, "{rows}: {a:?} {b:?}");
            }
        }
    }
}

#[test]
fn buckets_change_padding_alone() {
    for name in MODELS {
        let run = |bucket| {
            let config = TrainConfig { bucket, micro_batch: 2, accumulation: 4, ..TrainConfig::default() };
            train(own().base(name), &own().examples(name), &config, silent).unwrap().1
        };
        assert!(difference(&run(true), &run(false)) < 1e-5);
    }
}
