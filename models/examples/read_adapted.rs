//! Opens the folders that `tests/peft_roundtrip.py` wrote with PEFT, computes the logits of the ids in
//! `expected.safetensors`, and compares: `cargo run --release -p palinode-models --example read_adapted FOLDER`.
#![expect(clippy::print_stdout, reason = "a program that is run by hand")]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::model::values;
use palinode_models::weights::Weights;
use palinode_models::{Batch, CausalLm, ModelFiles, lora, peft};

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
    let base = CausalLm::load(&ModelFiles::folder(folder.join("base"))?, &Device::flex())?;
    let mut model = peft::with_adapter(&base, &ModelFiles::folder(folder)?)?;
    let off = |model: &CausalLm| -> Result<f32, Box<dyn std::error::Error>> {
        let found = values(model.forward(&batch)?);
        if found.len() != logits.len() {
            return Err("another number of logits".into());
        }
        Ok(found.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
    };
    let adapted = off(&model)?;
    lora::merge(&mut model);
    Ok([adapted, off(&model)?])
}
