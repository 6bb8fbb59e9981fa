//! Writes a small random model, a trained LoRA adapter on it, and the logits of a few tokens into a folder, for
//! `tests/peft_roundtrip.py` to read: `cargo run --release -p palinode-models --example write_adapted FOLDER`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::lora::{self, LoraConfig};
use palinode_models::model::values;
use palinode_models::train::{Example, Length, TrainConfig, Trained, train};
use palinode_models::weights::write_safetensors;
use palinode_models::{Batch, CausalLm, ModelConfig, peft};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("which folder?")?);
    let gpt2 = ModelConfig::gpt2(90, 32, 48, 3, 4);
    let llama = ModelConfig { kv_heads: 2, ..ModelConfig::llama(90, 32, 48, 3, 4, 100) };
    for config in [gpt2, llama] {
        let name = config.family.name();
        let defaults = LoraConfig { rslora: true, ..LoraConfig::peft_default(config.family, 4) };
        for (kind, lora) in [("all", LoraConfig::paper_text(6)), ("default", defaults)] {
            write(&root.join(format!("{name}-{kind}")), config.clone(), &lora)?;
        }
    }
    Ok(())
}

fn write(folder: &Path, config: ModelConfig, lora: &LoraConfig) -> Result<(), Box<dyn std::error::Error>> {
    let mut model = CausalLm::random(config, 3, &Device::flex())?;
    model.save(&folder.join("base"))?;
    lora::attach(&mut model, lora, 4)?;
    let ids = |at: u32| (0..12).map(|i| (at * 29 + i * i * 7) % 90).collect::<Vec<u32>>();
    let examples: Vec<Example> = (0..32).map(|at| Example { ids: ids(at), loss_from: 0 }).collect();
    let training =
        TrainConfig { trained: Trained::Adapters, rate: 2e-2, length: Length::Epochs(6), ..TrainConfig::default() };
    let (model, _) = train(model, &examples, &training, |_, _| ControlFlow::Continue(()))?;
    peft::save_adapter(&model, lora, "base", folder)?;
    let rows = [ids(40), ids(41)];
    let logits = values(model.forward_rows(&Batch::right_padded(&rows, 0)?)?);
    let mut plain = model.clone();
    lora::merge(&mut plain);
    plain.save(&folder.join("merged"))?;
    let tensors = BTreeMap::from([
        ("ids".to_owned(), (vec![2, 12], rows.concat().iter().map(|&id| id as f32).collect())),
        ("logits".to_owned(), (vec![2, 12, 90], logits)),
    ]);
    Ok(write_safetensors(&folder.join("expected.safetensors"), &tensors)?)
}
