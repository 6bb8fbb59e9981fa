//! A reader of the pickles that `torch.save` writes of a state dict. It knows containers, numbers, texts and tensors,
//! and refuses everything else by name: no Python global is ever called, so a file can do no harm.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::torch::{Storage, TensorPlace, TorchError};

/// The names and tensors of the state dict that a pickle holds.
pub(super) fn state_dict(pickle: &[u8]) -> Result<BTreeMap<String, TensorPlace>, TorchError> {
    let mut machine = Machine { bytes: pickle, ..Machine::default() };
    let Value::Dict(top) = machine.run()? else { return Err(TorchError::NotAStateDict) };
    let mut tensors = BTreeMap::new();
    for (key, value) in &machine.dicts[top] {
        let Value::Text(key) = key else { return Err(TorchError::NotAStateDict) };
        let Value::Tensor(tensor) = value else { return Err(TorchError::NotATensor(key.to_string())) };
        tensors.insert(key.to_string(), machine.tensors[*tensor].clone());
    }
    Ok(tensors)
}

/// Containers and tensors are told by their number, so that a value that is shared, or that holds itself, stays one.
#[derive(Debug, Clone)]
enum Value {
    /// None, a truth value, a float: nothing that a tensor is made of.
    Other,
    Int(i64),
    Text(Rc<str>),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(Rc<Storage>),
    Tensor(usize),
}

/// Python names that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageOf(&'static str),
}

impl Global {
    fn find(module: &str, name: &str) -> Result<Global, TorchError> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", storage) => {
                let known = STORAGES.iter().find(|(name, _)| *name == storage);
                Global::StorageOf(known.ok_or_else(|| TorchError::global(module, name))?.1)
            }
            _ => return Err(TorchError::global(module, name)),
        })
    }
}

/// torch's storage classes, and safetensors' words for what they hold.
const STORAGES: [(&str, &str); 10] = [
    ("FloatStorage", "F32"),
    ("HalfStorage", "F16"),
    ("BFloat16Storage", "BF16"),
    ("DoubleStorage", "F64"),
    ("LongStorage", "I64"),
    ("IntStorage", "I32"),
    ("ShortStorage", "I16"),
    ("CharStorage", "I8"),
    ("ByteStorage", "U8"),
    ("BoolStorage", "BOOL"),
];

#[derive(Debug, Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: BTreeMap<usize, Value>,
    tuples: Vec<Vec<Value>>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    tensors: Vec<TensorPlace>,
}

impl<'a> Machine<'a> {
    /// Opcodes by Python's `pickletools`.
    fn run(&mut self) -> Result<Value, TorchError> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                // PROTO and FRAME only announce.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
                b'K' => self.int(1)?,
                b'M' => self.int(2)?,
                b'J' => {
                    let bytes = self.array()?;
                    self.stack.push(Value::Int(i64::from(i32::from_le_bytes(bytes))));
                }
                0x8a => self.long()?,
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Other);
                }
                b'X' => self.text(4)?,
                0x8c => self.text(1)?,
                b')' => self.tuple(Vec::new()),
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(opcode - 0x84))?;
                    self.tuple(items);
                }
                b't' => {
                    let items = self.pop_mark()?;
                    self.tuple(items);
                }
                b']' => {
                    self.lists.push(Vec::new());
                    self.stack.push(Value::List(self.lists.len() - 1));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                b'}' => self.dict(Vec::new()),
                b's' => {
                    let items = self.pop_many(2)?;
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(items)?;
                }
                b'q' => {
                    let place = self.unsigned(1)?;
                    self.remember(place)?;
                }
                b'r' => {
                    let place = self.unsigned(4)?;
                    self.remember(place)?;
                }
                0x94 => self.remember(self.memo.len())?,
                b'h' => {
                    let place = self.unsigned(1)?;
                    self.recall(place)?;
                }
                b'j' => {
                    let place = self.unsigned(4)?;
                    self.recall(place)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Value::Global(Global::find(module, name)?));
                }
                0x93 => {
                    let pair = self.pop_many(2)?;
                    let [Value::Text(module), Value::Text(name)] = &pair[..] else { return Err(broken("a global")) };
                    self.stack.push(Value::Global(Global::find(module, name)?));
                }
                b'Q' => self.storage()?,
                b'R' => self.reduce()?,
                // Attributes of a dict: torch keeps versions of modules there.
                b'b' => {
                    self.pop()?;
                    let Some(Value::Dict(_)) = self.stack.last() else {
                        return Err(TorchError::Opcode("BUILD on something that is no dict".into()));
                    };
                }
                other => return Err(TorchError::opcode(other)),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], TorchError> {
        let end = self.at.checked_add(count).ok_or(TorchError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(TorchError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TorchError> {
        self.take(N)?.try_into().map_err(|_| TorchError::Truncated)
    }

    fn unsigned(&mut self, size: usize) -> Result<usize, TorchError> {
        let bytes = self.take(size)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    }

    fn int(&mut self, size: usize) -> Result<(), TorchError> {
        let value = self.unsigned(size)?;
        self.stack.push(Value::Int(value as i64));
        Ok(())
    }

    /// Any number of bytes in two's complement; more than eight hold no size of a tensor.
    fn long(&mut self) -> Result<(), TorchError> {
        let size = self.unsigned(1)?;
        let bytes = self.take(size)?;
        if size > 8 {
            return Err(broken("an integer of more than 64 bits"));
        }
        let mut wide = [if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 }; 8];
        wide[..size].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, size: usize) -> Result<(), TorchError> {
        let length = self.unsigned(size)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| broken("a text that is not UTF-8"))?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, TorchError> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(TorchError::Truncated)?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| broken("a name that is not UTF-8"))
    }

    fn pop(&mut self) -> Result<Value, TorchError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(|| broken("an empty stack")),
            false => Err(broken("an empty stack")),
        }
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, TorchError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= floor);
        Ok(self.stack.split_off(start.ok_or_else(|| broken("an empty stack"))?))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, TorchError> {
        let mark = self.marks.pop().ok_or_else(|| broken("no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, items: Vec<Value>) {
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn dict(&mut self, items: Vec<(Value, Value)>) {
        self.dicts.push(items);
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), TorchError> {
        let Some(Value::List(list)) = self.stack.last() else { return Err(broken("no list to append to")) };
        self.lists[*list].extend(items);
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), TorchError> {
        let Some(Value::Dict(dict)) = self.stack.last() else { return Err(broken("no dict to set items of")) };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(broken("a key without a value"));
        }
        self.dicts[*dict].extend(pairs.iter().map(|[key, value]| (key.clone(), value.clone())));
        Ok(())
    }

    fn remember(&mut self, place: usize) -> Result<(), TorchError> {
        let value = self.stack.last().ok_or_else(|| broken("an empty stack"))?;
        self.memo.insert(place, value.clone());
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Result<(), TorchError> {
        let value = self.memo.get(&place).ok_or_else(|| broken("nothing in a place of the memo"))?;
        self.stack.push(value.clone());
        Ok(())
    }

    fn items(&self, value: &Value) -> Result<&[Value], TorchError> {
        match value {
            Value::Tuple(tuple) => Ok(&self.tuples[*tuple]),
            Value::List(list) => Ok(&self.lists[*list]),
            _ => Err(broken("a value where a tuple is wanted")),
        }
    }

    /// `('storage', class, key, device, count)`.
    fn storage(&mut self) -> Result<(), TorchError> {
        let id = self.pop()?;
        let [Value::Text(kind), Value::Global(Global::StorageOf(dtype)), Value::Text(key), _, Value::Int(count)] =
            self.items(&id)?
        else {
            return Err(broken("a persistent id that is no storage"));
        };
        if &**kind != "storage" {
            return Err(broken("a persistent id that is no storage"));
        }
        let storage = Storage { key: key.to_string(), dtype, count: size(*count)? };
        self.stack.push(Value::Storage(Rc::new(storage)));
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), TorchError> {
        let [function, arguments] = &self.pop_many(2)?[..] else { return Err(broken("an empty stack")) };
        let Value::Global(function) = function else { return Err(broken("a call of something that is no function")) };
        let arguments = self.items(arguments)?;
        match function {
            Global::OrderedDict => {
                let pairs = match arguments {
                    [] => Vec::new(),
                    // As Python 2 wrote it.
                    [pairs] => self.items(pairs)?.iter().map(|pair| self.pair(pair)).collect::<Result<_, _>>()?,
                    _ => return Err(broken("an OrderedDict of several arguments")),
                };
                self.dict(pairs);
            }
            Global::RebuildTensor => {
                let [Value::Storage(storage), Value::Int(offset), shape, strides, ..] = arguments else {
                    return Err(broken("a tensor without storage, offset, shape and strides"));
                };
                let sizes = |value| self.items(value)?.iter().map(as_size).collect::<Result<Vec<usize>, _>>();
                let tensor = TensorPlace {
                    storage: (**storage).clone(),
                    offset: size(*offset)?,
                    shape: sizes(shape)?,
                    strides: sizes(strides)?,
                };
                self.tensors.push(tensor);
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            Global::RebuildParameter => {
                let Some(tensor @ Value::Tensor(_)) = arguments.first() else {
                    return Err(broken("a parameter without a tensor"));
                };
                self.stack.push(tensor.clone());
            }
            Global::StorageOf(_) => return Err(broken("a storage that is made by a call")),
        }
        Ok(())
    }

    fn pair(&self, pair: &Value) -> Result<(Value, Value), TorchError> {
        match self.items(pair)? {
            [key, value] => Ok((key.clone(), value.clone())),
            _ => Err(broken("a key without a value")),
        }
    }
}

fn as_size(value: &Value) -> Result<usize, TorchError> {
    match value {
        Value::Int(value) => size(*value),
        _ => Err(broken("a size that is no integer")),
    }
}

fn size(value: i64) -> Result<usize, TorchError> {
    usize::try_from(value).map_err(|_| broken("a negative size"))
}

fn broken(what: &'static str) -> TorchError {
    TorchError::Pickle(what)
}
