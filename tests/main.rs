//! End-to-end tests: one binary, which drives the real `palinode`.

mod architecture;
