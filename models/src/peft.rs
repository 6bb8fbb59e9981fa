//! Adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors` (older: `adapter_model.bin`). An adapted model is a folder
//! that holds these two and its base's files under `base/`.

mod config;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;

use crate::error::ModelError;
use crate::files::ModelFiles;
use crate::lora::{LoraConfig, LoraError, Plan, UNEMBEDDING, Unmatched, attach_with};
use crate::model::{CausalLm, Model, Task, values};
use crate::parameterized::Parameterized;
use crate::weights::{Weights, is_class_head, transposed, write_safetensors};
pub(crate) use config::parse as read_config;

/// Name of the config's file.
pub const CONFIG: &str = "adapter_config.json";
/// Name of the tensors' file.
pub const TENSORS: &str = "adapter_model.safetensors";
/// Its name where PEFT wrote it as a PyTorch checkpoint (`safe_serialization=False`, and all before 2023).
pub const TORCH_TENSORS: &str = "adapter_model.bin";
/// Where an adapted model's folder holds its base.
pub const BASE: &str = "base/";

/// Opens a plain model, or an adapted one.
pub fn load_model(files: &ModelFiles, device: &Device) -> Result<CausalLm, LoraError> {
    if files.get(CONFIG).is_none() {
        return Ok(CausalLm::load(files, device)?);
    }
    let mut model = CausalLm::load(&files.below(BASE), device)?;
    load_adapter(&mut model, files)?;
    Ok(model)
}

/// The base with the adapters of PEFT's files. The base is left as it is, and both share its weights: one base that is
/// loaded once serves any number of adapters, each at the cost of reading the adapter alone.
pub fn with_adapter<T: Task>(base: &Model<T>, files: &ModelFiles) -> Result<Model<T>, LoraError> {
    let mut model = base.clone();
    load_adapter(&mut model, files)?;
    Ok(model)
}

/// Puts the adapters of PEFT's files on their base; gives what they look like. On an error the model is as before.
pub fn load_adapter<T: Task>(model: &mut Model<T>, files: &ModelFiles) -> Result<LoraConfig, LoraError> {
    let text = files.text(CONFIG)?.ok_or_else(|| ModelError::MissingFile { name: CONFIG.into() })?;
    let config = config::parse(&text, model.config())?;
    let torch = files.get(TENSORS).is_none() && files.get(TORCH_TENSORS).is_some();
    let mut weights = Weights::open_file(files, if torch { TORCH_TENSORS } else { TENSORS })?;
    if let Some(name) = weights.names().find(|name| name.contains(".lora_embedding_")) {
        let supported = "linear layers; an embedding can be saved whole, by `modules_to_save`";
        return Err(LoraError::Unsupported {
            key: "target_modules",
            value: format!("an embedding ({name})"),
            supported,
        });
    }
    let plan = Plan::new(model, &config, Unmatched::Ignore)?;
    let mut found = Tensors { weights: &mut weights, wrong: Vec::new() };
    let mut factors = BTreeMap::new();
    let mut replaced = BTreeMap::new();
    let mut linears = BTreeMap::new();
    model.each_linear(|path, linear| {
        linears.insert(path.to_owned(), linear.dims());
    });
    let shapes = shapes(model);
    let tied = Parameterized::tied_embedding(model).and_then(|embedding| shapes.get(&embedding));
    if let Some(&[vocab, width]) = tied.map(Vec::as_slice) {
        linears.insert(UNEMBEDDING.to_owned(), [width, vocab]);
    }
    for (path, shape) in &plan.adapters {
        let [input, output] = linears[path];
        let a = found.take(&[key(path, 'A')], &[shape.rank, input]);
        let b = found.take(&[key(path, 'B')], &[output, shape.rank]);
        if let (Some(a), Some(b)) = (a, b) {
            factors.insert(path.clone(), (transposed(&a, shape.rank, input), transposed(&b, output, shape.rank)));
        }
        // The weight below an adapter on an embedding or unembedding, which PEFT saves too.
        let below = format!("{PREFIX}{path}.base_layer.weight");
        if found.weights.has(&below)
            && let Some(values) = found.take(&[below], &[output, input])
        {
            replaced.insert(format!("{path}.weight"), values);
        }
    }
    for name in &plan.saved {
        let shape = shapes.get(name).or_else(|| shapes.get(&model.embedding_name())).cloned().unwrap_or_default();
        if let Some(values) = found.take(&saved_keys(name), &shape) {
            replaced.insert(name.clone(), values);
        }
    }
    let Tensors { weights, mut wrong } = found;
    wrong.extend(weights.unread().map(|name| format!("`{name}` belongs to no target")));
    if !wrong.is_empty() {
        return Err(LoraError::Tensors(wrong));
    }
    attach_with(model, &config, &plan, |path, _, _| factors.remove(path).unwrap_or_default())?;
    if !replaced.is_empty() {
        model.replace(replaced);
    }
    Ok(config)
}

/// Writes the adapters of a model, and the modules that are saved with them; a classifier's head always is, as PEFT has
/// it. `base` is what PEFT will look for as the base model. Same adapters, same bytes.
pub fn save_adapter<T: Task>(
    model: &Model<T>,
    config: &LoraConfig,
    base: &str,
    folder: &Path,
) -> Result<(), LoraError> {
    let adapters = model.adapters();
    if adapters.is_empty() {
        return Err(LoraError::State("the model has no adapters".into()));
    }
    let mut tensors = BTreeMap::new();
    for (path, adapter) in &adapters {
        for (factor, param) in [('A', &adapter.a), ('B', &adapter.b)] {
            let [rows, columns] = param.val().dims();
            tensors.insert(key(path, factor), (vec![columns, rows], transposed(&values(param.val()), rows, columns)));
        }
    }
    let classifies = !model.config().labels.is_empty();
    if classifies || !config.modules_to_save.is_empty() {
        let is_saved = |name: &str| model.is_saved(name) || is_class_head(name);
        let saved = model.tensors().into_iter().filter(|(name, _)| is_saved(name));
        tensors.extend(saved.map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)));
    }
    let paths: Vec<String> = adapters.keys().cloned().collect();
    let text = config::render(config, model.config(), &paths, base);
    std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))?;
    let place = folder.join(CONFIG);
    std::fs::write(&place, text).map_err(|error| ModelError::io(&place, error))?;
    Ok(write_safetensors(&folder.join(TENSORS), &tensors)?)
}

const PREFIX: &str = "base_model.model.";

fn key(path: &str, factor: char) -> String {
    format!("{PREFIX}{path}.lora_{factor}.weight")
}

/// What a parameter of a module that is saved whole may be called: PEFT leaves out the wrapper's part of the path,
/// and older files have it.
fn saved_keys(name: &str) -> Vec<String> {
    let wrapped = name.match_indices('.').flat_map(|(at, _)| {
        let (module, rest) = name.split_at(at);
        ["modules_to_save", "modules_to_save.default"].map(|wrapper| format!("{PREFIX}{module}.{wrapper}{rest}"))
    });
    std::iter::once(format!("{PREFIX}{name}")).chain(wrapped).collect()
}

/// Shapes of all parameters, as they lie in files.
fn shapes<T: Task>(model: &Model<T>) -> BTreeMap<String, Vec<usize>> {
    let shape = |parameter: crate::model::Parameter| {
        let mut shape = parameter.shape;
        if shape.len() == 2 && model.stored_out_in(&parameter.name) {
            shape.reverse();
        }
        (parameter.name, shape)
    };
    model.parameters().into_iter().map(shape).collect()
}

/// Tensors that are read while complaints are gathered.
struct Tensors<'a> {
    weights: &'a mut Weights,
    wrong: Vec<String>,
}

impl Tensors<'_> {
    /// The values of the first of these names that is there, if it has the right shape.
    fn take(&mut self, names: &[String], shape: &[usize]) -> Option<Vec<f32>> {
        let Some(name) = names.iter().find(|name| self.weights.has(name)) else {
            self.wrong.push(format!("`{}` is missing", names[0]));
            return None;
        };
        match self.weights.read(name) {
            Ok((found, values)) if found == shape => Some(values),
            Ok((found, _)) => {
                self.wrong.push(format!("`{name}` has shape {found:?}, expected {shape:?}"));
                None
            }
            Err(error) => {
                self.wrong.push(error.to_string());
                None
            }
        }
    }
}
