//! The stage kinds: one file each, and the one list of them.

use std::sync::Arc;

use palinode_engine::stage::{Of, ParamProblem, StageKind};

mod baseline_bow;
mod classifier;
mod corpus_planted;
mod counterfactuals_jsonl;
mod counterfactuals_llm;
mod counterfactuals_templates;
mod dataset;
mod device;
mod divergence;
mod evaluate_boundary;
mod evaluate_divergence;
mod evaluate_groups;
mod evaluate_toxicity;
mod export_labels;
mod figure;
mod finetune;
pub mod fuzz;
mod gathered;
mod generate;
mod held_out;
mod hub;
mod hurtlex;
mod instruction;
mod judge_agreement;
mod judge_classifier;
mod judge_evaluate;
mod judge_honest;
mod judge_lexicon;
mod judge_linear;
mod judge_llm;
mod judge_perspective;
mod judging;
mod labels_import;
mod labels_planted;
mod labels_table;
mod lens;
mod model;
mod perplexity;
mod pretrain;
mod pretrain_mlm;
mod prompts_honest;
mod prompts_honest_race;
mod prompts_table;
mod prompts_templates;
mod provider;
mod random;
mod read;
mod reading;
pub mod records;
mod runtime;
pub mod stats;
mod table_disparity;
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
        Arc::new(Of::<dataset::table::FromTable>::NEW),
        Arc::new(Of::<dataset::sst2::Sst2>::NEW),
        Arc::new(Of::<dataset::imdb::Imdb>::NEW),
        Arc::new(Of::<dataset::downsample::Downsample>::NEW),
        Arc::new(Of::<tokenizer_train::Train>::NEW),
        Arc::new(Of::<pretrain::Pretrain>::NEW),
        Arc::new(Of::<pretrain_mlm::PretrainMlm>::NEW),
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
        Arc::new(Of::<judge_llm::LlmJudge>::NEW),
        Arc::new(Of::<judge_perspective::Perspective>::NEW),
        Arc::new(Of::<counterfactuals_templates::FromStatements>::NEW),
        Arc::new(Of::<counterfactuals_llm::FromModel>::NEW),
        Arc::new(Of::<counterfactuals_jsonl::FromFile>::NEW),
        Arc::new(Of::<finetune::Finetune>::NEW),
        Arc::new(Of::<classifier::finetune::FinetuneClassifier>::NEW),
        Arc::new(Of::<classifier::predict::PredictClassifier>::NEW),
        Arc::new(Of::<baseline_bow::BagOfWords>::NEW),
        Arc::new(Of::<instruction::finetune::FinetuneInstruction>::NEW),
        Arc::new(Of::<instruction::predict::PredictInstruction>::NEW),
        Arc::new(Of::<lens::Lens>::NEW),
        Arc::new(Of::<perplexity::PerplexityKind>::NEW),
        Arc::new(Of::<divergence::DivergenceKind>::NEW),
        Arc::new(Of::<evaluate_toxicity::Toxicity>::NEW),
        Arc::new(Of::<evaluate_divergence::EvaluateDivergence>::NEW),
        Arc::new(Of::<evaluate_groups::Groups>::NEW),
        Arc::new(Of::<evaluate_boundary::Boundary>::NEW),
        Arc::new(Of::<table_disparity::DisparityTable>::NEW),
        Arc::new(Of::<figure::accuracy::AccuracyFigure>::NEW),
        Arc::new(Of::<figure::boundary::BoundaryFigure>::NEW),
        Arc::new(Of::<figure::toxicity::ToxicityFigure>::NEW),
        Arc::new(Of::<figure::lens::LensFigure>::NEW),
        Arc::new(Of::<figure::divergence::DivergenceFigure>::NEW),
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
