//! Opens the folders that `tests/peft_roundtrip.py` wrote with PEFT, computes the logits of the ids in
//! `expected.safetensors`, and compares: `cargo run --release -p palinode-models --example read_adapted FOLDER`.
#![expect(clippy::print_stdout, reason = "a program that is run by hand")]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::model::{Classes, Model, NextToken, Task, values};
use palinode_models::weights::Weights;
use palinode_models::{Batch, ModelConfig, ModelError, ModelFiles, lora, peft};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("which folder?")?);
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(&root)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    folders.sort();
    if folders.is_empty() {
        return Err(format!("{} holds no folders", root.display()).into());
    }
    let mut worst = 0.0f32;
    for folder in folders {
        let [adapted, merged] = differences(&folder)?;
        println!("{}: adapter off by {adapted:.1e}, merged by {merged:.1e}", folder.display());
        worst = worst.max(adapted).max(merged);
    }
    if worst < 1e-5 { Ok(()) } else { Err(format!("off by {worst:e}").into()) }
}

fn differences(folder: &Path) -> Result<[f32; 2], Box<dyn std::error::Error>> {
    let mut expected = Weights::open_file(&ModelFiles::folder(folder)?, "expected.safetensors")?;
    let (dims, ids) = expected.read("ids")?;
    let (_, logits) = expected.read("logits")?;
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let batch = Batch::new(ids.clone(), vec![true; ids.len()], [dims[0], dims[1]])?;
    let base = ModelFiles::folder(folder.join("base"))?;
    let config = ModelConfig::parse(&base.text("config.json")?.ok_or("no config.json")?)?;
    match config.labels.is_empty() {
        true => compare::<NextToken>(folder, &base, &logits, |model| Ok(values(model.forward(&batch)?))),
        false => compare::<Classes>(folder, &base, &logits, |model| Ok(values(model.forward(&batch)?))),
    }
}

/// Largest differences of the adapted model's logits, and of the merged one's.
fn compare<T: Task>(
    folder: &Path,
    base: &ModelFiles,
    logits: &[f32],
    forward: impl Fn(&Model<T>) -> Result<Vec<f32>, ModelError>,
) -> Result<[f32; 2], Box<dyn std::error::Error>> {
    let base = Model::load(base, &Device::flex())?;
    let mut model = peft::with_adapter(&base, &ModelFiles::folder(folder)?)?;
    let off = |model: &Model<T>| -> Result<f32, Box<dyn std::error::Error>> {
        let found = forward(model)?;
        if found.len() != logits.len() {
            return Err("another number of logits".into());
        }
        Ok(found.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
    };
    let adapted = off(&model)?;
    lora::merge(&mut model);
    Ok([adapted, off(&model)?])
}
