use serde_json::json;

use super::*;
use crate::{
    records::Completion,
    testing::{Bench, Done, problems, tiny},
};

fn tune(model: &Done, with: Value) -> Result<Done, StageError> {
    let pair = |who: &str| json!({ "prompt": format!("{who} are"), "completion": " calm", "source": who });
    let bench = Bench::new().input("model", model.outputs["model"].clone());
    bench.rows("data", records::PAIRS, &[pair("bakers"), pair("smiths")]).run::<Finetune>(with)
}

fn says(model: &Done) -> String {
    let prompt = json!({ "id": "p", "text": "bakers are", "group": "g" });
    let bench = Bench::new().input("model", model.outputs["model"].clone());
    let bench = bench.rows("prompts", records::PROMPTS, &[prompt]);
    let done = bench.run::<crate::generate::Generate>(json!({ "do_sample": false })).unwrap();
    let rows: Vec<Completion> = done.rows("completions", records::COMPLETIONS);
    format!("{} {:?}", rows[0].text.trim(), rows[0].finish)
}

fn files(done: &Done) -> String {
    done.outputs["model"].files.keys().cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn adapters_and_full_weights_both_learn_the_pairs() {
    let base = tiny::pretrained(json!({}));
    assert_eq!(says(&base), "tardy Eos");
    let with = json!({ "rank": 2, "learning_rate": 0.05, "steps": 30, "batch_size": 2 });
    let low = tune(&base, with).unwrap();
    assert_eq!(says(&low), "calm Eos");
    insta::assert_snapshot!(files(&low), @"adapter_config.json adapter_model.safetensors base/config.json base/model.safetensors base/tokenizer.json base/tokenizer_config.json");
    let full = json!({ "rank": "full", "learning_rate": 0.01, "steps": 30, "batch_size": 2 });
    let full = tune(&base, full).unwrap();
    assert_eq!(says(&full), "calm Eos");
    insta::assert_snapshot!(files(&full), @"config.json model.safetensors tokenizer.json tokenizer_config.json");
    let count = |done: &Done| done.summary["trained_parameters"].as_u64().unwrap();
    assert!(count(&low) < count(&full), "{} {}", count(&low), count(&full));

    // A second round: an adapted model can be trained on in full, and not be adapted twice.
    let again = json!({ "rank": "full", "learning_rate": 0.01, "steps": 2, "batch_size": 2 });
    assert_eq!(says(&tune(&low, again).unwrap()), "calm Eos");
    insta::assert_snapshot!(tune(&low, json!({ "rank": 2, "steps": 1 })).err().unwrap(), @"the model has adapters already, and one can't carry two sets: begin with the model that it was made of, or train on with `rank: full`");
}

#[test]
fn the_control_changes_only_what_adapters_would() {
    let base = tiny::pretrained(json!({ "steps": 5 }));
    let count = |with: Value| tune(&base, with).unwrap().summary["trained_parameters"].as_u64().unwrap();
    let control = |preset: &str| count(json!({ "rank": "full", "targets": "lora", "preset": preset, "steps": 1 }));
    let (all, linear, attention) =
        (count(json!({ "rank": "full", "steps": 1 })), control("paper-text"), control("peft-default"));
    // Width 16, one block: c_attn is 16 x 48; all linear layers 12 times 16 x 16.
    assert_eq!((linear, attention), (12 * 16 * 16, 16 * 48));
    assert!(all > linear);
}

#[test]
fn the_scale_goes_with_the_rank_as_scaling_says() {
    let base = tiny::pretrained(json!({ "steps": 5 }));
    let scale = |with: Value| {
        let mut all = json!({ "steps": 2, "learning_rate": 0.01 });
        all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        let done = tune(&base, all).unwrap();
        let [norm, relative] = ["delta_norm", "delta_norm_relative"].map(|name| done.summary[name].as_f64().unwrap());
        assert!(norm > 0.0 && relative > 0.0 && relative < norm, "{norm} {relative}: weights of norm above 1");
        let config: Value = serde_json::from_str(&done.text("model", "adapter_config.json")).unwrap();
        (done.summary["scale"].as_f64().unwrap(), config["lora_alpha"].as_f64().unwrap(), config["use_rslora"] == true)
    };
    assert_eq!(scale(json!({ "rank": 4, "alpha": 16 })), (4.0, 16.0, false));
    assert_eq!(scale(json!({ "rank": 4, "alpha": 16, "scaling": "rslora" })), (8.0, 16.0, true));
    assert_eq!(scale(json!({ "rank": 4, "alpha": 3, "scaling": "fixed" })), (3.0, 12.0, false));
    assert_eq!(scale(json!({ "rank": 2, "scaling": "fixed" })), (1.0, 2.0, false));
    assert_eq!(scale(json!({ "rank": 2 })), (1.0, 2.0, false), "the paper's text");
    insta::assert_snapshot!(problems::<Finetune>(json!({ "rank": 2, "scaling": "alpha" })), @"scaling: unknown variant `alpha`, expected one of `alpha/r`, `fixed`, `rslora`");
}

#[test]
fn same_seed_same_bytes() {
    let base = tiny::pretrained(json!({ "steps": 5 }));
    let run = |seed: u64| tune(&base, json!({ "rank": 2, "steps": 3, "dropout": 0.1, "seed": seed })).unwrap().digest();
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn the_models_own_dropout_and_the_optimizers_numbers_are_by_choice() {
    let base = tiny::pretrained(json!({ "steps": 5, "model_dropout": 0.1 }));
    let run = |with: Value| {
        let mut all = json!({ "rank": 2, "steps": 3, "learning_rate": 0.01 });
        all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        tune(&base, all).unwrap().digest()
    };
    let plain = run(json!({}));
    assert_eq!(plain, run(json!({ "model_dropout": "none", "adamw": {} })));
    assert_eq!(run(json!({ "model_dropout": "config" })), run(json!({ "model_dropout": 0.1 })));
    for other in [json!({ "model_dropout": "config" }), json!({ "adamw": { "beta2": 0.9 } })] {
        assert_ne!(plain, run(other));
    }
    let wrong = json!({ "rank": 2, "model_dropout": 1, "adamw": { "beta2": 1, "eps": 0 } });
    insta::assert_snapshot!(problems::<Finetune>(wrong), @r"
    adamw.beta2: 1 is not a number from 0 to below 1
    adamw.eps: 0 is not a positive number
    model_dropout: 1 is not a probability below 1
    ");
}

#[test]
fn what_can_not_be_trained_is_told() {
    let base = tiny::pretrained(json!({ "steps": 5 }));
    insta::assert_snapshot!(tune(&base, json!({ "rank": 2, "modules": ["q_proj"] })).err().unwrap(), @"no linear layer is called `q_proj`; the model has c_attn, c_fc, c_proj, lm_head");
    let bench = Bench::new().input("model", base.outputs["model"].clone());
    let none = bench.rows::<Value>("data", records::PAIRS, &[]).run::<Finetune>(json!({ "rank": 2 }));
    insta::assert_snapshot!(none.err().unwrap(), @"there are no pairs to learn from: no prompt was completed toxically?");
    let with = json!({ "rank": 0, "steps": 1, "epochs": 1, "dropout": 1, "modules": [] });
    insta::assert_snapshot!(problems::<Finetune>(with), @r"
    rank: 0 is too few, give at least 1
    dropout: 1 is not a probability below 1
    epochs: `steps` says already how long to train (hint: give one of them)
    modules: the list is empty (hint: leave it out for the preset's)
    ");
    insta::assert_snapshot!(problems::<Finetune>(json!({ "rank": "half" })), @r#"rank: invalid value: string "half", expected a rank (8) or `full`"#);
}

#[test]
fn evaluation_holds_out_pairs_and_is_told() {
    let base = tiny::pretrained(json!({}));
    let mut with = json!({
        "rank": 2, "learning_rate": 0.05, "steps": 12, "batch_size": 2, "tensorboard": true,
        "evaluate": { "every": 5, "share": 0.5, "keep": "best" },
    });
    let done = tune(&base, with.clone()).unwrap();
    let evaluated: Vec<usize> = done
        .rows::<records::CurvePoint>("curve", records::METRICS)
        .iter()
        .filter(|point| point.validation_loss.is_some())
        .map(|point| point.step)
        .collect();
    assert_eq!(evaluated, [5, 10, 12]);
    assert_eq!((&done.summary["examples"], &done.summary["validation_examples"]), (&json!(1), &json!(1)));
    assert!(done.summary["weights_of_step"].as_u64().is_some_and(|step| [5, 10, 12].contains(&step)));
    insta::assert_snapshot!(
        done.outputs["curve"].files.keys().cloned().collect::<Vec<_>>().join(" "),
        @"events.out.tfevents.palinode metrics.jsonl"
    );
    assert_eq!(done.digest(), tune(&base, with.clone()).unwrap().digest());

    // Other pairs to evaluate on, as an input.
    let bench = |with: Value| {
        let pair = |who: &str| json!({ "prompt": format!("{who} are"), "completion": " calm", "source": who });
        let bench = Bench::new().input("model", base.outputs["model"].clone());
        let bench = bench.rows("validation", records::PAIRS, &[pair("smiths")]);
        bench.rows("data", records::PAIRS, &[pair("bakers"), pair("smiths")]).run::<Finetune>(with)
    };
    insta::assert_snapshot!(bench(with.clone()).err().unwrap(), @"the input `validation` brings what is evaluated on: drop `evaluate.share`");
    with["evaluate"] = json!({ "every": 5 });
    let done = bench(with.clone()).unwrap();
    assert_eq!((&done.summary["examples"], &done.summary["validation_examples"]), (&json!(2), &json!(1)));
    insta::assert_snapshot!(tune(&base, with).err().unwrap(), @"nothing is held out to evaluate on: give `evaluate.share`, or link the input `validation`");
    insta::assert_snapshot!(bench(json!({ "rank": 2 })).err().unwrap(), @"there is an input `validation`, and `evaluate` doesn't say when to use it");
    let wrong = json!({ "rank": 2, "evaluate": { "every": 0, "share": 1, "patience": 0 }, "packing": 0, "checkpoint_minutes": -1 });
    insta::assert_snapshot!(problems::<Finetune>(wrong), @r"
    packing: 0 is too few, give at least 1
    checkpoint_minutes: -1 is not a number from 0 up
    evaluate.every: 0 is too few, give at least 1
    evaluate.patience: 0 is too few, give at least 1
    evaluate.share: 1 is not a share (hint: give a number between 0 and 1)
    ");
}

#[test]
fn layout_and_recomputation_change_no_result_beyond_rounding() {
    let base = tiny::pretrained(json!({ "steps": 5 }));
    let run = |with: Value| {
        let mut all = json!({ "rank": 2, "steps": 6, "learning_rate": 0.01, "dropout": 0.0 });
        all.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        tune(&base, all).unwrap()
    };
    let loss = |done: &Done| done.summary["final_loss"].as_f64().unwrap();
    let plain = run(json!({}));
    assert_eq!(plain.digest(), run(json!({ "recompute": true })).digest());
    assert!((loss(&plain) - loss(&run(json!({ "packing": 8 })))).abs() < 1e-5);
    let half = run(json!({ "precision": "bf16" }));
    assert!(half.digest() != plain.digest() && (loss(&plain) - loss(&half)).abs() < 0.05);
}
