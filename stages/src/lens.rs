//! `lens`: the logit lens (nostalgebraist 2020): what a model would say if it stopped after each of its blocks.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{Batch, CausalLm, LogitLens, ModelError, Tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    device::{self, DEVICE, DeviceParam},
    records::{self, LensCell, Prompt},
    runtime::{base_digest, failed, load, numerics, on_cpus},
};

/// The kind.
pub(crate) struct Lens;

/// `with` of `lens`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// The texts to look at, if the input `prompts` doesn't bring them.
    prompts: Vec<String>,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    device: DeviceParam,
}

impl Kind for Lens {
    type Params = Params;
    const NAME: &'static str = "lens";
    const ABOUT: &'static str = "Reads a model's next-token distribution after each of its blocks.";
    const REVISION: u32 = 1;
    const UNKEYED: &'static [&'static str] = &[DEVICE];
    const HEAVY: bool = true;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("model", PortType::Model, "who is looked into"),
            InputPort::one("prompts", PortType::Prompts, "what it reads, if not given in `with`").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "lens.jsonl: top token, its probability and the entropy by prompt, layer and position";
        vec![OutputPort::new("trajectory", PortType::Trajectory, about)]
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
        params.device.problem().into_iter().collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let mut texts = params.prompts;
        if let Some(files) = ctx.optional("prompts")? {
            if !texts.is_empty() {
                return Err(StageError::failed("prompts come from `with` and from the input `prompts`: give one"));
            }
            let prompts: Vec<Prompt> = records::rows(files, records::PROMPTS)?;
            texts = prompts.into_iter().map(|prompt| prompt.text).collect();
        }
        if texts.is_empty() {
            return Err(StageError::failed("there is nothing to look at: give `with.prompts`, or link `prompts`"));
        }
        let cells = on_cpus(ctx, || {
            let (_, model, tokenizer) = load(ctx)?;
            let mut cells = Vec::new();
            for (done, text) in texts.iter().enumerate() {
                ctx.progress(done, texts.len(), "prompt")?;
                cells.extend(look(&model, &tokenizer, text).map_err(failed)?);
            }
            Ok(cells)
        })?;
        ctx.summary("prompts", texts.len());
        ctx.summary("cells", cells.len());
        ctx.output("trajectory")?.write_jsonl(records::TRAJECTORY, &cells)
    }
}

fn look(model: &CausalLm, tokenizer: &Tokenizer, text: &str) -> Result<Vec<LensCell>, ModelError> {
    let ids = palinode_models::Prompt::text(text, tokenizer)?.ids;
    let batch = Batch::new(ids.clone(), vec![true; ids.len()], [1, ids.len()])?;
    let lens = LogitLens::read(model, &batch)?;
    let mut cells = Vec::new();
    for (layer, points) in lens.depths.iter().enumerate() {
        for (position, (point, &id)) in points.iter().zip(&ids).enumerate() {
            cells.push(LensCell {
                prompt: text.to_owned(),
                layer,
                position,
                token: told(tokenizer, id)?,
                top: told(tokenizer, point.top1)?,
                max_probability: point.max_probability,
                entropy: point.entropy,
            });
        }
    }
    Ok(cells)
}

/// A token as text, with the space that it begins with: SentencePiece's decoders drop that of a token by itself.
fn told(tokenizer: &Tokenizer, id: u32) -> Result<String, ModelError> {
    match tokenizer.token(id) {
        Some(piece) if piece.contains('▁') => Ok(piece.replace('▁', " ")),
        _ => Ok(tokenizer.decode(&[id], false)?),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, tiny};

    #[test]
    fn the_last_layer_is_what_the_model_says() {
        let model = tiny::pretrained(json!({}));
        let bench = || Bench::new().input("model", model.outputs["model"].clone());
        let done = bench().run::<Lens>(json!({ "prompts": ["bakers are always"] })).unwrap();
        let cells: Vec<LensCell> = done.rows("trajectory", records::TRAJECTORY);
        let tokens: Vec<&str> = cells[..4].iter().map(|cell| cell.token.as_str()).collect();
        assert_eq!((tokens, cells.len()), (vec!["<s>", "bakers", "are", "always"], 8), "two depths, four positions");
        let last = cells.last().unwrap();
        assert_eq!((last.layer, last.position, last.top.as_str()), (1, 3, "tardy"));
        assert!(last.max_probability > 0.5 && last.entropy < 1.0, "{last:?}");
        let port = json!({ "id": "p", "text": "bakers are always", "group": "g" });
        let linked = bench().rows("prompts", records::PROMPTS, &[port]).run::<Lens>(json!({})).unwrap();
        assert_eq!(linked.digest(), done.digest());
        insta::assert_snapshot!(bench().run::<Lens>(json!({})).err().unwrap(), @"there is nothing to look at: give `with.prompts`, or link `prompts`");
    }
}
