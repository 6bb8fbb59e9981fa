//! The pipeline engine: spec, graph, plan, run, record.

pub mod context;
pub mod graph;
pub mod job;
pub mod stage;
