//! The param `device` of the kinds that compute with models.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    stage::{ParamProblem, StageError},
};
use palinode_models::{Device, DeviceSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the param. It is in no key, but what it comes to is.
pub(crate) const DEVICE: &str = "device";

/// A device, as declared.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct DeviceParam(#[schemars(regex(pattern = r"^(cpu|cuda(:[0-9]+)?|tch|auto)$"))] String);

impl Default for DeviceParam {
    fn default() -> Self {
        Self(DeviceSpec::Cpu.to_string())
    }
}

impl DeviceParam {
    /// Why it can't be had here.
    pub(crate) fn problem(&self) -> Option<ParamProblem> {
        let named = self.0.parse().and_then(DeviceSpec::name);
        named.err().map(|error| ParamProblem::new(DEVICE, error.to_string()))
    }
}

/// The device among canonical params; the CPU where none is among them.
pub(crate) fn declared(device: Option<&Value>) -> DeviceSpec {
    device.and_then(Value::as_str).and_then(|text| text.parse().ok()).unwrap_or(DeviceSpec::Cpu)
}

/// What keys call the device of these params. One that can't be had was refused before.
pub(crate) fn name(params: &BTreeMap<String, Value>) -> String {
    let spec = declared(params.get(DEVICE));
    spec.name().unwrap_or_else(|_| spec.to_string())
}

/// How many GPUs it takes.
pub(crate) fn gpus(params: &BTreeMap<String, Value>) -> usize {
    declared(params.get(DEVICE)).gpus()
}

/// Where the job computes.
pub(crate) fn open(ctx: &Context<'_>) -> Result<Device, StageError> {
    declared(ctx.job().params.get(DEVICE)).open().map_err(|error| StageError::failed(error.to_string()))
}
