//! The model's own dropout: off unless asked for, the same on any number of threads and when blocks are computed again.

use palinode_models::config::DropoutRates;
use palinode_models::train::{
    Evaluate, Keep, Labelled, Length, LossPass, MaskedText, Masking, Sample, TrainConfig, TrainReport, Trainable,
    Trained, evaluate, train,
};
use palinode_models::{CausalLm, DropoutKey, Family, MaskedLm, ModelConfig, SequenceClassifier, train::Example};

use crate::fixtures::{own, silent};
use crate::support::device;

fn config(family: Family) -> ModelConfig {
    let shape = match family {
        Family::Gpt2 => ModelConfig::gpt2(60, 24, 16, 2, 2),
        Family::Opt => ModelConfig::opt(60, 24, 16, 2, 2, 24),
        Family::Llama => ModelConfig::llama(60, 24, 16, 2, 2, 24),
        Family::Bert => ModelConfig::bert(60, 24, 16, 2, 2, 24),
    };
    ModelConfig { initializer_range: 0.3, ..shape }
}

fn ids(at: u32) -> Vec<u32> {
    (0..9 + at % 5).map(|i| 5 + (at * 31 + i * i * 7) % 50).collect()
}

fn run<M: Trainable>(model: M, examples: &[M::Sample], with: TrainConfig) -> (M, TrainReport) {
    let config = TrainConfig { length: Length::Steps(4), micro_batch: 4, rate: 1e-2, ..with };
    train(model, examples, &config, silent).unwrap()
}

/// What holds for any model.
fn holds<M: Trainable + Send + Sync>(what: &str, model: &M, examples: &[M::Sample], rates: DropoutRates)
where
    M::Sample: Sized,
{
    let with = |rates, seed, recompute| TrainConfig { model_dropout: rates, seed, recompute, ..TrainConfig::default() };
    let train = |rates, recompute| run(model.clone(), examples, with(rates, 0, recompute));
    let (plain, report) = train(DropoutRates::default(), false);
    let (dropped, other) = train(rates, false);
    assert!(report.steps[0].loss != other.steps[0].loss, "{what}");
    assert!(other.steps.iter().all(|step| step.loss.is_finite() && step.gradient_norm > 0.0), "{what}");
    assert!(plain.tensors() != dropped.tensors(), "{what}");
    // The same on any number of threads, and by another seed another run.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let threads = pool.install(|| train(rates, false));
    assert!(threads.0.tensors() == dropped.tensors() && threads.1.steps == other.steps, "{what}");
    assert!(run(model.clone(), examples, with(rates, 1, false)).1.steps != other.steps, "{what}");
    // Blocks that are computed again have the same masks.
    let again = train(rates, true).1;
    for (a, b) in again.steps.iter().zip(&other.steps) {
        assert!(
            (a.loss - b.loss).abs() < 1e-5 && (a.gradient_norm - b.gradient_norm).abs() < 1e-4,
            "{what}: {a:?} {b:?}"
        );
    }
    // Nothing is dropped in an evaluation.
    assert_eq!(evaluate(model, examples, 4).unwrap(), evaluate(model, examples, 4).unwrap());
    let rows: Vec<&M::Sample> = examples.iter().take(4).collect();
    let key = |step, rates| LossPass { dropout: Some(DropoutKey { seed: 0, step, rates }), ..LossPass::plain() };
    let loss = |pass| model.loss(&rows, &pass).unwrap().into_scalar::<f32>();
    assert_ne!(loss(key(0, rates)), loss(key(0, DropoutRates::default())));
    assert_eq!(loss(key(3, rates)), loss(key(3, rates)));
    assert_ne!(loss(key(3, rates)), loss(key(4, rates)));
}

#[test]
fn every_family_drops_in_training_alone() {
    let texts: Vec<Example> = (0..8).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
    for family in [Family::Gpt2, Family::Opt, Family::Llama] {
        let model = CausalLm::random(config(family), 3, &device()).unwrap();
        holds(family.name(), &model, &texts, DropoutRates::of(family, 0.2));
    }
    for family in [Family::Gpt2, Family::Opt, Family::Bert] {
        let labels = (0..3).map(|label| label.to_string()).collect();
        let shape = ModelConfig { labels, pad: Some(0), ..config(family) };
        let model = SequenceClassifier::random(shape, 3, &device()).unwrap();
        let label = |at: u32| Labelled { ids: ids(at), types: Vec::new(), label: at % 3, weight: 1.0 };
        let texts: Vec<Labelled> = (0..8).map(label).collect();
        holds(&format!("{} classifier", family.name()), &model, &texts, DropoutRates::of(family, 0.2));
    }
}

/// Each place has a mask of its own, and each rate says something.
#[test]
fn each_rate_counts() {
    let texts: Vec<Example> = (0..4).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
    let rows: Vec<&Example> = texts.iter().collect();
    let model = CausalLm::random(config(Family::Gpt2), 3, &device()).unwrap();
    let none = DropoutRates::default();
    let all = [
        none,
        DropoutRates { embedding: 0.3, ..none },
        DropoutRates { hidden: 0.3, ..none },
        DropoutRates { attention: 0.3, ..none },
    ];
    let losses = all.map(|rates| {
        let pass = LossPass { dropout: Some(DropoutKey { seed: 0, step: 0, rates }), ..LossPass::plain() };
        model.loss(&rows, &pass).unwrap().into_scalar::<f32>().to_bits()
    });
    let distinct: std::collections::BTreeSet<u32> = losses.into_iter().collect();
    assert_eq!(distinct.len(), 4);
    let wrong = TrainConfig { model_dropout: DropoutRates { hidden: 1.0, ..none }, ..TrainConfig::default() };
    let error = train(model, &texts, &wrong, silent).map(drop).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"training's model_dropout is 1, expected a probability below 1");
}

/// Adapters drop by their own rate, and the base by the model's.
#[test]
fn adapters_and_their_base_drop_apart() {
    let run = |rates| {
        let (model, _) = own().adapted("gpt2", "r2/init");
        let config = TrainConfig { trained: Trained::Adapters, model_dropout: rates, ..TrainConfig::default() };
        run(model, &own().examples("gpt2"), config)
    };
    let rates = DropoutRates::of(Family::Gpt2, 0.1);
    let (model, report) = run(rates);
    assert_eq!(model.tensors(), own().base("gpt2").tensors());
    assert_eq!(report, run(rates).1);
    assert_ne!(report.steps, run(DropoutRates::default()).1.steps);
}

fn masked(number: u64) -> MaskedText {
    let ids = [vec![2], ids(number as u32), vec![3]].concat();
    let places = (1..ids.len() - 1).collect();
    MaskedText { ids, places, number, masking: Masking { share: 0.2, mask: 4 } }
}

#[test]
fn a_masked_language_model_learns_to_guess() {
    let model = MaskedLm::random(config(Family::Bert), 3, &device()).unwrap();
    let texts: Vec<MaskedText> = (0..16).map(masked).collect();
    holds("masked", &model, &texts, DropoutRates::of(Family::Bert, 0.1));
    let config = TrainConfig {
        length: Length::Steps(400),
        micro_batch: 8,
        rate: 5e-3,
        evaluate: Some(Evaluate { every: 400, patience: None, keep: Keep::Last }),
        ..TrainConfig::default()
    };
    let before = evaluate(&model, &texts, 4).unwrap();
    let (tuned, report) =
        train(model.clone(), &texts, &TrainConfig { evaluate: None, ..config.clone() }, silent).unwrap();
    let after = evaluate(&tuned, &texts, 4).unwrap();
    assert!(after < before / 2.0, "{before} {after}");
    assert_eq!(report.tokens, report.examples / 16 * texts.iter().map(Sample::targets).sum::<usize>());
    // An evaluation takes out the same tokens each time, however many texts go through the model at once.
    for batch in [1, 5, 16] {
        assert!((evaluate(&tuned, &texts, batch).unwrap() - after).abs() < 1e-6, "{batch}");
    }
    // The unembedding in chunks of few rows.
    let chunked = |logits| {
        let config = TrainConfig { length: Length::Steps(5), logits, ..config.clone() };
        train(model.clone(), &texts, &TrainConfig { evaluate: None, ..config }, silent).unwrap().1
    };
    for (a, b) in chunked(200).steps.iter().zip(&chunked(1 << 20).steps) {
        assert!((a.loss - b.loss).abs() < 1e-5 && (a.gradient_norm - b.gradient_norm).abs() < 1e-4, "{a:?} {b:?}");
    }
    let none = MaskedText { places: Vec::new(), ..masked(0) };
    let error = train(model.clone(), &[none], &config, silent).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("example 0 has no token to predict"), "{error}");
    let far = MaskedText { ids: vec![2, 99, 3], ..masked(0) };
    let far = MaskedText { places: vec![1], ..far };
    assert!(model.loss(&[&far], &LossPass::plain()).is_err());
}
