//! `model`: an existing model, in a folder or on the Hugging Face hub. Its files stay where they are.

use palinode_engine::{
    context::Context,
    job::InputFiles,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use palinode_models::{ModelConfig, ModelError, ModelFiles, Tokenizer, peft, weights::Weights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    hub::{self, HubParams},
    runtime::{base_files, failed},
};

/// The kind.
pub(crate) struct Model;

/// `with` of `model`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// A Hugging Face folder: config.json, weights (safetensors or pytorch_model.bin), a tokenizer (tokenizer.json, or
    /// vocab.json and merges.txt, or vocab.txt). Other files in it don't matter. Or PEFT's adapter (adapter_config.json,
    /// adapter_model.safetensors), with the model that it is for at the input `base` or in its folder `base/`. Or either
    /// of the hub at a commit: `hf://facebook/opt-1.3b@3f5c25d0bc631cb57ac65913f76e22c2dfb61d62`; what a loader reads of
    /// it is fetched into the hub's own cache on this machine.
    source: PathParam,
    /// Where the hub and its cache are, if not where its tools look for them.
    #[serde(default)]
    hub: HubParams,
}

impl Kind for Model {
    type Params = Params;
    const NAME: &'static str = "model";
    const ABOUT: &'static str = "Takes a model from a Hugging Face folder or the hub, without copying it.";
    const REVISION: u32 = 1;
    const UNKEYED: &'static [&'static str] = &["hub"];
    const REMOTE: &'static [&'static str] = &[hub::SCHEME];

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::one(BASE, PortType::Model, "the model that the adapter in `source` is for").optional()]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("model", PortType::Model, "the folder's files that a loader reads")]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        hub::check("source", &params.source.0)
    }

    fn reads(_: &str, relative: &str) -> bool {
        let name = relative.strip_prefix(peft::BASE).unwrap_or(relative);
        const SMALL: [&str; 12] = [
            "added_tokens.json",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "vocab.txt",
            peft::CONFIG,
        ];
        let torch = name.starts_with("pytorch_model") && name.ends_with(".bin") || name == peft::TORCH_TENSORS;
        !name.contains('/') && (SMALL.contains(&name) || name.ends_with(".safetensors") || torch)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let input = match params.source.0.strip_prefix(hub::SCHEME) {
            Some(name) => &hub::fetch(ctx, name, &params.hub, "model", |file| Self::reads("source", file))?,
            None => ctx.files(&params.source)?,
        };
        let base = base_of(ctx, input)?;
        let files = with_base(input, base);
        let base = base_files(&files);
        let text = base.text("config.json").map_err(failed)?;
        let text = text.ok_or_else(|| {
            let kinds = "a folder with config.json, weights and a tokenizer is wanted";
            StageError::failed(format!("`source` is no Hugging Face model: it has no config.json; {kinds}"))
        })?;
        let config = ModelConfig::parse(&text).map_err(|error| failed(ModelError::from(error)))?;
        let weights = Weights::open(&base).map_err(failed)?;
        let adapter = [peft::TENSORS, peft::TORCH_TENSORS].into_iter().find(|name| files.get(name).is_some());
        match adapter {
            Some(adapter) if files.get(peft::CONFIG).is_some() => {
                Weights::open_file(&files, adapter).map_err(failed)?;
            }
            None if files.get(peft::CONFIG).is_some() => return Err(StageError::failed(NO_ADAPTER)),
            _ => {}
        }
        let tokenizer = Tokenizer::load(&base).map_err(failed)?;
        tokenizer.check(config.vocab_size).map_err(failed)?;
        ctx.summary("family", config.family.name());
        ctx.summary("layers", config.layers);
        ctx.summary("width", config.hidden);
        ctx.summary("context", config.context);
        ctx.summary("vocabulary", config.vocab_size);
        ctx.summary("tokenizer_vocabulary", tokenizer.vocab_size());
        ctx.summary("tensors", weights.names().count());
        ctx.summary("adapted", files.get(peft::CONFIG).is_some());
        if !config.labels.is_empty() {
            ctx.summary("classes", config.labels.len());
        }
        let output = ctx.output("model")?;
        if !hub::is_remote(&params.source.0) {
            output.include("", input);
        }
        if let Some(base) = ctx.optional(BASE)? {
            output.include(peft::BASE, base);
        }
        Ok(())
    }
}

/// The port of an adapter's base.
const BASE: &str = "base";
const NO_ADAPTER: &str = "`source` has an adapter_config.json and no adapter_model.safetensors (or .bin) beside it";

/// The model that is linked as the base of the adapter in `source`, if one is and it makes sense.
fn base_of<'a>(ctx: &'a Context<'_>, source: &InputFiles) -> Result<Option<&'a InputFiles>, StageError> {
    let Some(config) = source.get(peft::CONFIG) else {
        return match ctx.optional(BASE)? {
            None => Ok(None),
            Some(_) => Err(StageError::failed(
                "`source` holds a model of its own and no adapter (adapter_config.json): drop the input `base`",
            )),
        };
    };
    let within = source.get(&format!("{}config.json", peft::BASE)).is_some();
    match ctx.optional(BASE)? {
        Some(_) if within => Err(StageError::failed(
            "`source` is an adapter that brings its model in `base/`: drop the input `base`, or that folder",
        )),
        Some(base) if base.get(peft::CONFIG).is_some() => Err(StageError::failed(
            "the input `base` has adapters already, and a model can't carry two sets: link the model that they are for",
        )),
        None if !within => {
            let text = std::fs::read_to_string(config).map_err(StageError::io(config))?;
            let named = serde_json::from_str::<Value>(&text).ok();
            let named = named.as_ref().and_then(|config| config["base_model_name_or_path"].as_str());
            let of = named.map_or_else(String::new, |name| format!(" (it names `{name}`)"));
            Err(StageError::failed(format!(
                "`source` is an adapter without the model that it is for{of}: link that model to the input `base`"
            )))
        }
        base => Ok(base),
    }
}

/// The files of `source`, with the base's below `base/`.
fn with_base(source: &InputFiles, base: Option<&InputFiles>) -> ModelFiles {
    let below = base.into_iter().flat_map(|base| &base.files);
    let below = below.map(|(name, file)| (format!("{}{name}", peft::BASE), file.path.clone()));
    source.files.iter().map(|(name, file)| (name.clone(), file.path.clone())).chain(below).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::records;
    use crate::testing::{Bench, reference};

    #[test]
    fn only_what_a_loader_reads_is_part_of_a_model() {
        let reads = |name: &str| Model::reads("source", name);
        for name in ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "base/config.json"] {
            assert!(reads(name), "{name}");
        }
        for name in [
            "pytorch_model.bin",
            "adapter_model.bin",
            "base/pytorch_model-00001-of-00002.bin",
            "pytorch_model.bin.index.json",
        ] {
            assert!(reads(name), "{name}");
        }
        for name in ["vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"] {
            assert!(reads(name), "{name}");
        }
        for name in ["README.md", "training_args.bin", "original/consolidated.safetensors", ".git/config.json"] {
            assert!(!reads(name), "{name}");
        }
    }

    #[test]
    fn a_folder_without_a_config_is_told() {
        let bench = Bench::new().file("source", "file.txt", "x");
        insta::assert_snapshot!(bench.run::<Model>(json!({ "source": "source" })).err().unwrap(), @"`source` is no Hugging Face model: it has no config.json; a folder with config.json, weights and a tokenizer is wanted");
    }

    #[test]
    fn a_published_model_is_taken_as_it_is() {
        let Some(folder) = reference().map(|folder| folder.join("models/stories260K")) else { return };
        let bench = Bench::new().folder("source", &folder, &|name| Model::reads("source", name));
        let done = bench.run::<Model>(json!({ "source": "source" })).unwrap();
        insta::assert_snapshot!(json!(done.summary), @r#"{"adapted":false,"context":512,"family":"llama","layers":5,"tensors":47,"tokenizer_vocabulary":512,"vocabulary":512,"width":64}"#);
        let names: Vec<_> = done.outputs["model"].files.keys().cloned().collect();
        insta::assert_snapshot!(names.join(" "), @"config.json generation_config.json model.safetensors special_tokens_map.json tokenizer.json tokenizer_config.json");
    }

    /// The models crate's own fixtures: weights in a pickle, a vocabulary without tokenizer.json, a classifier.
    fn fixture(model: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/models").join(model)
    }

    #[test]
    fn older_forms_are_taken_too() {
        let bench = Bench::new().folder("source", &fixture("opt_bin"), &|name| Model::reads("source", name));
        let done = bench.run::<Model>(json!({ "source": "source" })).unwrap();
        insta::assert_snapshot!(json!(done.summary), @r#"{"adapted":false,"context":64,"family":"opt","layers":2,"tensors":36,"tokenizer_vocabulary":480,"vocabulary":480,"width":32}"#);
        let names: Vec<_> = done.outputs["model"].files.keys().cloned().collect();
        insta::assert_snapshot!(names.join(" "), @"config.json merges.txt pytorch_model.bin tokenizer_config.json vocab.json");
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture("opt_bin")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let config = std::fs::read_to_string(fixture("opt_bin/config.json")).unwrap();
        let smaller = config.replace("\"vocab_size\": 480", "\"vocab_size\": 479");
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        std::fs::write(folder.path().join("config.json"), smaller).unwrap();
        let bench = Bench::new().folder("source", folder.path(), &|name| Model::reads("source", name));
        insta::assert_snapshot!(bench.run::<Model>(json!({ "source": "source" })).err().unwrap(), @"the tokenizer's highest id is 479 (`Ġdescribes`), but the model embeds only 479 ids: it is another model's, or tokens were added to it and the embedding wasn't resized");
    }
    /// PEFT's adapter, as it lies in a folder of its own, on the model that is linked.
    #[test]
    fn an_adapter_takes_its_model_from_an_input() {
        let folder = tempfile::tempdir().unwrap();
        let adapter = fixture("../peft/llama-head");
        for name in [peft::CONFIG, peft::TENSORS] {
            std::fs::copy(adapter.join(name), folder.path().join(name)).unwrap();
        }
        let bench = |base: Option<&str>| {
            let bench = Bench::new().folder("source", folder.path(), &|name| Model::reads("source", name));
            match base {
                Some(base) => bench.input("base", crate::testing::folder(&fixture(base))),
                None => bench,
            }
        };
        let done = bench(Some("llama")).run::<Model>(json!({ "source": "source" })).unwrap();
        assert_eq!((&done.summary["adapted"], &done.summary["family"]), (&json!(true), &json!("llama")));
        insta::assert_snapshot!(
            done.outputs["model"].files.keys().cloned().collect::<Vec<_>>().join(" "),
            @"adapter_config.json adapter_model.safetensors base/config.json base/generation_config.json base/model.safetensors base/tokenizer.json base/tokenizer_config.json"
        );
        let prompt = json!({ "id": "p", "text": "The teacher", "group": "g" });
        let said = |model: &InputFiles| {
            let bench = Bench::new().input("model", model.clone()).rows(
                "prompts",
                records::PROMPTS,
                std::slice::from_ref(&prompt),
            );
            let said = bench.run::<crate::generate::Generate>(json!({ "do_sample": false })).unwrap();
            said.rows::<records::Completion>("completions", records::COMPLETIONS)[0].text.clone()
        };
        assert_ne!(said(&done.outputs["model"]), said(&crate::testing::folder(&fixture("llama"))));

        let refused = |bench: Bench| bench.run::<Model>(json!({ "source": "source" })).err().unwrap();
        insta::assert_snapshot!(refused(bench(None)), @"`source` is an adapter without the model that it is for (it names `llama`): link that model to the input `base`");
        let twice = Bench::new().folder("source", folder.path(), &|name| Model::reads("source", name));
        insta::assert_snapshot!(refused(twice.input("base", done.outputs["model"].clone())), @"the input `base` has adapters already, and a model can't carry two sets: link the model that they are for");
        let whole = Bench::new().folder("source", &fixture("llama"), &|name| Model::reads("source", name));
        insta::assert_snapshot!(refused(whole.input("base", crate::testing::folder(&fixture("llama")))), @"`source` holds a model of its own and no adapter (adapter_config.json): drop the input `base`");
        std::fs::remove_file(folder.path().join(peft::TENSORS)).unwrap();
        insta::assert_snapshot!(refused(bench(Some("llama"))), @"`source` has an adapter_config.json and no adapter_model.safetensors (or .bin) beside it");
    }
}
