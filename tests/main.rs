//! End-to-end tests: one binary, which drives the real `palinode`.

mod architecture;
mod audit;
mod broken;
mod calibration;
mod checkpoints;
mod classification;
mod command;
mod commands;
mod crash;
mod fast_paths;
mod front;
mod hub;
mod incremental;
mod llm;
mod mini;
mod paper;
mod peers;
mod reliability;
mod same_bytes;
mod scheduling;
mod schema;
mod seeing;
mod slips;
mod support;
