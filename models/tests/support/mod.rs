//! Where the tests of agreement compute: on the CPU, or on the device that `PALINODE_TEST_DEVICE` names (`cuda`, `tch`).

use burn::tensor::Device;
use palinode_models::DeviceSpec;

fn spec() -> DeviceSpec {
    let name = std::env::var("PALINODE_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse().unwrap_or_else(|error| panic!("PALINODE_TEST_DEVICE: {error}"))
}

/// The device to test on.
pub(crate) fn device() -> Device {
    spec().open().unwrap_or_else(|error| panic!("PALINODE_TEST_DEVICE: {error}"))
}

/// Whether the tests compute on the CPU's own backend, whose bytes are pinned and whose tolerances are the tightest.
#[allow(dead_code, reason = "each test binary uses what it needs of this")]
pub(crate) fn on_cpu() -> bool {
    spec() == DeviceSpec::Cpu
}

/// A tolerance of the CPU's, and what it is elsewhere: kernels there add in other orders and have other roundings of
/// `exp`, `tanh` and `erf`, and their `sqrt` and division may be off by units in the last place.
#[allow(dead_code, reason = "each test binary uses what it needs of this")]
pub(crate) fn tolerance(cpu: f64) -> f64 {
    if on_cpu() { cpu } else { 5.0 * cpu }
}
