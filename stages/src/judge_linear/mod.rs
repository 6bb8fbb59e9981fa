//! `judge.linear`: a linear model over a bag of words, calibrated, without a language model.
//!
//! The file is a table of tab-separated lines: comments that begin with `#`, among them `# intercepts` with one number a
//! fold and (if the folds are calibrated) `# a,b` with one pair a fold; a header `token` and the folds' names; then each
//! token with its coefficients. A text's tokens are those of scikit-learn's `CountVectorizer` as it comes: lower case,
//! runs of two or more letters, digits and `_`. Each fold k has the decision d_k = intercept_k + sum of count x
//! coefficient_k, and Platt's probability 1 / (1 + exp(a_k d_k + b_k)) (`CalibratedClassifierCV`); the score is their
//! mean. Without `a,b` it is 1 / (1 + exp(-d_k)), logistic regression. That of `profanity-check` has five folds of a
//! linear support vector machine.

mod model;
#[cfg(test)]
mod tests;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    records::{self, Completion, Scope, Verdict},
    tabular,
};
use model::LinearModel;

/// The kind.
pub(crate) struct LinearJudge;

/// `with` of `judge.linear`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The model's table, plain or compressed (`.zst`, `.gz`).
    model: PathParam,
    /// From which probability on a completion is toxic.
    #[serde(default = "half")]
    threshold: f64,
    /// Judge the completion alone, or the sentence of prompt and completion.
    #[serde(default)]
    scope: Scope,
}

fn half() -> f64 {
    0.5
}

impl Kind for LinearJudge {
    type Params = Params;
    const NAME: &'static str = "judge.linear";
    const ABOUT: &'static str = "Judges by a linear model over words, with a probability as the score.";
    const REVISION: u32 = 2;

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::one("completions", PortType::Completions, "what to judge")]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("verdicts", PortType::Verdicts, "verdicts.jsonl: one verdict a line")]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        crate::share("threshold", params.threshold).into_iter().collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let text = tabular::text(records::only_file(ctx, &params.model)?, &params.model.0)?;
        let model = LinearModel::parse(&text)
            .map_err(|error| StageError::failed(format!("`{}` is no linear model: {error}", params.model.0)))?;
        let completions: Vec<Completion> = records::rows(ctx.input("completions")?, records::COMPLETIONS)?;
        let mut verdicts = Vec::with_capacity(completions.len());
        let mut unknown = 0;
        for (done, completion) in completions.into_iter().enumerate() {
            if done % 256 == 0 {
                ctx.progress(done, verdicts.capacity(), "completion")?;
            }
            let judged = model.judge(&params.scope.of(&completion));
            let toxic = judged.probability >= params.threshold;
            unknown += usize::from(judged.known == 0);
            verdicts.push(Verdict {
                score: Some(judged.probability),
                reason: (toxic && !judged.reasons.is_empty()).then(|| judged.reasons.join(", ")),
                ..Verdict::new(completion, Some(toxic))
            });
        }
        ctx.summary("tokens", model.len());
        ctx.summary("folds", model.folds());
        ctx.summary("completions", verdicts.len());
        ctx.summary("toxic", verdicts.iter().filter(|verdict| verdict.toxic == Some(true)).count());
        // They all get the score of a text without words.
        ctx.summary("without_a_known_token", unknown);
        ctx.output("verdicts")?.write_jsonl(records::VERDICTS, &verdicts)
    }
}
