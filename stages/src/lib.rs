//! The stage kinds: one file each, and the one list of them.

use std::sync::Arc;

use palinode_engine::stage::{Of, ParamProblem, StageKind};

mod corpus_planted;
mod counterfactuals_templates;
mod device;
mod evaluate_toxicity;
mod export_labels;
mod figure;
mod finetune;
mod generate;
mod held_out;
mod hurtlex;
mod judge_agreement;
mod judge_classifier;
mod judge_evaluate;
mod judge_honest;
mod judge_lexicon;
mod judge_linear;
mod judging;
mod labels_import;
mod labels_planted;
mod labels_table;
mod lens;
mod model;
mod pretrain;
mod prompts_honest;
mod prompts_honest_race;
mod prompts_table;
mod prompts_templates;
mod random;
pub mod records;
mod runtime;
pub mod stats;
mod tabular;
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
        Arc::new(Of::<prompts_honest_race::HonestRace>::NEW),
        Arc::new(Of::<prompts_table::CsvPrompts>::NEW),
        Arc::new(Of::<prompts_table::JsonPrompts>::NEW),
        Arc::new(Of::<generate::Generate>::NEW),
        Arc::new(Of::<judge_lexicon::LexiconJudge>::NEW),
        Arc::new(Of::<judge_honest::HonestJudge>::NEW),
        Arc::new(Of::<judge_linear::LinearJudge>::NEW),
        Arc::new(Of::<judge_classifier::ClassifierJudge>::NEW),
        Arc::new(Of::<labels_table::LabelledTable>::NEW),
        Arc::new(Of::<labels_planted::PlantedLabels>::NEW),
        Arc::new(Of::<export_labels::ExportLabels>::NEW),
        Arc::new(Of::<labels_import::ImportLabels>::NEW),
        Arc::new(Of::<judge_evaluate::Evaluate>::NEW),
        Arc::new(Of::<judge_agreement::Agreement>::NEW),
        Arc::new(Of::<counterfactuals_templates::FromStatements>::NEW),
        Arc::new(Of::<finetune::Finetune>::NEW),
        Arc::new(Of::<lens::Lens>::NEW),
        Arc::new(Of::<evaluate_toxicity::Toxicity>::NEW),
        Arc::new(Of::<figure::toxicity::ToxicityFigure>::NEW),
        Arc::new(Of::<figure::lens::LensFigure>::NEW),
        Arc::new(Of::<figure::curve::CurveFigure>::NEW),
        Arc::new(Of::<figure::confusion::ConfusionFigure>::NEW),
        Arc::new(Of::<figure::honest_race::HonestRaceFigure>::NEW),
    ]
}

/// A problem if `value` is no share.
pub(crate) fn share(field: &str, value: f64) -> Option<ParamProblem> {
    let problem = || ParamProblem::new(field, format!("{value} is not a share")).hint("give a number from 0 to 1");
    (!(0.0..=1.0).contains(&value)).then(problem)
}
