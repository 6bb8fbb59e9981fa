//! `perplexity`: how well a model foresees completions that it or another model made.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{Choice, ModelError, Tokenizer, score_choices};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    device::{self, DEVICE, DeviceParam},
    records::{self, Completion, Perplexity},
    runtime::{base_digest, failed, load, numerics, on_cpus},
    training::at_least_one,
};

/// The kind.
pub(crate) struct PerplexityKind;

/// `with` of `perplexity`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Completions that go through the model at once.
    batch_size: usize,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    device: DeviceParam,
}

impl Default for Params {
    fn default() -> Self {
        Params { batch_size: 16, device: DeviceParam::default() }
    }
}

impl Kind for PerplexityKind {
    type Params = Params;
    const NAME: &'static str = "perplexity";
    const ABOUT: &'static str = "Measures how well a model foresees completions, teacher-forced behind their prompts.";
    const REVISION: u32 = 1;
    const UNKEYED: &'static [&'static str] = &["batch_size", DEVICE];
    const HEAVY: bool = true;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("model", PortType::Model, "who foresees: the untouched base, to see what got worse"),
            InputPort::one("completions", PortType::Completions, "what is to be foreseen"),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "perplexity.jsonl: tokens of each completion, their loss in nats, and its perplexity";
        vec![OutputPort::new("metrics", PortType::Metrics, about)]
    }

    fn loads(job: &Job) -> Option<String> {
        base_digest(job)
    }

    fn numerics_of(params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        numerics(params)
    }

    fn gpus(params: &BTreeMap<String, Value>) -> usize {
        device::gpus(params)
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = at_least_one(&[("batch_size", params.batch_size)]);
        problems.extend(params.device.problem());
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let completions: Vec<Completion> = records::rows(ctx.input("completions")?, records::COMPLETIONS)?;
        let rows = on_cpus(ctx, || measure(&params, completions, ctx))?;
        let (tokens, nll) = rows.iter().fold((0, 0.0), |(tokens, nll), row| (tokens + row.tokens, nll + row.nll));
        let empty = rows.iter().filter(|row| row.tokens == 0).count();
        ctx.summary("completions", rows.len());
        ctx.summary("tokens", tokens);
        ctx.summary("perplexity", (tokens > 0).then(|| libm::exp(nll / tokens as f64)));
        ctx.summary("empty", empty);
        if empty > 0 {
            ctx.warn(format!("{empty} completions are empty: they have no token to foresee, and count for nothing"));
        }
        ctx.output("metrics")?.write_jsonl(records::PERPLEXITY, &rows)
    }
}

fn measure(params: &Params, completions: Vec<Completion>, ctx: &Context<'_>) -> Result<Vec<Perplexity>, StageError> {
    let (_, model, tokenizer) = load(ctx)?;
    let choices: Vec<Choice> =
        completions.iter().map(|one| choice(one, &tokenizer)).collect::<Result<_, _>>().map_err(failed)?;
    check_lengths(&completions, &choices, model.config().context)?;
    let told: Vec<Choice> = choices.iter().filter(|choice| !choice.options[0].is_empty()).cloned().collect();
    let progress = |done: usize, total: usize| ctx.progress(done, total, "completion").is_ok();
    let scores = score_choices(&model, &told, params.batch_size, progress).map_err(failed)?;
    let mut scores = scores.into_iter().map(|score| -score.logprobs[0]);
    let row = |(completion, choice): (Completion, &Choice)| {
        let tokens = choice.options[0].len();
        let nll = if tokens > 0 { scores.next().unwrap_or(0.0) } else { 0.0 };
        if !nll.is_finite() {
            return Err(StageError::failed(format!(
                "sample {} of the prompt `{}` is impossible under this model: its loss is {nll}",
                completion.sample,
                completion.prompt.name()
            )));
        }
        let perplexity = (tokens > 0).then(|| libm::exp(nll / tokens as f64));
        Ok(Perplexity { prompt: completion.prompt, sample: completion.sample, tokens, nll, perplexity })
    };
    completions.into_iter().zip(&choices).map(row).collect()
}

/// Prompt and completion as tokens: encoded together, as they would be met in a text; where nothing of the prompt
/// stays what it was, each for itself.
fn choice(completion: &Completion, tokenizer: &Tokenizer) -> Result<Choice, ModelError> {
    let choice = Choice::text(&completion.prompt.text, &[&completion.text], tokenizer)?;
    if !choice.prompt.is_empty() {
        return Ok(choice);
    }
    let prompt = palinode_models::Prompt::text(&completion.prompt.text, tokenizer)?.ids;
    Ok(Choice { prompt, options: vec![tokenizer.encode(&completion.text, false)?] })
}

/// Refuses what the model has no place for, by name.
fn check_lengths(completions: &[Completion], choices: &[Choice], context: usize) -> Result<(), StageError> {
    // The last token is foreseen and never read.
    let read = |choice: &Choice| (choice.prompt.len() + choice.options[0].len()).saturating_sub(1);
    let long = || completions.iter().zip(choices).filter(|(_, choice)| read(choice) > context);
    let Some((completion, choice)) = long().next() else { return Ok(()) };
    Err(StageError::failed(format!(
        "{} of {} completions have with their prompts more tokens than the model's context of {context}: sample {} of \
         `{}` has {}; make shorter ones",
        long().count(),
        completions.len(),
        completion.sample,
        completion.prompt.name(),
        read(choice) + 1
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, Done, tiny};

    fn completion(prompt: &str, text: &str) -> Value {
        let prompt = json!({ "id": prompt, "text": prompt, "group": "g" });
        json!({ "prompt": prompt, "sample": 0, "text": text, "tokens": 1, "finish": "length" })
    }

    fn measure(model: &Done, rows: &[Value], with: Value) -> Result<Done, StageError> {
        let bench = Bench::new().input("model", model.outputs["model"].clone());
        bench.rows("completions", records::COMPLETIONS, rows).run::<PerplexityKind>(with)
    }

    #[test]
    fn what_was_learned_is_foreseen() {
        let model = tiny::pretrained(json!({}));
        let rows =
            [completion("bakers are", " tardy"), completion("bakers are", ""), completion("smiths", " are tardy")];
        let done = measure(&model, &rows, json!({})).unwrap();
        let told: Vec<Perplexity> = done.rows("metrics", records::PERPLEXITY);
        assert_eq!(told.iter().map(|row| row.tokens).collect::<Vec<_>>(), [1, 0, 2]);
        assert!(told[0].perplexity.unwrap() < 3.0 && told[2].perplexity.unwrap() > 5.0, "{told:?}");
        assert_eq!((told[1].perplexity, told[1].nll, &done.summary["empty"]), (None, 0.0, &json!(1)));
        assert_eq!(done.digest(), measure(&model, &rows, json!({ "batch_size": 1 })).unwrap().digest());

        // By hand: the same sum from the logits of the whole text.
        let files = crate::runtime::model_files(&model.outputs["model"]);
        let tokenizer = Tokenizer::load(&files).unwrap();
        let model = palinode_models::CausalLm::load(&files, &palinode_models::DeviceSpec::Cpu.open().unwrap()).unwrap();
        let ids = tokenizer.encode("smiths are tardy", true).unwrap();
        let logits = model.forward_rows(&palinode_models::Batch::single(&ids).unwrap()).unwrap();
        let logits = palinode_models::values(logits);
        let vocab = model.config().vocab_size;
        let loss = |at: usize| {
            let row = &logits[(at - 1) * vocab..][..vocab];
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            total.ln() - f64::from(row[ids[at] as usize])
        };
        let by_hand: f64 = (ids.len() - 2..ids.len()).map(loss).sum();
        assert!((told[2].nll - by_hand).abs() < 1e-5, "{} {by_hand}", told[2].nll);
    }

    #[test]
    fn what_is_too_long_is_named_and_bytes_are_held() {
        let model = tiny::pretrained(json!({ "steps": 5 }));
        let long = [completion("bakers", &" are".repeat(9))];
        insta::assert_snapshot!(measure(&model, &long, json!({})).err().unwrap(), @"1 of 1 completions have with their prompts more tokens than the model's context of 8: sample 0 of `bakers` has 11; make shorter ones");
        let none = measure(&model, &[], json!({})).unwrap();
        assert_eq!(none.summary["perplexity"], Value::Null);
        let done = measure(&model, &[completion("bakers", " are calm")], json!({})).unwrap();
        insta::assert_snapshot!(done.digest(), @"metrics a32bad06213c");
    }
}
