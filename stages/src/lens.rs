//! `lens`: the logit lens (nostalgebraist 2020): what a model would say if it stopped after each of its blocks.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::Job,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use palinode_models::{Batch, CausalLm, Family, LogitLens, MaskedLm, ModelConfig, ModelError, Tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    device::{self, DEVICE, DeviceParam},
    read::{self, Source},
    records::{self, LensCell, Prompt},
    runtime::{base_digest, failed, load, model_files, numerics, on_cpus, told},
};

/// The kind.
pub(crate) struct Lens;

/// `with` of `lens`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// The texts to look at, if no input brings them.
    prompts: Vec<String>,
    /// Of what an input brings, only these prompts, by id or text; all by default.
    only: Vec<String>,
    /// How many of the most probable tokens are told of each layer and position.
    top_k: usize,
    /// Where it computes: `cpu`, `cuda`, `cuda:1` (the second of the GPUs that it gets), `tch`, or `auto`: the first GPU
    /// where the build and the machine have one, else the CPU. Keys hold the model of the device, not this.
    device: DeviceParam,
}

impl Default for Params {
    fn default() -> Self {
        Params { prompts: Vec::new(), only: Vec::new(), top_k: 10, device: DeviceParam::default() }
    }
}

const NOTHING: &str = "there is nothing to look at: give `with.prompts`, or link `prompts` or `completions`";

impl Kind for Lens {
    type Params = Params;
    const NAME: &'static str = "lens";
    const ABOUT: &'static str = "Reads a model's next-token distribution after each of its blocks.";
    const REVISION: u32 = 2;
    const UNKEYED: &'static [&'static str] = &[DEVICE];
    const HEAVY: bool = true;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("model", PortType::Model, "who is looked into"),
            InputPort::one("prompts", PortType::Prompts, "what it reads, if not given in `with`").optional(),
            InputPort::one("completions", PortType::Completions, "or prompts with what was generated behind them")
                .optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "lens.jsonl: by prompt, layer and position the most probable tokens, entropy, and divergences from the \
                     last layer";
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
        let mut problems = crate::training::at_least_one(&[("top_k", params.top_k)]);
        problems.extend(params.device.problem());
        problems
    }

    fn check_links(params: &Params, linked: &[&str]) -> Vec<ParamProblem> {
        read::check_links(!params.prompts.is_empty(), NOTHING, linked)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let sources = sources(&params, ctx)?;
        let cells = on_cpus(ctx, || {
            let (model, tokenizer) = Looked::load(ctx)?;
            let mut cells = Vec::new();
            for (done, source) in sources.iter().enumerate() {
                ctx.progress(done, sources.len(), "prompt")?;
                cells.extend(model.look(&tokenizer, source, params.top_k)?);
            }
            Ok(cells)
        })?;
        ctx.summary("prompts", sources.len());
        ctx.summary("cells", cells.len());
        ctx.output("trajectory")?.write_jsonl(records::TRAJECTORY, &cells)
    }
}

/// What is read: from `with`, or from an input.
fn sources(params: &Params, ctx: &Context<'_>) -> Result<Vec<Source>, StageError> {
    let Some(mut sources) = read::linked(ctx)? else {
        if params.prompts.is_empty() {
            return Err(StageError::failed(NOTHING));
        }
        let source = |text: &String| {
            let prompt = Prompt {
                id: text.clone(),
                text: text.clone(),
                identity: None,
                group: records::ALL.to_owned(),
                template: None,
                split: None,
                exposure: None,
                facts: BTreeMap::new(),
            };
            Source { prompt, sample: 0, continuation: String::new() }
        };
        return Ok(params.prompts.iter().map(source).collect());
    };
    if !params.prompts.is_empty() {
        return Err(StageError::failed(read::TWICE));
    }
    let is = |source: &Source, name: &String| source.prompt.id == *name || source.prompt.text == *name;
    if let Some(unknown) = params.only.iter().find(|name| !sources.iter().any(|source| is(source, name))) {
        return Err(StageError::failed(format!("`only` names `{unknown}`, and no prompt has that id or text")));
    }
    sources.retain(|source| params.only.is_empty() || params.only.iter().any(|name| is(source, name)));
    if sources.is_empty() {
        return Err(StageError::failed("the input holds no prompt to look at"));
    }
    Ok(sources)
}

/// Whoever is looked into.
enum Looked {
    Causal(CausalLm),
    /// BERT says at each place which token stands there, not which comes next.
    Masked(MaskedLm),
}

impl Looked {
    fn load(ctx: &Context<'_>) -> Result<(Self, Tokenizer), StageError> {
        let files = model_files(ctx.input("model")?);
        let config = files.text("config.json").map_err(failed)?;
        let family = config.and_then(|text| ModelConfig::parse(&text).ok()).map(|config| config.family);
        if family == Some(Family::Bert) {
            let model = MaskedLm::load(&files, &device::open(ctx)?).map_err(failed)?;
            return Ok((Looked::Masked(model), Tokenizer::load(&files).map_err(failed)?));
        }
        let (_, model, tokenizer) = load(ctx)?;
        Ok((Looked::Causal(model), tokenizer))
    }

    fn look(&self, tokenizer: &Tokenizer, source: &Source, top_k: usize) -> Result<Vec<LensCell>, StageError> {
        let context = match self {
            Looked::Causal(model) => model.config().context,
            Looked::Masked(model) => model.config().context,
        };
        let read = source.read(tokenizer, context)?;
        let batch = Batch::single(&read.ids).map_err(failed)?;
        let (lens, ahead) = match self {
            Looked::Causal(model) => (LogitLens::read(model, &batch, top_k), 1),
            Looked::Masked(model) => (LogitLens::read(model, &batch, top_k), 0),
        };
        let texts: Result<Vec<String>, ModelError> = read.ids.iter().map(|&id| told(tokenizer, id)).collect();
        let (lens, texts) = (lens.map_err(failed)?, texts.map_err(failed)?);
        let mut cells = Vec::new();
        for (layer, points) in lens.depths.into_iter().enumerate() {
            for (position, point) in points.into_iter().enumerate() {
                let top = |&(id, probability): &(u32, f64)| Ok((told(tokenizer, id)?, probability));
                let top_k: Result<Vec<(String, f64)>, ModelError> = point.top.iter().map(top).collect();
                cells.push(LensCell {
                    prompt: source.prompt.text.clone(),
                    sample: source.sample,
                    layer,
                    position,
                    token: texts[position].clone(),
                    continuation: position >= read.prompt,
                    next: texts.get(position + ahead).cloned(),
                    top: told(tokenizer, point.top1).map_err(failed)?,
                    max_probability: point.max_probability,
                    entropy: point.entropy,
                    top_k: top_k.map_err(failed)?,
                    final_rank: Some(point.final_rank),
                    kl: Some(point.from_final.kl),
                    js: Some(point.from_final.js),
                    tv: Some(point.from_final.tv),
                });
            }
        }
        Ok(cells)
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
        insta::assert_snapshot!(bench().run::<Lens>(json!({})).err().unwrap(), @"there is nothing to look at: give `with.prompts`, or link `prompts` or `completions`");
    }

    #[test]
    fn continuations_are_read_and_the_last_layer_is_at_no_distance_from_itself() {
        let model = tiny::pretrained(json!({}));
        let bench = || Bench::new().input("model", model.outputs["model"].clone());
        let prompt = |id: &str, text: &str| json!({ "id": id, "text": text, "group": "g" });
        let made = |prompt: Value, text: &str| json!({ "prompt": prompt, "sample": 1, "text": text, "tokens": 1, "finish": "eos" });
        let rows = [made(prompt("a", "bakers are"), " tardy"), made(prompt("b", "smiths"), " are calm")];
        let linked = || bench().rows("completions", records::COMPLETIONS, &rows);
        let done = linked().run::<Lens>(json!({ "only": ["a"], "top_k": 3 })).unwrap();
        let cells: Vec<LensCell> = done.rows("trajectory", records::TRAJECTORY);
        let first: Vec<_> = cells[..4].iter().map(|cell| (cell.next.as_deref(), cell.continuation)).collect();
        assert_eq!(first, [(Some("bakers"), false), (Some("are"), false), (Some("tardy"), false), (None, true)]);
        assert_eq!((cells.len(), cells[0].sample), (8, 1));
        for cell in &cells {
            let sum: f64 = cell.top_k.iter().map(|(_, probability)| probability).sum();
            assert!(cell.top_k.len() == 3 && sum <= 1.0 + 1e-12 && cell.top_k[0].0 == cell.top);
            let last = cell.layer == 1;
            assert_eq!(last, cell.final_rank == Some(1) && [cell.kl, cell.js, cell.tv] == [Some(0.0); 3], "{cell:?}");
        }
        insta::assert_snapshot!(linked().run::<Lens>(json!({ "only": ["c"] })).err().unwrap(), @"`only` names `c`, and no prompt has that id or text");
        insta::assert_snapshot!(done.digest(), @"trajectory 3665d37e35f7");
    }

    /// The masked token of a BERT, by the same lens.
    #[test]
    fn bert_is_looked_into_as_well() {
        let Some(reference) = crate::testing::reference() else { return };
        let folder = reference.join("fixtures/models/bert_cls");
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config = ModelConfig { labels: Vec::new(), ..ModelConfig::parse(&text).unwrap() };
        let made = tempfile::tempdir().unwrap();
        let device = palinode_models::DeviceSpec::Cpu.open().unwrap();
        MaskedLm::random(config, 1, &device).unwrap().save(made.path()).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
            let _ = std::fs::copy(folder.join(name), made.path().join(name));
        }
        let entries = std::fs::read_dir(made.path()).unwrap().map(|entry| entry.unwrap());
        let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
        let bench = Bench::new().input("model", crate::testing::input_files(named));
        let done = bench.run::<Lens>(json!({ "prompts": ["the woman works"] })).unwrap();
        let cells: Vec<LensCell> = done.rows("trajectory", records::TRAJECTORY);
        assert!(cells.iter().all(|cell| cell.next.as_ref() == Some(&cell.token)) && cells.len() > 6);
    }
}
