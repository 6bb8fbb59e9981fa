//! Training, by what is tested.

mod adapters;
mod fixtures;
mod golden;
mod invariance;
mod precision;
mod resume;
mod rules;
#[path = "../support/mod.rs"]
mod support;
