//! `model`: an existing model, in a folder or on the Hugging Face hub. Its files stay where they are.

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use palinode_models::{ModelConfig, ModelError, Tokenizer, peft, weights::Weights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    hub::{self, HubParams},
    runtime::{base_files, failed, model_files},
};

/// The kind.
pub(crate) struct Model;

/// `with` of `model`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// A Hugging Face folder: config.json, weights (safetensors or pytorch_model.bin), a tokenizer (tokenizer.json, or
    /// vocab.json and merges.txt, or vocab.txt). Other files in it don't matter. Or a model of the hub at a commit:
    /// `hf://facebook/opt-1.3b@3f5c25d0bc631cb57ac65913f76e22c2dfb61d62`; what a loader reads of it is fetched into the
    /// hub's own cache on this machine.
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
        Vec::new()
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
        let files = model_files(input);
        let base = base_files(&files);
        let text = base.text("config.json").map_err(failed)?;
        let text = text.ok_or_else(|| {
            let kinds = "a folder with config.json, weights and a tokenizer is wanted";
            StageError::failed(format!("`source` is no Hugging Face model: it has no config.json; {kinds}"))
        })?;
        let config = ModelConfig::parse(&text).map_err(|error| failed(ModelError::from(error)))?;
        let weights = Weights::open(&base).map_err(failed)?;
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
        if !hub::is_remote(&params.source.0) {
            ctx.output("model")?.include("", input);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
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
}
