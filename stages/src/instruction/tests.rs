use palinode_engine::stage::StageError;
use serde_json::{Value, json};

use super::{finetune::FinetuneInstruction, predict::PredictInstruction};
use crate::{
    records::{DATASET, PREDICTIONS, Prediction},
    testing::{Bench, Done, problems, tiny},
};

fn instruction() -> Value {
    json!({ "template": "{text} look", "options": { "late": "tardy", "cool": "calm" } })
}

fn examples() -> [Value; 2] {
    let one =
        |text: &str, label: &str| json!({ "id": text, "text": text, "label": label, "group": label, "split": "test" });
    [one("bakers are always", "cool"), one("smiths are", "late")]
}

fn tune(model: &Done, with: Value) -> Result<Done, StageError> {
    let mut params = json!({ "instruction": instruction(), "learning_rate": 0.02, "epochs": 40, "weight_decay": 0.0 });
    params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    let bench = Bench::new().input("model", model.outputs["model"].clone());
    bench.rows("data", DATASET, &examples()).run::<FinetuneInstruction>(params)
}

fn ask(model: &Done, with: Value) -> Done {
    let mut params = json!({ "instruction": instruction(), "max_new_tokens": 2 });
    params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    let bench = Bench::new().input("model", model.outputs["model"].clone());
    bench.rows("data", DATASET, &examples()).run::<PredictInstruction>(params).unwrap()
}

fn said(done: &Done) -> Vec<Option<String>> {
    done.rows::<Prediction>("predictions", PREDICTIONS).into_iter().map(|row| row.predicted).collect()
}

#[test]
fn answers_are_learned_written_and_chosen() {
    let base = tiny::pretrained(json!({}));
    let right = [Some("cool".to_owned()), Some("late".to_owned())];
    for rank in [json!(4), json!("full")] {
        let tuned = tune(&base, json!({ "rank": rank })).unwrap();
        let (written, chosen) = (ask(&tuned, json!({})), ask(&tuned, json!({ "decide": "constrained" })));
        assert_eq!((said(&written).as_slice(), said(&chosen).as_slice()), (&right[..], &right[..]), "{rank}");
        let rows: Vec<Prediction> = written.rows("predictions", PREDICTIONS);
        assert!(rows[0].probabilities.is_empty() && rows[0].answer.as_ref().is_some_and(|said| said.contains("calm")));
        let rows: Vec<Prediction> = chosen.rows("predictions", PREDICTIONS);
        assert!(rows[0].probabilities["cool"] > 0.5 && rows[0].answer.is_none());
    }
    // Before, it says nothing of the kind.
    let before =
        ask(&base, json!({ "instruction": { "options": { "late": "never", "cool": "ever" }, "template": "{text}" } }));
    assert_eq!((said(&before), &before.summary["answers_without_an_option"]), (vec![None, None], &json!(2)));
}

#[test]
fn a_prompt_is_filled_in_one_pass_and_a_long_text_is_cut() {
    let instruction: super::Instruction = serde_json::from_value(json!({
        "template": "{options}? {text}!", "options": { "1": "a", "2": " b", "3": "c" },
    }))
    .unwrap();
    insta::assert_snapshot!(instruction.prompt("{options} {text}"), @"a, b or c? {options} {text}!");
    let base = tiny::pretrained(json!({ "steps": 1 }));
    let long = json!({ "id": "x", "text": "bakers are always tardy ".repeat(5), "label": "late", "group": "g", "split": "test" });
    let bench =
        Bench::new().input("model", base.outputs["model"].clone()).rows("data", DATASET, std::slice::from_ref(&long));
    let done =
        bench.run::<PredictInstruction>(json!({ "instruction": super::tests::instruction(), "max_new_tokens": 2 }));
    assert_eq!(done.unwrap().summary["texts_cut"], 1);
    let bench = Bench::new().input("model", base.outputs["model"].clone()).rows("data", DATASET, &[long]);
    let done =
        bench.run::<PredictInstruction>(json!({ "instruction": super::tests::instruction(), "max_new_tokens": 7 }));
    insta::assert_snapshot!(done.err().unwrap(), @"the prompt's template alone has more than the 1 tokens that the model leaves for it: shorten it");
}

#[test]
fn what_is_wrong_is_told() {
    let base = tiny::pretrained(json!({ "steps": 1 }));
    let with = json!({ "rank": 2, "instruction": { "options": { "late": "tardy", "warm": "calm" } } });
    insta::assert_snapshot!(tune(&base, with).err().unwrap(), @"1 of 2 examples have a label that is not among the options (`cool` of `bakers are always` is the first); the options are for late, warm");
    let with = json!({ "rank": 0, "instruction": { "template": "x", "options": { "a": "x", "b": "X " } } });
    insta::assert_snapshot!(problems::<FinetuneInstruction>(with), @"
    rank: 0 is too few, give at least 1
    instruction.template: `{text}` must stand in it once, not 0 times
    instruction.options: answers must be different, and none empty
    ");
    insta::assert_snapshot!(problems::<PredictInstruction>(json!({ "instruction": { "options": { "a": "x" } }, "max_new_tokens": 0 })), @"
    max_new_tokens: 0 is too few, give at least 1
    instruction.options: give an answer for each of two or more labels
    ");
}

#[test]
fn bytes_are_those_of_this_revision() {
    let base = tiny::pretrained(json!({ "steps": 3 }));
    let tuned = tune(&base, json!({ "rank": 2, "epochs": 3 })).unwrap();
    insta::assert_snapshot!(tuned.digest(), @"
    curve 08b2e95ac489
    model 719228085f41
    ");
    insta::assert_snapshot!(ask(&tuned, json!({})).digest(), @"predictions 6579aae7506a");
    insta::assert_snapshot!(ask(&tuned, json!({ "decide": "constrained" })).digest(), @"predictions 597638ae7c2b");
}
