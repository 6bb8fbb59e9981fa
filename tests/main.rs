//! End-to-end tests: one binary, which drives the real `palinode`.

mod architecture;
mod audit;
mod broken;
mod commands;
mod crash;
mod incremental;
mod mini;
mod peers;
mod reliability;
mod same_bytes;
mod seeing;
mod support;
