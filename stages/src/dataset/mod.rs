//! Data sets of labelled texts: tables and folders are read row by row, whatever their length, and written as
//! `dataset.jsonl`, a port for each part.
//!
//! The parts have ports of their own so that what changes in one reaches nothing that hangs on another: a corrected label
//! of the test part trains no model again.

mod collect;
mod cut;
pub(crate) mod downsample;
mod faults;
pub(crate) mod imdb;
mod names;
mod parquet;
mod read;
mod repeats;
pub(crate) mod sst2;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use palinode_engine::stage::{OutputPort, ParamProblem, PortType};

use crate::records::Part;

/// A port for each part.
fn outputs() -> Vec<OutputPort> {
    vec![
        OutputPort::new("train", PortType::Dataset, "dataset.jsonl: what models learn from"),
        OutputPort::new("validation", PortType::Dataset, "dataset.jsonl: what choices are made on; may be empty"),
        OutputPort::new("test", PortType::Dataset, "dataset.jsonl: what results are told of; may be empty"),
    ]
}

/// What the kinds' params say of how parts are made.
struct Parts<'p> {
    /// Most examples of a part, drawn at random.
    take: &'p BTreeMap<Part, usize>,
    /// The share of the training examples that becomes the validation part.
    validation_share: Option<f64>,
    seed: u64,
}

impl Parts<'_> {
    fn problems(&self, brings_validation: bool) -> Vec<ParamProblem> {
        let mut problems = Vec::new();
        if let Some(share) = self.validation_share {
            if !(share > 0.0 && share < 1.0) {
                let problem = ParamProblem::new("validation_share", format!("{share} is not a share"));
                problems.push(problem.hint("give a number between 0 and 1"));
            }
            if brings_validation {
                let problem = ParamProblem::new("validation_share", "there is a validation part already");
                problems.push(problem.hint("give one of them"));
            }
        }
        for part in self.take.iter().filter(|(_, count)| **count == 0).map(|(part, _)| part) {
            problems.push(ParamProblem {
                path: vec!["take".to_owned(), part.name().to_owned()],
                message: "0 is too few, give at least 1".to_owned(),
                hint: None,
            });
        }
        problems
    }
}

/// A labelled text on its way into a data set.
struct Raw<'r> {
    /// Where it stands, for messages: the file, and the line (0 if the file is the text).
    file: &'r str,
    line: u64,
    id: String,
    text: &'r str,
    label: &'r str,
    /// The label, where there is none.
    group: Option<&'r str>,
    part: Part,
}
