//! What the loop does and refuses to do.

use std::ops::ControlFlow;

use palinode_models::CausalLm;
use palinode_models::lora::{self, LoraConfig, Targets};
use palinode_models::model::values;
use palinode_models::train::{
    AdamW, Evaluate, Example, Keep, Length, StepReport, TrainConfig, TrainError, Trained, evaluate, train,
};

use crate::fixtures::{MODELS, own, silent};

#[test]
fn the_control_trains_the_weights_that_lora_would_adapt() {
    let targets = Targets::Names(vec!["c_attn".into()]);
    let config = TrainConfig { trained: Trained::Weights(targets), ..TrainConfig::default() };
    let (tuned, report) = train(own().base("gpt2"), &own().examples("gpt2"), &config, silent).unwrap();
    assert_eq!(report.trained_parameters, 3 * 64 * 192);
    let changed: Vec<_> = lora::delta_norms(&own().base("gpt2"), &tuned).into_keys().collect();
    let expected: Vec<_> = (0..3).map(|at| format!("transformer.h.{at}.attn.c_attn.weight")).collect();
    assert_eq!(changed, expected);
    assert_eq!(report.delta_norms.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(report.delta_norm > 0.0);
}

#[test]
fn lora_leaves_the_base_alone_and_dropout_follows_the_seed() {
    let run = |dropout, seed| {
        let mut model = own().base("llama");
        let config = LoraConfig { dropout, ..LoraConfig::paper_text(4) };
        lora::attach(&mut model, &config, 0).unwrap();
        let config =
            TrainConfig { trained: Trained::Adapters, rate: 1e-2, shuffle: false, seed, ..TrainConfig::default() };
        train(model, &own().examples("llama"), &config, silent).unwrap()
    };
    let (tuned, report) = run(0.3, 1);
    assert_eq!(tuned.tensors(), own().base("llama").tensors());
    assert_eq!(report, run(0.3, 1).1);
    assert_ne!(report.steps, run(0.3, 2).1.steps);
    assert_ne!(report.steps, run(0.0, 1).1.steps);
    assert_eq!(run(0.0, 1).1.steps, run(0.0, 2).1.steps);
}

#[test]
fn a_run_that_cannot_go_on_says_why() {
    let fails = |examples: &[Example], config: TrainConfig| {
        train(own().base("gpt2"), examples, &config, silent).map(drop).unwrap_err().to_string()
    };
    let ids = |len: u32| Example { ids: (0..len).collect(), loss_from: 0 };
    assert_eq!(fails(&[], TrainConfig::default()), "there are no examples to train on");
    assert_eq!(
        fails(&[ids(4), ids(1)], TrainConfig::default()),
        "example 1 has no token to predict: it has 1, and the loss begins behind them"
    );
    assert_eq!(fails(&[ids(66)], TrainConfig::default()), "65 tokens do not fit the model's context of 64");
    assert_eq!(
        fails(&[ids(40), ids(30)], TrainConfig { packing: Some(70), ..TrainConfig::default() }),
        "packing makes a row of 68 tokens, and the model's context is 64: pack into rows of at most that"
    );
    assert_eq!(
        fails(&[ids(4)], TrainConfig { trained: Trained::Adapters, ..TrainConfig::default() }),
        "the model has no adapters to train"
    );
    assert_eq!(
        fails(&[ids(4)], TrainConfig { micro_batch: 0, ..TrainConfig::default() }),
        "training's micro_batch is 0, expected at least 1"
    );
    for (config, message) in [
        (
            TrainConfig { rate: f64::NAN, ..TrainConfig::default() },
            "training's rate is NaN, expected a number from 0 up",
        ),
        (
            TrainConfig { clip: Some(f64::NAN), ..TrainConfig::default() },
            "training's clip is NaN, expected a positive number",
        ),
        (
            TrainConfig { adamw: AdamW { beta2: 1.0, ..AdamW::default() }, ..TrainConfig::default() },
            "training's beta2 is 1, expected a number from 0 to below 1",
        ),
        (TrainConfig { packing: Some(0), ..TrainConfig::default() }, "training's packing is 0, expected at least 1"),
        (
            TrainConfig {
                evaluate: Some(Evaluate { every: 1, patience: Some(0), keep: Keep::Last }),
                ..TrainConfig::default()
            },
            "training's evaluate.patience is 0, expected at least 1",
        ),
        (
            TrainConfig {
                evaluate: Some(Evaluate { every: 1, patience: None, keep: Keep::Last }),
                ..TrainConfig::default()
            },
            "there are no examples to train on",
        ),
    ] {
        assert_eq!(fails(&[ids(4)], config), message);
    }
    let broken = TrainConfig {
        rate: 1e30,
        length: Length::Steps(9),
        decay_vectors: true,
        weight_decay: 1e9,
        ..TrainConfig::default()
    };
    let message = fails(&[ids(4)], broken);
    assert!(message.starts_with("the loss became NaN at step 2 (learning rate 8.8"), "{message}");
    let stop = |report: &StepReport, total| {
        assert_eq!(total, 20);
        if report.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let config = TrainConfig { length: Length::Epochs(4), ..TrainConfig::default() };
    let cancelled = train(own().base("gpt2"), &own().examples("gpt2"), &config, stop);
    assert!(matches!(cancelled, Err(TrainError::Cancelled { step: 2 })));
}

#[test]
fn a_last_window_that_is_not_full_is_a_step_of_its_own() {
    let examples = &own().examples("llama")[..7];
    let config = TrainConfig { micro_batch: 2, accumulation: 2, length: Length::Epochs(2), ..TrainConfig::default() };
    let (_, report) = train(own().base("llama"), examples, &config, silent).unwrap();
    assert_eq!((report.steps.len(), report.examples, report.effective_batch), (4, 14, 4));
    let tokens: usize = examples.iter().map(|example| example.ids.len() - 1).sum();
    assert_eq!(report.tokens, 2 * tokens);
}

/// Gradients of LoRA's factors against central differences of the loss.
#[test]
fn lora_gradients_match_finite_differences() {
    for name in MODELS {
        let examples = &own().examples(name)[..2];
        let (model, _) = own().adapted(name, "r4/plain");
        let path = model.adapters().into_keys().next_back().unwrap();
        // One plain-gradient step: AdamW's first moment is (1 - beta1) g, and with a huge eps the update is
        // proportional to the gradient itself, so the change of a factor shows its gradient.
        let eps = 1e6;
        let adamw = palinode_models::train::AdamW { eps, ..Default::default() };
        let config = TrainConfig {
            trained: Trained::Adapters,
            rate: eps,
            adamw,
            clip: None,
            decay: palinode_models::train::Decay::Constant,
            micro_batch: 2,
            length: Length::Steps(1),
            ..TrainConfig::default()
        };
        let (tuned, _) = train(model.clone(), examples, &config, silent).unwrap();
        for factor in ['a', 'b'] {
            let of = |model: &CausalLm| {
                let adapter = model.adapters().remove(&path).unwrap();
                let param = if factor == 'a' { adapter.a } else { adapter.b };
                param.val()
            };
            let (before, after) = (values(of(&model)), values(of(&tuned)));
            for at in [0, 7, before.len() / 2, before.len() - 1] {
                let gradient = f64::from(before[at]) - f64::from(after[at]);
                let loss = |shift: f32| {
                    let mut moved = model.clone();
                    moved.each_linear(|linear_path, linear| {
                        if linear_path == path
                            && let Some(adapter) = &mut linear.lora
                        {
                            let param = if factor == 'a' { &mut adapter.a } else { &mut adapter.b };
                            let (dims, device) = (param.val().dims(), param.val().device());
                            let mut values = values(param.val());
                            values[at] += shift;
                            *param = burn::module::Param::from_tensor(palinode_models::layers::ops::from_vec(
                                values, dims, &device,
                            ));
                        }
                    });
                    evaluate(&moved, examples, 2).unwrap()
                };
                let step = 2e-2f32;
                let numeric = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
                let allowed = 2e-3 + 0.02 * numeric.abs();
                assert!((gradient - numeric).abs() < allowed, "{name} {factor}[{at}]: {gradient} for {numeric}");
            }
        }
    }
}

#[test]
fn padding_and_the_prompt_do_not_enter_the_loss() {
    let model = own().base("gpt2");
    let long = Example { ids: (1..12).collect(), loss_from: 9 };
    let short = Example { ids: vec![7, 8, 9], loss_from: 2 };
    let alone = |example: &Example| evaluate(&model, std::slice::from_ref(example), 1).unwrap();
    let together = evaluate(&model, &[long.clone(), short.clone()], 2).unwrap();
    let weighted = (2.0 * alone(&long) + alone(&short)) / 3.0;
    assert!((together - weighted).abs() < 1e-5, "{together} {weighted}");
    let prefix = Example { ids: (1..11).collect(), loss_from: 9 };
    let last = Example { ids: (1..12).collect(), loss_from: 10 };
    assert!((alone(&long) - (alone(&prefix) + alone(&last)) / 2.0).abs() < 1e-5);
}
