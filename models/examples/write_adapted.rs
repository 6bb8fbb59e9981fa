//! Writes small random models, trained LoRA adapters on them and a model that was finetuned in full, with the logits
//! of a few tokens, into a folder for `tests/peft_roundtrip.py` to read:
//! `cargo run --release -p palinode-models --example write_adapted FOLDER`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::lora::{self, LayerFilter, LoraConfig, Modules, Targets};
use palinode_models::model::values;
use palinode_models::train::{Example, Length, TrainConfig, Trained, train};
use palinode_models::weights::write_safetensors;
use palinode_models::{Batch, CausalLm, Family, ModelConfig, peft};

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("which folder?")?);
    let gpt2 = ModelConfig::gpt2(90, 32, 48, 3, 4);
    let llama = ModelConfig { kv_heads: 2, head: 10, ..ModelConfig::llama(90, 32, 48, 3, 4, 100) };
    for config in [gpt2, llama] {
        let name = config.family.name();
        for (kind, lora) in adapters(config.family) {
            adapter(&root.join(format!("{name}-{kind}")), config.clone(), &lora)?;
        }
        full(&root.join(format!("{name}-full")), config)?;
    }
    Ok(())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// What of a config can change which modules an adapter touches, and how.
fn adapters(family: Family) -> Vec<(&'static str, LoraConfig)> {
    let paper = |rank| LoraConfig::paper_text(rank);
    let default = LoraConfig { rslora: true, ..LoraConfig::peft_default(family, 4) };
    let (attention, block, embedding) = match family {
        Family::Gpt2 => ("c_attn", "h", "wte"),
        _ => ("v_proj", "layers", "embed_tokens"),
    };
    let patterns = LoraConfig {
        rslora: true,
        rank_pattern: vec![(attention.into(), 6), (format!(r"{block}\.[12]\..*"), 2)],
        alpha_pattern: vec![(format!(r".*\.{block}\.1\.mlp\..*"), 5.0), (attention.into(), 9.0)],
        ..paper(3)
    };
    let regex = LoraConfig {
        targets: Targets::Pattern(format!(r".*\.{block}\.(?!1\.)\d+\..*attn\.(c_.*|.*_proj)")),
        exclude: Some(Modules::Names(names(&["2.attn.c_proj", "0.self_attn.o_proj"]))),
        ..paper(4)
    };
    let saved = LoraConfig {
        targets: Targets::Names(names(&[attention])),
        layers: Some(LayerFilter { indexes: vec![0, 2], called: names(&[block]) }),
        modules_to_save: names(&["lm_head", embedding]),
        ..paper(2)
    };
    let oversized = LoraConfig { targets: Targets::Names(names(&[attention])), ..paper(64) };
    vec![
        ("all", paper(6)),
        ("default", default),
        ("patterns", patterns),
        ("regex", regex),
        ("saved", saved),
        ("oversized", oversized),
    ]
}

fn ids(at: u32) -> Vec<u32> {
    (0..12).map(|i| (at * 29 + i * i * 7) % 90).collect()
}

fn tune(model: CausalLm, trained: Trained) -> Result<CausalLm, Failed> {
    let examples: Vec<Example> = (0..32).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
    let training = TrainConfig { trained, rate: 2e-2, length: Length::Epochs(6), ..TrainConfig::default() };
    Ok(train(model, &examples, &training, |_, _| ControlFlow::Continue(()))?.0)
}

fn adapter(folder: &Path, config: ModelConfig, lora: &LoraConfig) -> Result<(), Failed> {
    let mut model = CausalLm::random(config, 3, &Device::flex())?;
    model.save(&folder.join("base"))?;
    lora::attach(&mut model, lora, 4)?;
    let model = tune(model, Trained::Adapters)?;
    peft::save_adapter(&model, lora, "base", folder)?;
    let mut plain = model.clone();
    lora::merge(&mut plain);
    plain.save(&folder.join("merged"))?;
    expected(folder, &model)
}

fn full(folder: &Path, config: ModelConfig) -> Result<(), Failed> {
    let model = CausalLm::random(config, 3, &Device::flex())?;
    model.save(&folder.join("base"))?;
    let model = tune(model, Trained::All)?;
    model.save(&folder.join("merged"))?;
    expected(folder, &model)
}

fn expected(folder: &Path, model: &CausalLm) -> Result<(), Failed> {
    let rows = [ids(40), ids(41)];
    let logits = values(model.forward_rows(&Batch::right_padded(&rows, 0)?)?);
    let tensors = BTreeMap::from([
        ("ids".to_owned(), (vec![2, 12], rows.concat().iter().map(|&id| id as f32).collect())),
        ("logits".to_owned(), (vec![2, 12, 90], logits)),
    ]);
    Ok(write_safetensors(&folder.join("expected.safetensors"), &tensors)?)
}
