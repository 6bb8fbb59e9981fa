//! Tensors by their Hugging Face names: from safetensors files (strictly: each tensor must be used, and each one
//! needed must be there in the right shape), or made up at random.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layers::{Embedding, LayerNorm, Linear, RmsNorm, ops};
use crate::rng::Stream;

/// What a made-up tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    Zeros,
    Ones,
    Normal(f64),
}

/// Gives a model its tensors, one by one, as it is built. One description of each family thus serves for
/// loading and for starting from scratch.
pub(crate) trait Source {
    /// Values of the tensor with this name and shape, in row-major order.
    fn values(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Vec<f32>>;

    fn vector(&mut self, name: &str, width: usize, init: Init, device: &Device) -> Result<Tensor<1>> {
        Ok(ops::from_vec(self.values(name, &[width], init)?, [width], device))
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2], init: Init, device: &Device) -> Result<Tensor<2>> {
        Ok(ops::from_vec(self.values(name, &shape, init)?, shape, device))
    }

    /// `stored_out_in`: the file holds `[out, in]` (torch's Linear), not `[in, out]` (GPT-2's Conv1D).
    fn linear(
        &mut self,
        path: &str,
        [input, output]: [usize; 2],
        stored_out_in: bool,
        bias: bool,
        std: f64,
        device: &Device,
    ) -> Result<Linear> {
        let name = format!("{path}.weight");
        let weight = if stored_out_in {
            let values = self.values(&name, &[output, input], Init::Normal(std))?;
            ops::from_vec(transposed(&values, output, input), [input, output], device)
        } else {
            self.matrix(&name, [input, output], Init::Normal(std), device)?
        };
        let bias = match bias {
            true => Some(self.vector(&format!("{path}.bias"), output, Init::Zeros, device)?),
            false => None,
        };
        Ok(Linear::new(weight, bias))
    }

    fn embedding(&mut self, path: &str, shape: [usize; 2], std: f64, device: &Device) -> Result<Embedding> {
        Ok(Embedding::new(self.matrix(&format!("{path}.weight"), shape, Init::Normal(std), device)?))
    }

    fn layer_norm(&mut self, path: &str, width: usize, eps: f64, device: &Device) -> Result<LayerNorm> {
        let weight = self.vector(&format!("{path}.weight"), width, Init::Ones, device)?;
        let bias = self.vector(&format!("{path}.bias"), width, Init::Zeros, device)?;
        Ok(LayerNorm::new(weight, bias, eps))
    }

    fn rms_norm(&mut self, path: &str, width: usize, eps: f64, device: &Device) -> Result<RmsNorm> {
        Ok(RmsNorm::new(self.vector(&format!("{path}.weight"), width, Init::Ones, device)?, eps))
    }
}

/// Made-up tensors; each is a function of the seed and its name.
pub(crate) struct Random {
    pub(crate) seed: u64,
}

impl Source for Random {
    fn values(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Vec<f32>> {
        let count = shape.iter().product();
        Ok(match init {
            Init::Zeros => vec![0.0; count],
            Init::Ones => vec![1.0; count],
            Init::Normal(std) => {
                let words: Vec<u64> = name.bytes().map(u64::from).collect();
                let mut stream = Stream::new(self.seed, &words);
                (0..count).map(|_| (stream.normal() * std) as f32).collect()
            }
        })
    }
}

/// The tensors of a model's files.
pub struct Weights {
    shards: Vec<(String, Mmap)>,
    place: BTreeMap<String, usize>,
    unused: BTreeSet<String>,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("tensors", &self.place.keys()).finish()
    }
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Weights {
    /// `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        let Some(index) = files.text(INDEX)?.filter(|_| files.get(SINGLE).is_none()) else {
            return Weights::open_shards(files, &[SINGLE.to_owned()]);
        };
        let invalid = |reason: String| ModelError::Json { name: INDEX.into(), reason };
        let index: serde_json::Value = serde_json::from_str(&index).map_err(|error| invalid(error.to_string()))?;
        let map = index["weight_map"].as_object().ok_or_else(|| invalid("it has no `weight_map`".into()))?;
        let shards: BTreeSet<String> = map.values().filter_map(|shard| shard.as_str()).map(str::to_owned).collect();
        let weights = Weights::open_shards(files, &shards.into_iter().collect::<Vec<_>>())?;
        match map.keys().find(|name| !weights.place.contains_key(*name)) {
            Some(name) => Err(ModelError::MissingTensor { name: name.clone() }),
            None => Ok(weights),
        }
    }

    /// One file by name, whatever it is called (`adapter_model.safetensors`).
    pub fn open_file(files: &ModelFiles, name: &str) -> Result<Self> {
        Weights::open_shards(files, &[name.to_owned()])
    }

    fn open_shards(files: &ModelFiles, names: &[String]) -> Result<Self> {
        let mut weights = Weights { shards: Vec::new(), place: BTreeMap::new(), unused: BTreeSet::new() };
        for (number, name) in names.iter().enumerate() {
            let map = map_file(files.require(name)?)?;
            for tensor in parse(name, &map)?.names() {
                weights.place.insert(tensor.to_owned(), number);
            }
            weights.shards.push((name.clone(), map));
        }
        weights.unused = weights.place.keys().cloned().collect();
        Ok(weights)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    /// Shape and values of a tensor, widened to f32.
    pub fn read(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let missing = || ModelError::MissingTensor { name: name.to_owned() };
        let (file, map) = &self.shards[*self.place.get(name).ok_or_else(missing)?];
        let tensors = parse(file, map)?;
        let view = tensors.tensor(name).map_err(|_| missing())?;
        let values = widen(view.dtype(), view.data())
            .ok_or_else(|| ModelError::ElementType { name: name.to_owned(), dtype: format!("{:?}", view.dtype()) })?;
        self.unused.remove(name);
        Ok((view.shape().to_vec(), values))
    }

    /// Names of the tensors that nobody read yet.
    pub(crate) fn unread(&self) -> impl Iterator<Item = &str> {
        self.unused.iter().map(String::as_str)
    }

    /// An error if a tensor is left that nobody read, except those that `ignored` says hold no weights.
    pub(crate) fn finish(&self, config: &ModelConfig, ignored: impl Fn(&str) -> bool) -> Result<()> {
        let names: Vec<String> = self.unused.iter().filter(|name| !ignored(name)).cloned().collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(ModelError::ExtraTensors { family: config.family.name(), names }),
        }
    }
}

/// Loads by name; `prefix` is what files on the hub may leave out.
pub(crate) struct Load<'a> {
    pub(crate) weights: &'a mut Weights,
    pub(crate) prefix: &'static str,
}

impl Source for Load<'_> {
    fn values(&mut self, name: &str, shape: &[usize], _: Init) -> Result<Vec<f32>> {
        let bare = name.strip_prefix(self.prefix).filter(|bare| !self.weights.has(name) && self.weights.has(bare));
        let (found, values) = self.weights.read(bare.unwrap_or(name))?;
        if found != shape {
            return Err(ModelError::WrongShape { name: name.to_owned(), expected: shape.to_vec(), found });
        }
        Ok(values)
    }
}

/// Writes a safetensors file: names sorted, f32, metadata as transformers wants it. Same tensors, same bytes.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Result<()> {
    std::fs::write(path, safetensors_bytes(tensors)).map_err(|error| ModelError::io(path, error))
}

/// The header is written here and not by the crate, which orders tensors by element type and metadata by chance.
fn safetensors_bytes(tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Vec<u8> {
    let mut header = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut offset = 0;
    for (name, (shape, values)) in tensors {
        let end = offset + 4 * values.len();
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] });
        header.push_str(&format!(",{}:{entry}", serde_json::Value::from(name.as_str())));
        offset = end;
    }
    header.push('}');
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut bytes = Vec::with_capacity(8 + header.len() + offset);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.as_bytes());
    for (_, values) in tensors.values() {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

/// Rows and columns of a row-major matrix exchanged.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row_tile in (0..rows).step_by(TILE) {
        for column in 0..columns {
            for row in row_tile..(row_tile + TILE).min(rows) {
                out[column * rows + row] = values[row * columns + column];
            }
        }
    }
    out
}

#[expect(unsafe_code, reason = "a mapped file; the store's files are read-only and never written in place")]
fn map_file(path: &Path) -> Result<Mmap> {
    let file = std::fs::File::open(path).map_err(|error| ModelError::io(path, error))?;
    unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))
}

fn parse<'a>(name: &str, map: &'a Mmap) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(map)
        .map_err(|error| ModelError::BrokenTensors { name: name.to_owned(), reason: error.to_string() })
}

fn widen(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let halves = || data.as_chunks::<2>().0.iter().copied();
    Some(match dtype {
        Dtype::F32 => data.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect(),
        Dtype::F16 => halves().map(|bytes| half::f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => halves().map(|bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_tensors_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = BTreeMap::from([
            ("b.weight".to_owned(), (vec![2, 2], vec![1.0, 2.0, 3.0, 4.0])),
            ("a".to_owned(), (vec![1], vec![-0.5])),
        ]);
        write_safetensors(&folder.path().join(SINGLE), &tensors).unwrap();
        let mut weights = Weights::open(&ModelFiles::folder(folder.path()).unwrap()).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b.weight"]);
        for (name, tensor) in &tensors {
            assert_eq!(&weights.read(name).unwrap(), tensor);
        }
    }

    #[test]
    fn halves_are_widened() {
        let value = 1.5f32;
        assert_eq!(widen(Dtype::F16, &half::f16::from_f32(value).to_le_bytes()), Some(vec![value]));
        assert_eq!(widen(Dtype::BF16, &half::bf16::from_f32(value).to_le_bytes()), Some(vec![value]));
        assert_eq!(widen(Dtype::I64, &[0; 8]), None);
    }

    #[test]
    fn transposing_twice_gives_the_same() {
        let values: Vec<f32> = (0..35 * 67).map(|at| at as f32).collect();
        assert_eq!(transposed(&transposed(&values, 35, 67), 67, 35), values);
        assert_eq!(transposed(&values, 35, 67)[1], 67.0);
    }
}
