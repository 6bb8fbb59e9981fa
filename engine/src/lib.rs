//! The pipeline engine: spec, graph, plan, run, record.

mod address;
pub mod audit;
mod axes;
pub mod context;
mod data;
pub mod draw;
pub mod event;
pub mod execute;
pub mod executor;
pub mod expand;
pub mod explain;
#[cfg(test)]
mod fakes;
pub mod graph;
pub mod job;
pub mod lineage;
pub mod mistake;
mod order;
pub mod overrides;
mod params;
mod perform;
pub mod plan;
mod points;
pub mod problem;
pub mod publish;
pub mod ready;
pub mod registry;
pub mod runs;
pub mod select;
mod source;
pub mod spec;
pub mod stage;
mod stage_log;
pub mod stamp;
mod template;
pub mod why;
mod yaml;
