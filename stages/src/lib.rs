//! The stage kinds: one file each, and the one list of them.

use std::sync::Arc;

use palinode_engine::stage::{Of, ParamProblem, StageKind};

mod corpus_planted;
mod counterfactuals_jsonl;
mod counterfactuals_llm;
mod counterfactuals_templates;
mod device;
mod evaluate_toxicity;
mod figure;
mod finetune;
pub mod fuzz;
mod generate;
mod hub;
mod judge_lexicon;
mod judge_llm;
mod judge_perspective;
mod lens;
mod model;
mod pretrain;
mod prompts_honest;
mod prompts_templates;
mod provider;
mod random;
mod reading;
pub mod records;
mod runtime;
pub mod stats;
#[cfg(test)]
mod testing;
mod tokenizer_train;
mod training;
mod words;

/// Every stage kind, in the order in which `palinode kinds` shows them.
pub fn kinds() -> Vec<Arc<dyn StageKind>> {
    vec![
        Arc::new(Of::<corpus_planted::Planted>::NEW),
        Arc::new(Of::<tokenizer_train::Train>::NEW),
        Arc::new(Of::<pretrain::Pretrain>::NEW),
        Arc::new(Of::<model::Model>::NEW),
        Arc::new(Of::<prompts_templates::Templates>::NEW),
        Arc::new(Of::<prompts_honest::Honest>::NEW),
        Arc::new(Of::<generate::Generate>::NEW),
        Arc::new(Of::<judge_lexicon::LexiconJudge>::NEW),
        Arc::new(Of::<judge_llm::LlmJudge>::NEW),
        Arc::new(Of::<judge_perspective::Perspective>::NEW),
        Arc::new(Of::<counterfactuals_templates::FromStatements>::NEW),
        Arc::new(Of::<counterfactuals_llm::FromModel>::NEW),
        Arc::new(Of::<counterfactuals_jsonl::FromFile>::NEW),
        Arc::new(Of::<finetune::Finetune>::NEW),
        Arc::new(Of::<lens::Lens>::NEW),
        Arc::new(Of::<evaluate_toxicity::Toxicity>::NEW),
        Arc::new(Of::<figure::toxicity::ToxicityFigure>::NEW),
        Arc::new(Of::<figure::lens::LensFigure>::NEW),
        Arc::new(Of::<figure::curve::CurveFigure>::NEW),
    ]
}

/// A problem if `value` is no share.
pub(crate) fn share(field: &str, value: f64) -> Option<ParamProblem> {
    let problem = || ParamProblem::new(field, format!("{value} is not a share")).hint("give a number from 0 to 1");
    (!(0.0..=1.0).contains(&value)).then(problem)
}
