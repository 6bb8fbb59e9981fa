//! PyTorch checkpoints (`pytorch_model.bin`): a zip of one pickle and the bytes of each storage. The pickle is read,
//! never run.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{pickle, zip};

/// Why a file can't be read as a PyTorch checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TorchError {
    /// It ends before it should.
    #[error("it is cut off")]
    Truncated,
    /// What torch wrote before version 1.6.
    #[error(
        "it has torch's old format (before 1.6); load and save it again with a newer torch, or convert it to safetensors"
    )]
    Legacy,
    /// Neither a zip nor a pickle.
    #[error("it is no zip archive, as torch writes since 1.6")]
    NotZip,
    /// A zip that torch doesn't write.
    #[error("its zip archive is broken: {0}")]
    Zip(&'static str),
    /// A file of the archive that isn't there.
    #[error("its archive has no `{0}`")]
    NoEntry(String),
    /// Bytes in the order of another machine.
    #[error("its numbers are big-endian")]
    ByteOrder,
    /// A pickle that doesn't make sense.
    #[error("its pickle holds {0}")]
    Pickle(&'static str),
    /// An operation that no state dict needs.
    #[error("its pickle has the operation {0}, which is refused: only tensors are read, and no code is run")]
    Opcode(String),
    /// A Python name that no state dict needs.
    #[error("its pickle names the Python object `{0}`, which is refused: only tensors are read, and no code is run")]
    Global(String),
    /// Something else than a dict of tensors by name.
    #[error("it holds no dict of tensors by name (a state dict)")]
    NotAStateDict,
    /// One value of the dict isn't a tensor.
    #[error("its value `{0}` is no tensor")]
    NotATensor(String),
    /// A tensor that reaches beyond its storage.
    #[error("the tensor `{0}` reaches beyond its storage")]
    OutOfBounds(String),
}

impl TorchError {
    pub(super) fn global(module: &str, name: &str) -> Self {
        TorchError::Global(format!("{module}.{name}"))
    }

    pub(super) fn opcode(code: u8) -> Self {
        let known = OPCODES.iter().find(|(known, _)| *known == code);
        TorchError::Opcode(known.map_or_else(|| format!("{code:#04x}"), |(_, name)| (*name).to_owned()))
    }
}

/// Names of the pickle's operations that are refused (Python's `pickletools`).
const OPCODES: [(u8, &str); 35] = [
    (b'I', "INT"),
    (b'L', "LONG"),
    (0x8b, "LONG4"),
    (b'S', "STRING"),
    (b'T', "BINSTRING"),
    (b'U', "SHORT_BINSTRING"),
    (b'B', "BINBYTES"),
    (b'C', "SHORT_BINBYTES"),
    (0x8e, "BINBYTES8"),
    (0x96, "BYTEARRAY8"),
    (0x97, "NEXT_BUFFER"),
    (0x98, "READONLY_BUFFER"),
    (b'V', "UNICODE"),
    (0x8d, "BINUNICODE8"),
    (b'F', "FLOAT"),
    (b'l', "LIST"),
    (b'd', "DICT"),
    (0x8f, "EMPTY_SET"),
    (0x90, "ADDITEMS"),
    (0x91, "FROZENSET"),
    (b'0', "POP"),
    (b'2', "DUP"),
    (b'1', "POP_MARK"),
    (b'g', "GET"),
    (b'p', "PUT"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (b'i', "INST"),
    (b'o', "OBJ"),
    (0x81, "NEWOBJ"),
    (0x92, "NEWOBJ_EX"),
    (b'P', "PERSID"),
    (b'R', "REDUCE"),
    (b'b', "BUILD"),
];

/// One storage, by its name in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) dtype: &'static str,
    pub(super) count: usize,
}

/// A tensor as the pickle tells it; offset and strides in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorPlace {
    pub(super) storage: Storage,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A tensor, and where in the file the bytes of its storage lie.
pub(super) type Located = (TensorPlace, Range<usize>);

/// All tensors of a checkpoint by name.
pub(super) fn tensors(bytes: &[u8]) -> Result<BTreeMap<String, Located>, TorchError> {
    if !bytes.starts_with(b"PK\x03\x04") {
        // A pickled magic number (torch 0.1.10 to 1.5), or the tar before that.
        let legacy = bytes.starts_with(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.");
        let tar = bytes.get(257..262) == Some(b"ustar");
        return Err(if legacy || tar { TorchError::Legacy } else { TorchError::NotZip });
    }
    let entries = zip::entries(bytes)?;
    let root = entries.keys().find_map(|name| name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')));
    let root = root.ok_or_else(|| TorchError::NoEntry("data.pkl".into()))?;
    let entry = |name: String| entries.get(&name).cloned().ok_or(TorchError::NoEntry(name));
    if entries.get(&format!("{root}/byteorder")).is_some_and(|place| &bytes[place.clone()] != b"little") {
        return Err(TorchError::ByteOrder);
    }
    let pickle = pickle::state_dict(&bytes[entry(format!("{root}/data.pkl"))?])?;
    let locate = |(name, tensor): (String, TensorPlace)| {
        let place = entry(format!("{root}/data/{}", tensor.storage.key))?;
        check(&name, &tensor, place.len())?;
        Ok((name, (tensor, place)))
    };
    pickle.into_iter().map(locate).collect()
}

/// The tensors of a pickle whose storages all are one of `bytes` bytes.
pub(super) fn tensors_of(pickle: &[u8], bytes: usize) -> Result<BTreeMap<String, Located>, TorchError> {
    let locate = |(name, tensor): (String, TensorPlace)| {
        check(&name, &tensor, bytes)?;
        Ok((name, (tensor, 0..bytes)))
    };
    pickle::state_dict(pickle)?.into_iter().map(locate).collect()
}

/// Refuses a tensor whose last element lies beyond its storage, or its storage beyond its file.
fn check(name: &str, tensor: &TensorPlace, bytes: usize) -> Result<(), TorchError> {
    let TensorPlace { storage, offset, shape, strides } = tensor;
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    let held = storage.count.checked_mul(element_size(storage.dtype));
    let end = span(shape, strides).and_then(|span| span.checked_add(*offset));
    let fits = shape.len() == strides.len()
        && count.and_then(|count| count.checked_mul(size_of::<f64>())).is_some()
        && end.is_some_and(|end| end <= storage.count)
        && held.is_some_and(|held| held <= bytes);
    if fits { Ok(()) } else { Err(TorchError::OutOfBounds(name.to_owned())) }
}

/// Elements from the first of a tensor to its last.
pub(super) fn span(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let mut steps = shape.iter().zip(strides).map(|(&size, &stride)| (size - 1).checked_mul(stride));
    steps.try_fold(1usize, |end, step| end.checked_add(step?))
}

pub(super) fn element_size(dtype: &str) -> usize {
    match dtype {
        "F64" | "I64" => 8,
        "F32" | "I32" => 4,
        "F16" | "BF16" | "I16" => 2,
        _ => 1,
    }
}

/// Whether elements follow one another in row-major order. Strides of sizes 1 and 0 mean nothing.
pub(super) fn row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1usize;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let follows = size <= 1 || stride == step;
        step = step.saturating_mul(size.max(1));
        follows
    })
}
