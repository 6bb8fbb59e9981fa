//! `predict.classifier`: what a classifier says of each text.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Encoder, classes, load, predict, tell_accuracy};
use crate::{
    device::{self, DEVICE, DeviceParam},
    records::{self, DATASET, Example, PREDICTIONS},
    runtime::{base_digest, numerics, on_cpus},
    training,
};

/// The kind.
pub(crate) struct PredictClassifier;

/// `with` of `predict.classifier`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Most tokens of a text: the rest is cut off. By default as many as the model reads.
    max_length: Option<usize>,
    /// Most texts that go through the model at once. Changes no prediction.
    batch_size: usize,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    device: DeviceParam,
}

impl Default for Params {
    fn default() -> Self {
        Params { max_length: None, batch_size: 32, device: DeviceParam::default() }
    }
}

impl Kind for PredictClassifier {
    type Params = Params;
    const NAME: &'static str = "predict.classifier";
    const ABOUT: &'static str = "Classifies texts: the class decided for, and the probability of each.";
    const REVISION: u32 = 1;
    const HEAVY: bool = true;
    const UNKEYED: &'static [&'static str] = &["batch_size", DEVICE];

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("model", PortType::Model, "a classifier, such as `finetune.classifier` makes"),
            InputPort::one("data", PortType::Dataset, "the texts, mostly the test part"),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("predictions", PortType::Predictions, "predictions.jsonl: one text a line")]
    }

    fn loads(job: &Job) -> Option<String> {
        base_digest(job)
    }

    fn numerics_of(params: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
        numerics(params)
    }

    fn gpus(params: &BTreeMap<String, Value>) -> usize {
        device::gpus(params)
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = training::at_least_one(&[("batch_size", params.batch_size)]);
        problems.extend(params.device.problem());
        if params.max_length.is_some_and(|most| most < 2) {
            problems.push(ParamProblem::new("max_length", "give at least 2"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let examples: Vec<Example> = records::rows(ctx.input("data")?, DATASET)?;
        if examples.is_empty() {
            return Err(StageError::failed("there is no text to classify: the part at the input `data` is empty"));
        }
        let predictions = on_cpus(ctx, || {
            let (model, tokenizer) = load(ctx)?;
            classes(&model.config().labels, &examples, examples[0].split.name())?;
            let mut encoder = Encoder::new(&tokenizer, model.config(), params.max_length);
            let ids = examples.iter().map(|example| encoder.encode(example)).collect::<Result<Vec<_>, _>>()?;
            encoder.tell(ctx, "", examples.len());
            predict(ctx, &model, &examples, &ids, params.batch_size)
        })?;
        ctx.summary("texts", predictions.len());
        tell_accuracy(ctx, "", &predictions);
        ctx.output("predictions")?.write_jsonl(PREDICTIONS, &predictions)
    }
}
