use palinode_engine::stage::{Of, StageKind as _};
use serde_json::json;

use super::*;
use crate::testing::{Bench, Done, problems, tiny};

fn run(model: &Done, with: Value, cpus: usize) -> Result<Done, StageError> {
    let prompts = ["bakers are", "smiths are", "smiths", "bakers are always"].map(|text| {
        json!({ "id": text, "text": text, "group": "g", "split": if text == "smiths" { "test" } else { "validation" } })
    });
    let bench = Bench::new().input("model", model.outputs["model"].clone()).cpus(cpus);
    bench.rows("prompts", records::PROMPTS, &prompts).run::<Generate>(with)
}

#[test]
fn a_model_says_what_it_learned() {
    let model = tiny::pretrained(json!({}));
    let with = json!({ "do_sample": false, "max_new_tokens": 4, "splits": ["validation"] });
    let rows: Vec<Completion> = run(&model, with, 1).unwrap().rows("completions", records::COMPLETIONS);
    let lines: Vec<_> = rows.iter().map(|row| format!("{}|{} {:?}", row.prompt.text, row.text, row.finish)).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    bakers are| tardy Eos
    smiths are| calm Eos
    bakers are always| tardy Eos
    ");
}

#[test]
fn batch_and_threads_change_nothing() {
    let model = tiny::pretrained(json!({ "steps": 5 }));
    let bytes = |batch: usize, cpus: usize| {
        let with = json!({ "n": 5, "max_new_tokens": 6, "batch_size": batch, "seed": 3 });
        run(&model, with, cpus).unwrap().text("completions", records::COMPLETIONS)
    };
    let one = bytes(1, 1);
    for (batch, cpus) in [(3, 1), (16, 2)] {
        assert_eq!(bytes(batch, cpus), one);
    }
    let other = json!({ "n": 5, "max_new_tokens": 6, "seed": 4 });
    assert_ne!(run(&model, other, 1).unwrap().text("completions", records::COMPLETIONS), one);
    assert_eq!(Of::<Generate>::NEW.unkeyed(), ["batch_size", "device"]);
}

#[test]
fn a_completion_does_not_depend_on_other_prompts() {
    let model = tiny::pretrained(json!({ "steps": 5 }));
    let rows =
        |with: Value| -> Vec<Completion> { run(&model, with, 1).unwrap().rows("completions", records::COMPLETIONS) };
    let all = rows(json!({}));
    let some = rows(json!({ "splits": ["test"] }));
    assert!(some.len() == 1 && all.contains(&some[0]));
}

#[test]
fn beams_are_told_with_their_scores_and_logprobs() {
    let model = tiny::pretrained(json!({ "steps": 5 }));
    let with = json!({ "do_sample": false, "num_beams": 3, "n": 2, "max_new_tokens": 3, "logprobs": true });
    let rows: Vec<Completion> = run(&model, with, 1).unwrap().rows("completions", records::COMPLETIONS);
    assert_eq!(rows.len(), 8);
    for pair in rows.chunks(2) {
        assert_eq!((pair[0].sample, pair[1].sample, pair[0].prompt.id == pair[1].prompt.id), (0, 1, true));
        assert!(pair[0].score >= pair[1].score);
        for row in pair {
            let logprobs = row.logprobs.as_ref().unwrap();
            assert_eq!(logprobs.len(), row.tokens + usize::from(row.finish == Finish::Eos));
            let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
            assert!((mean - row.score.unwrap()).abs() < 1e-9, "length_penalty is 1");
        }
    }
    let plain = run(&model, json!({ "max_new_tokens": 3 }), 1).unwrap().text("completions", records::COMPLETIONS);
    for field in ["logprobs", "score", "context_full", "prompt_tokens_cut"] {
        assert!(!plain.contains(field), "{field} is told only where there is something to tell");
    }
}

#[test]
fn the_end_of_the_context_is_told() {
    let model = tiny::pretrained(json!({ "steps": 5 }));
    let words = ["bakers"; 64].join(" ");
    let prompts = |text: &str| [json!({ "id": "it", "text": text, "group": "g" })];
    let bench = |text: &str| {
        let bench = Bench::new().input("model", model.outputs["model"].clone());
        bench.rows("prompts", records::PROMPTS, &prompts(text))
    };
    let done = bench("bakers are").run::<Generate>(json!({ "max_new_tokens": 500, "seed": 1, "min_p": 0.0 }));
    let rows: Vec<Completion> = done.unwrap().rows("completions", records::COMPLETIONS);
    assert_eq!(rows[0].context_full, rows[0].finish == Finish::Length);
    let error = {
        let long = json!({ "id": words.clone(), "text": words.clone(), "group": "g" });
        let bench = Bench::new().input("model", model.outputs["model"].clone());
        bench.rows("prompts", records::PROMPTS, &[long]).run::<Generate>(json!({})).err().unwrap().to_string()
    };
    assert!(error.len() < 300, "{error}");
    let error = bench(&words).run::<Generate>(json!({})).err().unwrap().to_string();
    assert!(error.starts_with("1 of 1 prompts have more tokens than the model's context of "), "{error}");
    let hint = "shorten or drop them, or take `on_long_prompt: truncate_left`";
    assert!(error.ends_with(&format!(": `it` (65); {hint}")), "{error}");
}

#[test]
fn the_beginning_of_long_prompts_is_left_out_by_choice() {
    let model = tiny::pretrained(json!({}));
    let words = format!("{} smiths are", ["bakers are always"; 20].join(" "));
    let prompts = [("long", words.as_str()), ("short", "smiths are")]
        .map(|(id, text)| json!({ "id": id, "text": text, "group": "g" }));
    let run = |with: Value| {
        let bench = Bench::new().input("model", model.outputs["model"].clone());
        bench.rows("prompts", records::PROMPTS, &prompts).run::<Generate>(with).unwrap()
    };
    let with = json!({ "do_sample": false, "max_new_tokens": 3, "on_long_prompt": "truncate_left" });
    let done = run(with);
    let rows: Vec<Completion> = done.rows("completions", records::COMPLETIONS);
    // 63 tokens, of which the context of 8 has room for 5 beside three new ones.
    assert_eq!((rows[0].prompt_tokens_cut, rows[1].prompt_tokens_cut), (58, 0));
    assert_eq!((&done.summary["prompts_truncated"], &done.summary["prompt_tokens_cut"]), (&json!(1), &json!(58)));
    assert!(!rows[0].context_full && rows[1].text == " calm", "{rows:?}");
    assert_eq!(rows[0].prompt.text, words);
    assert_eq!(done.summary["cut_by_the_context"], 0);
    // More new tokens than there is room for: as many as fit.
    let done = run(json!({ "do_sample": false, "max_new_tokens": 50, "on_long_prompt": "truncate_left" }));
    assert_eq!(done.rows::<Completion>("completions", records::COMPLETIONS)[0].prompt_tokens_cut, 61);
}

#[test]
fn settings_of_beams_that_contradict_are_told() {
    let with = json!({ "num_beams": 2, "n": 3, "do_sample": false, "min_p": 2, "repetition_penalty": -1 });
    insta::assert_snapshot!(problems::<Generate>(with), @r"
    min_p: 2 is not a share (hint: give a number from 0 to 1)
    repetition_penalty: -1 is not a positive number
    n: 2 beams can't give 3 continuations (hint: raise `num_beams`)
    min_p: says nothing with `do_sample: false`
    ");
    let with = json!({ "num_beams": 0, "length_penalty": 2, "early_stopping": "never" });
    insta::assert_snapshot!(problems::<Generate>(with), @r"
    num_beams: 0 is too few, give at least 1
    length_penalty: says nothing without beams (`num_beams` above 1)
    early_stopping: says nothing without beams (`num_beams` above 1)
    ");
    insta::assert_snapshot!(problems::<Generate>(json!({ "num_beams": 4 })), @"num_beams: beam search doesn't draw (hint: add `do_sample: false`, or drop `num_beams`)");
    insta::assert_snapshot!(problems::<Generate>(json!({ "early_stopping": "now" })), @r#"early_stopping: invalid value: string "now", expected true, false or `never`"#);
}

#[test]
fn settings_that_contradict_are_told() {
    let with = json!({ "do_sample": false, "n": 3, "top_k": 0, "top_p": 2, "temperature": 0, "stop": [""] });
    insta::assert_snapshot!(problems::<Generate>(with), @r"
    top_k: 0 is too few, give at least 1
    temperature: 0 is not a positive number (hint: for no draw: `do_sample: false`)
    top_p: 2 is not above 0 and at most 1
    stop: an empty text would end every continuation
    n: without drawing all 3 continuations would be the same (hint: drop `do_sample: false`, or `n`)
    temperature: says nothing with `do_sample: false`
    top_k: says nothing with `do_sample: false`
    top_p: says nothing with `do_sample: false`
    ");
}
