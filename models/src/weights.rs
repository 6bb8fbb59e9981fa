//! Tensors by their Hugging Face names: from safetensors files or PyTorch checkpoints (strictly: each tensor must be
//! used, and each one needed must be there in the right shape), or made up at random.

mod pickle;
mod torch;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::TensorInfo;

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layers::{Embedding, LayerNorm, Linear, RmsNorm, ops};
use crate::rng::Stream;
pub use torch::TorchError;

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

    /// `lm_head` and `score`: the unembedding unless it is the embedding, or a classifier's head.
    fn heads(&mut self, config: &ModelConfig, device: &Device) -> Result<(Option<Linear>, Option<Linear>)> {
        let std = config.initializer_range;
        let mut head =
            |path: &str, count| self.linear(path, [config.embedding, count], true, false, std, device).map(Some);
        Ok(match (config.labels.len(), config.tied) {
            (0, true) => (None, None),
            (0, false) => (head("lm_head", config.vocab_size)?, None),
            (labels, _) => (None, head("score", labels)?),
        })
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
    files: Vec<(String, Mmap)>,
    places: BTreeMap<String, Place>,
    unused: BTreeSet<String>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Place {
    file: usize,
    /// safetensors' word for it.
    dtype: String,
    shape: Vec<usize>,
    /// From its first element to its last.
    bytes: Range<usize>,
    /// Strides in elements, if the elements don't just follow one another.
    strides: Option<Vec<usize>>,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("tensors", &self.places.keys()).finish()
    }
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TORCH: &str = "pytorch_model.bin";
/// How git-lfs begins what stands for a file (its `docs/spec.md`).
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

impl Weights {
    /// `model.safetensors` or the shards that its index names; else the same of `pytorch_model.bin`.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        for (single, index) in [(SINGLE, INDEX), (TORCH, TORCH_INDEX)] {
            if files.get(single).is_some() {
                return Weights::open_file(files, single);
            }
            if let Some(text) = files.text(index)? {
                return Weights::open_index(files, index, &text);
            }
        }
        Err(ModelError::NoWeights)
    }

    fn open_index(files: &ModelFiles, name: &str, text: &str) -> Result<Self> {
        let invalid = |reason: String| ModelError::Json { name: name.into(), reason };
        let index: serde_json::Value = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let map = index["weight_map"].as_object().ok_or_else(|| invalid("it has no `weight_map`".into()))?;
        let place = |(tensor, shard): (&String, &serde_json::Value)| match shard.as_str() {
            Some(shard) => Ok((tensor.clone(), shard.to_owned())),
            None => Err(invalid(format!("`{tensor}` is in {shard}, expected the name of a file"))),
        };
        let map: BTreeMap<String, String> = map.iter().map(place).collect::<Result<_>>()?;
        let shards: BTreeSet<&String> = map.values().collect();
        let weights = Weights::open_files(files, &shards.into_iter().cloned().collect::<Vec<_>>())?;
        for (tensor, shard) in map {
            let found = weights.places.get(&tensor).map(|place| &weights.files[place.file].0);
            if found != Some(&shard) {
                return Err(ModelError::NotInShard { name: tensor, shard });
            }
        }
        Ok(weights)
    }

    /// One file by name, whatever it is called (`adapter_model.safetensors`); a PyTorch checkpoint if that ends in
    /// `.bin`.
    pub fn open_file(files: &ModelFiles, name: &str) -> Result<Self> {
        Weights::open_files(files, &[name.to_owned()])
    }

    fn open_files(files: &ModelFiles, names: &[String]) -> Result<Self> {
        let mut weights = Weights { files: Vec::new(), places: BTreeMap::new(), unused: BTreeSet::new() };
        for (file, name) in names.iter().enumerate() {
            let map = map_file(files.require(name)?)?;
            for (tensor, place) in places(name, &map, file)? {
                if weights.places.contains_key(&tensor) {
                    return Err(ModelError::TwiceThere { name: tensor });
                }
                weights.places.insert(tensor, place);
            }
            weights.files.push((name.clone(), map));
        }
        weights.unused = weights.places.keys().cloned().collect();
        Ok(weights)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The shape of a tensor, if it is there. What is in the file can be of any size until its shape is known to be
    /// the expected one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|place| place.shape.as_slice())
    }

    /// Shape and values of a tensor in row-major order, widened to f32.
    pub fn read(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let place = self.places.get(name).ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })?;
        let (_, map) = &self.files[place.file];
        let values = values(place, &map[place.bytes.clone()])
            .ok_or_else(|| ModelError::ElementType { name: name.to_owned(), dtype: place.dtype.clone() })?;
        self.unused.remove(name);
        Ok((place.shape.clone(), values))
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

/// What a file holds, by its bytes alone.
fn places(name: &str, bytes: &[u8], file: usize) -> Result<Vec<(String, Place)>> {
    if bytes.starts_with(LFS_POINTER) {
        return Err(ModelError::LfsPointer { name: name.to_owned() });
    }
    if name.ends_with(".bin") {
        let broken = |reason| ModelError::BrokenCheckpoint { name: name.to_owned(), reason };
        let tensors = torch::tensors(bytes).map_err(broken)?.into_iter();
        return Ok(tensors.map(|(tensor, place)| (tensor, located(place, file))).collect());
    }
    let broken = |reason: String| ModelError::BrokenTensors { name: name.to_owned(), reason };
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| broken(error.to_string()))?;
    let start = header + size_of::<u64>();
    let place = |(tensor, info): (String, &TensorInfo)| {
        let (from, to) = info.data_offsets;
        let place = start.checked_add(from).zip(start.checked_add(to)).filter(|&(_, to)| to <= bytes.len());
        let (from, to) = place.ok_or_else(|| broken(format!("`{tensor}` reaches beyond its end")))?;
        let dtype = format!("{:?}", info.dtype);
        Ok((tensor, Place { file, dtype, shape: info.shape.clone(), bytes: from..to, strides: None }))
    };
    metadata.tensors().into_iter().map(place).collect()
}

/// Of each tensor of a file, given by its bytes, how many values its shape calls for and how many came out, if any did.
pub(crate) fn read_bytes(name: &str, bytes: &[u8]) -> Result<Vec<(usize, Option<usize>)>> {
    Ok(places(name, bytes, 0)?.iter().filter_map(|(_, place)| counted(place, bytes)).collect())
}

/// The same for the pickle of a checkpoint whose storages all are `storage`.
pub(crate) fn read_pickle(pickle: &[u8], storage: &[u8]) -> Result<Vec<(usize, Option<usize>)>> {
    let name = TORCH.to_owned();
    let tensors =
        torch::tensors_of(pickle, storage.len()).map_err(|reason| ModelError::BrokenCheckpoint { name, reason })?;
    Ok(tensors.into_values().filter_map(|tensor| counted(&located(tensor, 0), storage)).collect())
}

fn counted(place: &Place, bytes: &[u8]) -> Option<(usize, Option<usize>)> {
    let count = place.shape.iter().product::<usize>();
    // Of a tensor that repeats itself a few bytes may stand for any number of values.
    (count <= bytes.len()).then(|| (count, values(place, &bytes[place.bytes.clone()]).map(|values| values.len())))
}

/// Where a tensor of a checkpoint lies in its file.
fn located((tensor, storage): torch::Located, file: usize) -> Place {
    let size = torch::element_size(tensor.storage.dtype);
    let start = storage.start + tensor.offset * size;
    let span = torch::span(&tensor.shape, &tensor.strides).unwrap_or(0);
    let plain = torch::row_major(&tensor.shape, &tensor.strides);
    Place {
        file,
        dtype: tensor.storage.dtype.to_owned(),
        bytes: start..start + span * size,
        strides: (!plain).then_some(tensor.strides),
        shape: tensor.shape,
    }
}

/// Loads by name, in the spellings that files have.
pub(crate) struct Load<'a> {
    pub(crate) weights: &'a mut Weights,
    /// What files may leave out at the beginning of a name.
    pub(crate) prefix: &'static str,
    /// Draws the head of a classifier that the files don't have.
    pub(crate) head: Option<Random>,
}

impl Load<'_> {
    /// The name in the file, or the usual one if it has none.
    fn spelling(&self, name: &str) -> String {
        let bare = name.strip_prefix(self.prefix).unwrap_or(name);
        let spellings = [name, bare].into_iter().flat_map(|name| {
            // TensorFlow's words, in BERTs of the first years.
            let old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            [name.to_owned(), old]
        });
        spellings.into_iter().find(|name| self.weights.has(name)).unwrap_or_else(|| name.to_owned())
    }
}

impl Source for Load<'_> {
    fn values(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Vec<f32>> {
        let spelling = self.spelling(name);
        if let Some(random) = &mut self.head
            && (is_class_head(name) || is_pooler(name) && !self.weights.has(&spelling))
        {
            return random.values(name, shape, init);
        }
        if let Some(found) = self.weights.shape(&spelling)
            && found != shape
        {
            let (name, expected, found) = (spelling, shape.to_vec(), found.to_vec());
            return Err(ModelError::WrongShape { name, expected, found });
        }
        self.weights.read(&spelling).map(|(_, values)| values)
    }
}

/// Whether a tensor belongs to the head of a classifier: made anew when a model without classes becomes one, and trained
/// beside adapters.
pub(crate) fn is_class_head(name: &str) -> bool {
    name.starts_with("score.") || name.starts_with("classifier.")
}

/// Whether a tensor belongs to what BERT's classifiers read: masked language models are mostly kept without it.
pub(crate) fn is_pooler(name: &str) -> bool {
    name.starts_with("bert.pooler.")
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

/// In row-major order, widened to f32; none if that can't be done without loss.
fn values(place: &Place, bytes: &[u8]) -> Option<Vec<f32>> {
    let stored = widen(&place.dtype, bytes)?;
    let Some(strides) = &place.strides else { return Some(stored) };
    if place.shape.contains(&0) {
        return Some(Vec::new());
    }
    let mut values = Vec::with_capacity(place.shape.iter().product());
    let mut index = vec![0; place.shape.len()];
    let mut at = 0usize;
    loop {
        values.push(stored[at]);
        let mut dim = place.shape.len();
        loop {
            if dim == 0 {
                return Some(values);
            }
            dim -= 1;
            index[dim] += 1;
            at = at.wrapping_add(strides[dim]);
            if index[dim] < place.shape[dim] {
                break;
            }
            at = at.wrapping_sub(index[dim].wrapping_mul(strides[dim]));
            index[dim] = 0;
        }
    }
}

fn widen(dtype: &str, data: &[u8]) -> Option<Vec<f32>> {
    let halves = || data.as_chunks::<2>().0.iter().copied();
    Some(match dtype {
        "F32" => data.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect(),
        "F16" => halves().map(|bytes| half::f16::from_le_bytes(bytes).to_f32()).collect(),
        "BF16" => halves().map(|bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect(),
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
        assert_eq!(widen("F16", &half::f16::from_f32(value).to_le_bytes()), Some(vec![value]));
        assert_eq!(widen("BF16", &half::bf16::from_f32(value).to_le_bytes()), Some(vec![value]));
        assert_eq!(widen("I64", &[0; 8]), None);
    }

    #[test]
    fn transposing_twice_gives_the_same() {
        let values: Vec<f32> = (0..35 * 67).map(|at| at as f32).collect();
        assert_eq!(transposed(&transposed(&values, 35, 67), 67, 35), values);
        assert_eq!(transposed(&values, 35, 67)[1], 67.0);
    }
}
