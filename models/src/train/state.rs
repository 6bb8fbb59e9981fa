//! The state of a training run between two steps, from which it goes on to the same bytes: what learns, the optimizer's
//! moments, and where it is. Order of examples and dropout are functions of seed and step, so a number says it all.
//!
//! Its file is a safetensors file of f32 tensors `weight.<name>`, `first.<name>`, `second.<name>`, `best.<name>`, with
//! the rest as JSON in its metadata, where floats are written as their bits.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::values::Values;
use super::{Evaluation, StepReport};
use crate::error::ModelError;

/// The state of a training run between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainState {
    pub(super) progress: Progress,
    /// What learns.
    pub(super) weights: Values,
    /// First and second moments.
    pub(super) moments: BTreeMap<String, [Vec<f32>; 2]>,
    /// The best weights so far, if they are to be kept and aren't the present ones.
    pub(super) best: Option<Values>,
}

/// Where a run is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Progress {
    /// Forward passes so far: the counter of dropout masks.
    pub(super) passes: u64,
    /// Examples seen.
    pub(super) examples: usize,
    /// Tokens that losses were taken on.
    pub(super) tokens: usize,
    /// The steps so far.
    pub(super) steps: Vec<StepReport>,
    /// The evaluations so far.
    pub(super) evaluations: Vec<Evaluation>,
}

/// Metadata of the file, version 1.
const FORMAT: &str = "palinode training 1";

#[derive(Serialize, Deserialize)]
struct Meta {
    passes: u64,
    examples: usize,
    tokens: usize,
    /// Loss, rate and norm as bits, and tokens.
    steps: Vec<[u64; 4]>,
    /// Steps done, and the loss as bits.
    evaluations: Vec<[u64; 2]>,
}

impl TrainState {
    /// Optimizer steps that are done.
    pub fn steps(&self) -> usize {
        self.progress.steps.len()
    }

    /// Writes the file `path`, and syncs it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let io = |error| ModelError::io(path, error);
        let tensors = self.tensors();
        let mut header = serde_json::Map::new();
        let meta = serde_json::to_string(&self.progress.meta()).map_err(|error| io(error.into()))?;
        header.insert("__metadata__".into(), serde_json::json!({ "format": FORMAT, "progress": meta }));
        let mut offset = 0;
        for (name, values) in &tensors {
            let end = offset + 4 * values.len();
            let entry = serde_json::json!({ "dtype": "F32", "shape": [values.len()], "data_offsets": [offset, end] });
            header.insert(name.clone(), entry);
            offset = end;
        }
        let mut header = serde_json::Value::Object(header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
        let mut write = || {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            for values in tensors.values() {
                for part in values.chunks(1 << 14) {
                    let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
                    file.write_all(&bytes)?;
                }
            }
            file.flush()?;
            file.get_ref().sync_all()
        };
        write().map_err(io)
    }

    /// Reads what [`TrainState::write`] wrote.
    ///
    /// # Errors
    /// If the file can't be read, is cut off, or is of another version.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let broken = |reason: String| ModelError::BrokenTensors { name: name.clone(), reason };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
        let metadata: HashMap<String, String> = header.metadata().clone().unwrap_or_default();
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(broken(format!("it is no checkpoint of this version (`{FORMAT}`)")));
        }
        let meta = metadata.get("progress").map_or("", String::as_str);
        let meta: Meta = serde_json::from_str(meta).map_err(|error| broken(error.to_string()))?;
        let mut state =
            TrainState { progress: meta.into(), weights: Values::new(), moments: BTreeMap::new(), best: None };
        for (name, view) in tensors.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(broken(format!("`{name}` is not f32")));
            }
            let values: Vec<f32> =
                view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let Some((part, name)) = name.split_once('.') else {
                return Err(broken(format!("`{name}` has no place in it")));
            };
            match part {
                "weight" => drop(state.weights.insert(name.to_owned(), values)),
                "first" => state.moments.entry(name.to_owned()).or_default()[0] = values,
                "second" => state.moments.entry(name.to_owned()).or_default()[1] = values,
                "best" => drop(state.best.get_or_insert_default().insert(name.to_owned(), values)),
                _ => return Err(broken(format!("`{part}.{name}` has no place in it"))),
            }
        }
        Ok(state)
    }

    fn tensors(&self) -> BTreeMap<String, &[f32]> {
        let mut tensors = BTreeMap::new();
        for (name, values) in &self.weights {
            tensors.insert(format!("weight.{name}"), &values[..]);
        }
        for (name, [first, second]) in &self.moments {
            tensors.insert(format!("first.{name}"), &first[..]);
            tensors.insert(format!("second.{name}"), &second[..]);
        }
        for (name, values) in self.best.iter().flatten() {
            tensors.insert(format!("best.{name}"), &values[..]);
        }
        tensors
    }
}

impl Progress {
    fn meta(&self) -> Meta {
        let step = |step: &StepReport| {
            [step.loss.to_bits(), step.rate.to_bits(), step.gradient_norm.to_bits(), step.tokens as u64]
        };
        Meta {
            passes: self.passes,
            examples: self.examples,
            tokens: self.tokens,
            steps: self.steps.iter().map(step).collect(),
            evaluations: self.evaluations.iter().map(|one| [one.steps as u64, one.loss.to_bits()]).collect(),
        }
    }
}

impl From<Meta> for Progress {
    fn from(meta: Meta) -> Self {
        let step = |(step, [loss, rate, norm, tokens]): (usize, [u64; 4])| StepReport {
            step,
            loss: f64::from_bits(loss),
            rate: f64::from_bits(rate),
            gradient_norm: f64::from_bits(norm),
            tokens: tokens as usize,
        };
        let evaluation = |[steps, loss]: [u64; 2]| Evaluation { steps: steps as usize, loss: f64::from_bits(loss) };
        Progress {
            passes: meta.passes,
            examples: meta.examples,
            tokens: meta.tokens,
            steps: meta.steps.into_iter().enumerate().map(step).collect(),
            evaluations: meta.evaluations.into_iter().map(evaluation).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TrainState {
        let step =
            |step| StepReport { step, loss: 0.1 + step as f64, rate: 1e-3 / 3.0, gradient_norm: 1e300, tokens: 7 };
        let values = |phase: f32| Values::from([("a.weight".to_owned(), vec![phase, -0.0, f32::MIN_POSITIVE])]);
        TrainState {
            progress: Progress {
                passes: 9,
                examples: 17,
                tokens: 21,
                steps: (0..3).map(step).collect(),
                evaluations: vec![Evaluation { steps: 2, loss: f64::MAX }],
            },
            weights: values(0.1),
            moments: BTreeMap::from([("a.weight".to_owned(), [vec![1.0; 3], vec![2.0; 3]])]),
            best: Some(values(0.3)),
        }
    }

    #[test]
    fn what_is_written_is_read_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let [path, again] = ["state", "again"].map(|name| folder.path().join(name));
        state().write(&path).unwrap();
        let read = TrainState::read(&path).unwrap();
        assert_eq!(read, state());
        assert_eq!(read.steps(), 3);
        read.write(&again).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
    }

    #[test]
    fn a_cut_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        state().write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 7, 100, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let error = TrainState::read(&path).unwrap_err().to_string();
            assert!(error.starts_with("`state` is not a whole safetensors file: "), "{error}");
        }
        crate::weights::write_safetensors(&path, &BTreeMap::new()).unwrap();
        let error = TrainState::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("it is no checkpoint of this version (`palinode training 1`)"), "{error}");
    }
}
