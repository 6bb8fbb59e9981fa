//! Writes small random models, trained LoRA adapters on them and a model that was finetuned in full, with the logits
//! of a few tokens, into a folder for `tests/peft_roundtrip.py` to read:
//! `cargo run --release -p palinode-models --example write_adapted FOLDER`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::lora::{self, LayerFilter, LoraConfig, Modules, Targets};
use palinode_models::model::values;
use palinode_models::model::{Model, Task};
use palinode_models::train::{Example, Labelled, Length, TrainConfig, Trainable, Trained, train};
use palinode_models::weights::write_safetensors;
use palinode_models::{Batch, CausalLm, Family, ModelConfig, SequenceClassifier, peft};

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
    let labels: Vec<String> = (0..LABELS).map(|label| format!("LABEL_{label}")).collect();
    for config in [
        ModelConfig { pad: Some(0), ..ModelConfig::gpt2(90, 32, 48, 3, 4) },
        ModelConfig::opt(90, 32, 48, 3, 4, 100),
        ModelConfig::bert(90, 32, 48, 3, 4, 100),
    ] {
        let config = ModelConfig { labels: labels.clone(), ..config };
        let family = config.family;
        let default = LoraConfig::peft_default(family, 4);
        for (kind, lora) in [("default", default), ("all", LoraConfig::paper_text(5))] {
            classifier(&root.join(format!("{}-classifier-{kind}", family.name())), config.clone(), &lora)?;
        }
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
    learned(model, &examples, trained)
}

fn learned<M: Trainable>(model: M, examples: &[M::Sample], trained: Trained) -> Result<M, Failed> {
    let training = TrainConfig { trained, rate: 2e-2, length: Length::Epochs(6), ..TrainConfig::default() };
    Ok(train(model, examples, &training, |_, _| ControlFlow::Continue(()))?.0)
}

fn adapter(folder: &Path, config: ModelConfig, lora: &LoraConfig) -> Result<(), Failed> {
    let model = tune(begun(folder, config, lora)?, Trained::Adapters)?;
    ended(folder, &model, lora)?;
    expected(folder, values(model.forward_rows(&batch()?)?), 12 * 90)
}

const LABELS: usize = 3;

/// The head learns beside the adapters, and is saved with them.
fn classifier(folder: &Path, config: ModelConfig, lora: &LoraConfig) -> Result<(), Failed> {
    let model: SequenceClassifier = begun(folder, config, lora)?;
    let label = |at: u32| Labelled { ids: ids(at), types: Vec::new(), label: at % LABELS as u32, weight: 1.0 };
    let examples: Vec<Labelled> = (0..32).map(label).collect();
    let model = learned(model, &examples, Trained::Adapters)?;
    ended(folder, &model, lora)?;
    expected(folder, values(model.forward(&batch()?)?), LABELS)
}

/// A random model, written as the base, with adapters to train.
fn begun<T: Task>(folder: &Path, config: ModelConfig, lora: &LoraConfig) -> Result<Model<T>, Failed> {
    let mut model = Model::random(config, 3, &Device::flex())?;
    model.save(&folder.join("base"))?;
    lora::attach(&mut model, lora, 4)?;
    Ok(model)
}

fn ended<T: Task>(folder: &Path, model: &Model<T>, lora: &LoraConfig) -> Result<(), Failed> {
    peft::save_adapter(model, lora, "base", folder)?;
    let mut plain = model.clone();
    lora::merge(&mut plain);
    Ok(plain.save(&folder.join("merged"))?)
}

fn full(folder: &Path, config: ModelConfig) -> Result<(), Failed> {
    let model = CausalLm::random(config, 3, &Device::flex())?;
    model.save(&folder.join("base"))?;
    let model = tune(model, Trained::All)?;
    model.save(&folder.join("merged"))?;
    expected(folder, values(model.forward_rows(&batch()?)?), 12 * 90)
}

fn batch() -> Result<Batch, Failed> {
    Ok(Batch::right_padded(&[ids(40), ids(41)], 0)?)
}

fn expected(folder: &Path, logits: Vec<f32>, width: usize) -> Result<(), Failed> {
    let ids = batch()?.ids().iter().map(|&id| id as f32).collect();
    let logits = (if width == LABELS { vec![2, LABELS] } else { vec![2, 12, 90] }, logits);
    let tensors = BTreeMap::from([("ids".to_owned(), (vec![2, 12], ids)), ("logits".to_owned(), logits)]);
    Ok(write_safetensors(&folder.join("expected.safetensors"), &tensors)?)
}
