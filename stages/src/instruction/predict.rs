//! `predict.instruction`: what a model answers when it is asked which class a text is of.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{
    CausalLm, GenerateOptions, ModelError, ModelFiles, Prompt, Tokenizer, choice::Choice, generate,
    generate::end_of_text, score_choices,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Instruction;
use crate::{
    classifier::tell_accuracy,
    device::{self, DEVICE, DeviceParam},
    records::{self, DATASET, Example, PREDICTIONS, Prediction},
    runtime::{base_digest, base_files, failed, load, numerics, on_cpus},
    training,
    words::{Accents, Terms},
};

/// The kind.
pub(crate) struct PredictInstruction;

/// `with` of `predict.instruction`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// How a text is asked about, as in finetuning.
    instruction: Instruction,
    /// What decides. `written`: the model writes, and the option that its answer contains counts, as in the paper.
    /// `constrained`: the option with the highest log-probability.
    #[serde(default)]
    decide: Decide,
    /// Most tokens that the model writes.
    #[serde(default = "max_new_tokens")]
    max_new_tokens: usize,
    /// Most texts that go through the model at once. Changes no prediction.
    #[serde(default = "batch_size")]
    batch_size: usize,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    #[serde(default)]
    device: DeviceParam,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Decide {
    #[default]
    Written,
    Constrained,
}

fn max_new_tokens() -> usize {
    8
}

fn batch_size() -> usize {
    32
}

impl Kind for PredictInstruction {
    type Params = Params;
    const NAME: &'static str = "predict.instruction";
    const ABOUT: &'static str = "Asks a language model which class each text is of.";
    const REVISION: u32 = 1;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = &["batch_size", DEVICE];

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("model", PortType::Model, "a language model"),
            InputPort::one("data", PortType::Dataset, "the texts, mostly the test part"),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("predictions", PortType::Predictions, "predictions.jsonl: one text a line")]
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
        let sizes = [("max_new_tokens", params.max_new_tokens), ("batch_size", params.batch_size)];
        let mut problems = training::at_least_one(&sizes);
        problems.extend(params.device.problem());
        problems.extend(params.instruction.problems());
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let examples: Vec<Example> = records::rows(ctx.input("data")?, DATASET)?;
        if examples.is_empty() {
            return Err(StageError::failed("there is no text to ask about: the part at the input `data` is empty"));
        }
        params.instruction.check(&examples)?;
        let predictions = on_cpus(ctx, || {
            let (files, model, tokenizer) = load(ctx)?;
            let asked = params.ask(ctx, &examples, &model, &tokenizer)?;
            match params.decide {
                Decide::Constrained => params.constrained(ctx, &examples, &asked, &model, &tokenizer),
                Decide::Written => params.written(ctx, &examples, &asked, &files, &model, &tokenizer),
            }
        })?;
        ctx.summary("texts", predictions.len());
        tell_accuracy(ctx, "", &predictions);
        ctx.output("predictions")?.write_jsonl(PREDICTIONS, &predictions)
    }
}

impl Params {
    /// The prompts, each with room behind it for what is written or for the longest option.
    fn ask(
        &self,
        ctx: &Context<'_>,
        examples: &[Example],
        model: &CausalLm,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<String>, StageError> {
        let mut behind = self.max_new_tokens;
        if self.decide == Decide::Constrained {
            behind = 1;
            for (_, answer) in self.instruction.answers() {
                behind = behind.max(tokenizer.encode(&answer, false).map_err(failed)?.len());
            }
        }
        let room = model.config().context.saturating_sub(behind);
        let mut cut = 0;
        let mut prompts = Vec::with_capacity(examples.len());
        for example in examples {
            let (prompt, was_cut) = self.instruction.fitted(&example.text, tokenizer, room)?;
            cut += usize::from(was_cut);
            prompts.push(prompt);
        }
        ctx.summary("texts_cut", cut);
        if cut > 0 {
            let count = examples.len();
            ctx.warn(format!(
                "{cut} of {count} texts are longer than the model's context leaves room for and were cut"
            ));
        }
        Ok(prompts)
    }

    fn constrained(
        &self,
        ctx: &Context<'_>,
        examples: &[Example],
        prompts: &[String],
        model: &CausalLm,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Prediction>, StageError> {
        let answers = self.instruction.answers();
        let texts: Vec<&str> = answers.iter().map(|(_, answer)| answer.as_str()).collect();
        let choices = prompts.iter().map(|prompt| Choice::text(prompt, &texts, tokenizer));
        let choices = choices.collect::<Result<Vec<_>, ModelError>>().map_err(failed)?;
        let progress = |done: usize, total: usize| ctx.progress(done, total, "text").is_ok();
        let scores = score_choices(model, &choices, self.batch_size, progress).map_err(failed)?;
        let one = |(example, scores): (&Example, palinode_models::ChoiceScores)| {
            let mut best = 0;
            for (at, logprob) in scores.logprobs.iter().enumerate() {
                if *logprob > scores.logprobs[best] {
                    best = at;
                }
            }
            let labels = answers.iter().map(|(label, _)| (*label).to_owned());
            let probabilities = labels.zip(scores.probabilities).collect();
            prediction(example, Some(answers[best].0.to_owned()), probabilities, None)
        };
        Ok(examples.iter().zip(scores).map(one).collect())
    }

    fn written(
        &self,
        ctx: &Context<'_>,
        examples: &[Example],
        prompts: &[String],
        files: &ModelFiles,
        model: &CausalLm,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Prediction>, StageError> {
        let starts = prompts.iter().map(|prompt| Prompt::text(prompt, tokenizer));
        let starts = starts.collect::<Result<Vec<_>, ModelError>>().map_err(failed)?;
        let options = GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            eos: end_of_text(&base_files(files), model.config(), tokenizer).map_err(failed)?,
            batch_size: self.batch_size,
            ..GenerateOptions::default()
        };
        let progress = |done: usize, total: usize| ctx.progress(done, total, "text").is_ok();
        let written = generate(model, tokenizer, &starts, &options, progress).map_err(failed)?;
        let (mut none, mut several) = (0, 0);
        let predictions = written.into_iter().map(|made| {
            let example = &examples[made.prompt];
            let said = self.said(&made.text);
            none += usize::from(said.is_empty());
            several += usize::from(said.len() > 1);
            // An answer that contains the label is right, whatever else it contains: the paper's rule.
            let right = said.iter().copied().find(|label| *label == example.label);
            let predicted = right.or(said.first().copied()).map(str::to_owned);
            prediction(example, predicted, BTreeMap::new(), Some(made.text))
        });
        let predictions: Vec<Prediction> = predictions.collect();
        ctx.summary("answers_without_an_option", none);
        ctx.summary("answers_with_several_options", several);
        let count = predictions.len();
        if none > 0 {
            ctx.warn(format!("{none} of {count} answers contain none of the options and count as wrong"));
        }
        if several > 0 {
            ctx.warn(format!("{several} of {count} answers contain several options; right if the label is among them"));
        }
        Ok(predictions)
    }

    /// The labels whose options an answer contains, in the order in which it names them.
    fn said(&self, answer: &str) -> Vec<&str> {
        let options = || self.instruction.options.iter();
        let terms = Terms::new(options().map(|(_, option)| option.trim().to_owned()), Accents::Keep);
        let label = |hit: &str| options().find(|(_, option)| option.trim() == hit).map(|(label, _)| label.as_str());
        terms.hits(answer).into_iter().filter_map(label).collect()
    }
}

fn prediction(
    example: &Example,
    predicted: Option<String>,
    probabilities: BTreeMap<String, f64>,
    answer: Option<String>,
) -> Prediction {
    Prediction {
        id: example.id.clone(),
        label: example.label.clone(),
        group: example.group.clone(),
        split: example.split,
        predicted,
        probabilities,
        answer,
    }
}
