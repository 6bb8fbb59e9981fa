//! PyTorch checkpoints: what `torch.save` does to tensors is undone, and whatever else a pickle holds is refused by name.
//! The files come from `fixtures/make_checkpoints.py`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use palinode_models::model::NextToken;
use palinode_models::weights::Weights;
use palinode_models::{CausalLm, ModelConfig, ModelFiles, model::Model};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints")
}

/// The only file of a model, as `pytorch_model.bin`.
fn open(path: impl Into<PathBuf>) -> Result<Weights, String> {
    let files: ModelFiles = [("pytorch_model.bin", path.into())].into_iter().collect();
    Weights::open(&files).map_err(|error| error.to_string())
}

#[test]
fn tensors_come_out_as_torch_reads_them() {
    let expected: Value = serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap();
    for (file, tensors) in expected.as_object().unwrap() {
        let mut weights = open(folder().join(format!("{file}.bin"))).unwrap();
        assert_eq!(weights.names().count(), tensors.as_object().unwrap().len(), "{file}");
        for (name, tensor) in tensors.as_object().unwrap() {
            let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
            let values: Vec<f32> = serde_json::from_value(tensor["values"].clone()).unwrap();
            assert_eq!(weights.shape(name), Some(shape.as_slice()), "{file} {name}");
            assert_eq!(weights.read(name).unwrap(), (shape, values), "{file} {name}");
        }
    }
}

#[test]
fn everything_but_tensors_is_refused_by_name() {
    let message = |name: &str| open(folder().join(format!("bad_{name}.bin"))).unwrap_err();
    insta::assert_snapshot!(message("system"), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle names the Python object `posix.system`, which is refused: only tensors are read, and no code is run");
    insta::assert_snapshot!(message("eval"), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle names the Python object `__builtin__.eval`, which is refused: only tensors are read, and no code is run");
    insta::assert_snapshot!(message("module"), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle names the Python object `torch.nn.modules.linear.Linear`, which is refused: only tensors are read, and no code is run");
    insta::assert_snapshot!(message("set"), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle names the Python object `__builtin__.set`, which is refused: only tensors are read, and no code is run");
    insta::assert_snapshot!(message("epoch"), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its value `epoch` is no tensor");
    insta::assert_snapshot!(message("list"), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: it holds no dict of tensors by name (a state dict)");
    insta::assert_snapshot!(message("legacy"), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: it has torch's old format (before 1.6); load and save it again with a newer torch, or convert it to safetensors");
    insta::assert_snapshot!(message("compressed"), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its zip archive is broken: it is compressed or encrypted, which torch doesn't do");
}

/// A zip archive of stored files, as torch writes it.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let size = (content.len() as u32).to_le_bytes();
        let length = (name.len() as u16).to_le_bytes();
        let start = (bytes.len() as u32).to_le_bytes();
        bytes.extend(
            [b"PK\x03\x04".as_slice(), &[0; 14], &size, &size, &length, &[0; 2], name.as_bytes(), content].concat(),
        );
        let entry = [b"PK\x01\x02".as_slice(), &[0; 16], &size, &size, &length, &[0; 12], &start, name.as_bytes()];
        directory.extend(entry.concat());
    }
    let (count, place) = ((files.len() as u16).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    bytes.extend(directory);
    bytes.extend([b"PK\x05\x06".as_slice(), &[0; 4], &count, &count, &size, &place, &[0; 2]].concat());
    bytes
}

/// A pickle of one tensor `x`, with integers as `LONG1`.
fn pickle(numel: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let int = |value: &i64| [&[0x8a, 8], value.to_le_bytes().as_slice()].concat();
    let ints = |values: &[i64]| [b"(".to_vec(), values.iter().flat_map(int).collect(), b"t".to_vec()].concat();
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    [
        b"\x80\x02}".to_vec(),
        text("x"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(&numel),
        b"tQ".to_vec(),
        int(&offset),
        ints(shape),
        ints(strides),
        b"\x89Nt".to_vec(),
        b"Rs.".to_vec(),
    ]
    .concat()
}

fn made(pickle: &[u8]) -> Result<(Vec<usize>, Vec<f32>), String> {
    let storage: Vec<u8> = (0..16u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let bytes = zip(&[("m/data.pkl", pickle), ("m/byteorder", b"little"), ("m/data/0", &storage)]);
    read(&bytes).and_then(|mut weights| weights.read("x").map_err(|error| error.to_string()))
}

fn read(bytes: &[u8]) -> Result<Weights, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    std::fs::write(&path, bytes).unwrap();
    open(path)
}

#[test]
fn tensors_stay_within_their_storages() {
    assert_eq!(made(&pickle(16, 3, &[2, 2], &[4, 1])).unwrap(), (vec![2, 2], vec![3.0, 4.0, 7.0, 8.0]));
    assert_eq!(made(&pickle(16, 15, &[1], &[1 << 60])).unwrap(), (vec![1], vec![15.0]), "a stride that goes nowhere");
    let huge = 1 << 60;
    let beyond: [(i64, i64, &[i64], &[i64]); 9] = [
        (16, 13, &[2, 2], &[2, 1]),
        (16, 0, &[17], &[1]),
        (16, 17, &[0], &[1]),
        (17, 0, &[16], &[1]),
        (16, 0, &[huge], &[1]),
        (16, 0, &[huge, huge], &[0, 0]),
        (16, 0, &[2, 2], &[huge * 4, huge * 4]),
        (16, i64::MAX, &[1], &[1]),
        (16, 0, &[2, 2], &[1]),
    ];
    for (numel, offset, shape, strides) in beyond {
        let error = made(&pickle(numel, offset, shape, strides)).unwrap_err();
        assert_eq!(
            error,
            "`pytorch_model.bin` can't be read as a PyTorch checkpoint: the tensor `x` reaches beyond its storage",
            "{shape:?}"
        );
    }
    insta::assert_snapshot!(made(&pickle(16, -1, &[1], &[1])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle holds a negative size");
    insta::assert_snapshot!(made(&pickle(16, 0, &[-1], &[1])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle holds a negative size");
}

/// A tensor of 2^40 values from one: its shape is compared before anything of it is read.
#[test]
fn a_tensor_that_repeats_itself_takes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let model = CausalLm::random(ModelConfig::gpt2(8, 4, 4, 1, 1), 0, &Device::flex()).unwrap();
    std::fs::write(folder.path().join("config.json"), model.config().render()).unwrap();
    let mut bytes = pickle(1, 0, &[1 << 20, 1 << 20], &[0, 0]);
    let name = b"transformer.h.0.attn.c_attn.weight";
    bytes.splice(3..9, [b"X".as_slice(), &(name.len() as u32).to_le_bytes(), name].concat());
    let bytes = zip(&[("m/data.pkl", &bytes), ("m/data/0", &[0; 4])]);
    std::fs::write(folder.path().join("pytorch_model.bin"), bytes).unwrap();
    let error = Model::<NextToken>::load(&ModelFiles::folder(folder.path()).unwrap(), &Device::flex()).unwrap_err();
    insta::assert_snapshot!(error, @"the tensor `transformer.h.0.attn.c_attn.weight` has shape [1048576, 1048576], the config calls for [4, 12]");
}

#[test]
fn a_file_that_is_cut_off_or_changed_is_an_error() {
    let whole = std::fs::read(folder().join("strides.bin")).unwrap();
    for cut in (0..whole.len()).step_by(7) {
        let error = read(&whole[..cut]).unwrap_err();
        assert!(error.contains("can't be read as a PyTorch checkpoint"), "{error}");
    }
    // Whatever byte is another: an error or other numbers, never a panic.
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x41;
        if let Ok(mut weights) = read(&changed) {
            let names: Vec<String> = weights.names().map(str::to_owned).collect();
            for name in names {
                if weights.shape(&name).unwrap().iter().product::<usize>() < 1000 {
                    drop(weights.read(&name));
                }
            }
        }
    }
    insta::assert_snapshot!(read(b"").unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: it is no zip archive, as torch writes since 1.6");
    insta::assert_snapshot!(read(&zip(&[("m/data/0", b"")])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its archive has no `data.pkl`");
    insta::assert_snapshot!(read(&zip(&[("m/data.pkl", b"\x80\x02}."), ("m/byteorder", b"big")])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its numbers are big-endian");
    insta::assert_snapshot!(read(&zip(&[("m/data.pkl", &pickle(1, 0, &[1], &[1]))])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its archive has no `m/data/0`");
    insta::assert_snapshot!(read(&zip(&[("m/data.pkl", b"\x80\x02}r")])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: it is cut off");
    insta::assert_snapshot!(read(&zip(&[("m/data.pkl", b"(tbuiltins")])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle has the operation BUILD on something that is no dict, which is refused: only tensors are read, and no code is run");
    insta::assert_snapshot!(read(&zip(&[("m/data.pkl", b"cposix\nsystem\n.")])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle names the Python object `posix.system`, which is refused: only tensors are read, and no code is run");
    insta::assert_snapshot!(read(&zip(&[("m/data.pkl", b"}2.")])).unwrap_err(), @"`pytorch_model.bin` can't be read as a PyTorch checkpoint: its pickle has the operation DUP, which is refused: only tensors are read, and no code is run");
}

/// Shards of both kinds, and indexes that don't say where tensors are.
#[test]
fn sharded_checkpoints() {
    let index = |map: &str| format!(r#"{{"metadata": {{}}, "weight_map": {map}}}"#);
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(self::folder().join(from), folder.path().join(to)).unwrap();
    copy("parameters.bin", "pytorch_model-00001-of-00002.bin");
    copy("halves.bin", "pytorch_model-00002-of-00002.bin");
    let open = |map: &str| {
        std::fs::write(folder.path().join("pytorch_model.bin.index.json"), index(map)).unwrap();
        Weights::open(&ModelFiles::folder(folder.path()).unwrap()).map_err(|error| error.to_string())
    };
    let [first, second] = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    let good = open(&format!(r#"{{"weight": "{first}", "frozen": "{first}", "f16": "{second}", "bf16": "{second}"}}"#));
    assert_eq!(good.unwrap().names().collect::<Vec<_>>(), ["bf16", "f16", "frozen", "weight"]);
    insta::assert_snapshot!(open(&format!(r#"{{"weight": "{second}"}}"#)).unwrap_err(), @"the tensor `weight` is not in `pytorch_model-00002-of-00002.bin`, where the index says it is");
    insta::assert_snapshot!(open(&format!(r#"{{"gone": "{first}"}}"#)).unwrap_err(), @"the tensor `gone` is not in `pytorch_model-00001-of-00002.bin`, where the index says it is");
    insta::assert_snapshot!(open(r#"{"weight": "pytorch_model-3.bin"}"#).unwrap_err(), @"the model has no `pytorch_model-3.bin`");
    insta::assert_snapshot!(open(r#"{"weight": 3}"#).unwrap_err(), @"`pytorch_model.bin.index.json` is not valid: `weight` is in 3, expected the name of a file");
    copy("halves.bin", "pytorch_model-00001-of-00002.bin");
    insta::assert_snapshot!(open(&format!(r#"{{"f16": "{first}", "bf16": "{second}"}}"#)).unwrap_err(), @"several files hold the tensor `bf16`");
}
