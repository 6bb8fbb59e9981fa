//! What is resampled: the factors that cells are crossed over.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::records::Prompt;

/// What the bootstrap draws anew of the prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resample {
    /// Identities and templates, crossed; prompts where one of them names no identity or no template.
    #[default]
    Crossed,
    /// Identities alone: the templates are taken as all that there are.
    Identity,
    /// Templates alone: the identities are taken as all that there are.
    Template,
    /// Prompts, as if those about one identity had nothing in common.
    Prompt,
}

/// One thing that is a sample: identities, templates, seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factor {
    /// `identity`, `template`, `prompt`, or a pooled axis.
    pub name: String,
    /// How many there are, at least two.
    pub levels: usize,
    /// The level of each cell.
    pub of: Vec<u32>,
}

/// The factors of a table of cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Design {
    /// Those with more than one level: one level alone says nothing of others.
    pub factors: Vec<Factor>,
    /// How many cells the factors tell of.
    pub cells: usize,
}

impl Design {
    /// Of cells, each of a prompt in a run: a level of each of the `axes` that the runs differ in.
    pub fn new<R: AsRef<[u32]>>(cells: &[(&Prompt, R)], resample: Resample, axes: &[String]) -> Self {
        let identity = || factor("identity", cells.iter().map(|(prompt, _)| prompt.identity.as_deref()));
        let template = || factor("template", cells.iter().map(|(prompt, _)| prompt.template.as_deref()));
        let prompt = || factor("prompt", cells.iter().map(|(prompt, _)| Some((&prompt.id, &prompt.text))));
        let of_prompts = match resample {
            Resample::Crossed => identity().zip(template()).map(|(identity, template)| vec![identity, template]),
            Resample::Identity => identity().map(|identity| vec![identity]),
            Resample::Template => template().map(|template| vec![template]),
            Resample::Prompt => None,
        };
        let mut factors = of_prompts.unwrap_or_else(|| prompt().into_iter().collect());
        for (at, axis) in axes.iter().enumerate() {
            factors.extend(factor(axis, cells.iter().map(|(_, run)| Some(run.as_ref().get(at)))));
        }
        factors.retain(|factor| factor.levels > 1);
        Design { factors, cells: cells.len() }
    }

    /// The names of what is resampled.
    pub fn names(&self) -> Vec<String> {
        self.factors.iter().map(|factor| factor.name.clone()).collect()
    }
}

/// `None` if a cell has no level. Levels are numbered in their own order, so that the order of cells doesn't matter.
fn factor<K: Ord + Copy>(name: &str, levels: impl Iterator<Item = Option<K>> + Clone) -> Option<Factor> {
    let mut numbers: BTreeMap<K, u32> = BTreeMap::new();
    for level in levels.clone() {
        numbers.insert(level?, 0);
    }
    numbers.values_mut().zip(0..).for_each(|(number, at)| *number = at);
    let of = levels.flatten().map(|level| numbers[&level]).collect();
    Some(Factor { name: name.to_owned(), levels: numbers.len(), of })
}
