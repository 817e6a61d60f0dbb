//! GGUF, versions 2 and 3: header, typed metadata, tensor infos
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

use std::collections::{BTreeMap, HashSet};

use crate::encoding::elements;
use crate::error::quoted;
use crate::reader::Reader;
use crate::{Encoding, Format, FormatError, Result, TensorInfo};

/// Memory that metadata and tensor infos may take: some twenty times what a vocabulary of 256 k needs.
const BUDGET: usize = 256 << 20;
/// GGML tensors have at most this many axes.
const MAX_AXES: u32 = 4;
/// The longest key (the specification) and the longest tensor name (GGML) in bytes.
const MAX_KEY: u64 = 65_535;
const MAX_NAME: u64 = 63;
/// Where the data and each tensor in it begin, unless `general.alignment` says otherwise.
const ALIGNMENT: u32 = 32;
const MAX_ALIGNMENT: u32 = 1 << 16;
/// The shortest encodings of a metadata pair and of a tensor info.
const LEAST_PAIR: u64 = 8 + 1 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;

fn invalid(what: impl Into<String>, got: impl std::fmt::Display, expected: &str) -> FormatError {
    FormatError::invalid(Format::Gguf, what, got, expected)
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "each variant is the specification's type of the same name"
)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    U64(u64),
    I64(i64),
    F64(f64),
    /// All items are of one type; arrays of arrays are refused, as GGML does.
    Array(Vec<Value>),
}

/// The contents of a GGUF file, without the tensors' bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// The key-value pairs.
    pub metadata: BTreeMap<String, Value>,
    /// In the order of their bytes.
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads everything but the tensors' bytes of `file`, the whole file, and checks that these lie in it one
    /// after another.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(Format::Gguf, file, BUDGET);
        let magic: [u8; 4] = reader.array("the magic")?;
        if &magic != b"GGUF" {
            return Err(invalid(
                "the magic",
                format!("\"{}\"", magic.escape_ascii()),
                "\"GGUF\"",
            ));
        }
        match reader.u32("the version")? {
            2 | 3 => (),
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err(invalid("the byte order", "big endian", "little endian"));
            }
            version => return Err(invalid("the version", version, "2 or 3")),
        }
        let tensors = reader.u64("the number of tensors")?;
        let pairs = reader.u64("the number of metadata pairs")?;

        let pairs = reader.count(
            pairs,
            LEAST_PAIR,
            size_of::<(String, Value)>(),
            "the metadata",
        )?;
        let mut metadata = BTreeMap::new();
        for _ in 0..pairs {
            let key = string(&mut reader, MAX_KEY, "a metadata key")?;
            if key.is_empty() {
                return Err(invalid("a metadata key", "empty", "a name"));
            }
            let what = format!("metadata {}", quoted(&key));
            let kind = reader.u32(&what)?;
            let value = value(&mut reader, kind, &what)?;
            if metadata.insert(key, value).is_some() {
                return Err(invalid(what, "there twice", "keys of their own"));
            }
        }

        let alignment = alignment(&metadata)?;
        let size = size_of::<TensorInfo>();
        let count = reader.count(tensors, LEAST_TENSOR, size, "the tensor infos")?;
        let mut tensors = Vec::with_capacity(count);
        let mut names = HashSet::with_capacity(count);
        let mut offset = 0;
        for _ in 0..count {
            let info = tensor(&mut reader, &mut offset, alignment)?;
            if !names.insert(info.name.clone()) {
                let what = format!("tensor {}", quoted(&info.name));
                return Err(invalid(what, "there twice", "a name of its own"));
            }
            tensors.push(info);
        }
        place(&mut tensors, reader.position(), alignment, file.len())?;
        Ok(Self { metadata, tensors })
    }
}

fn string(reader: &mut Reader<'_>, longest: u64, what: &str) -> Result<String> {
    let length = reader.u64(what)?;
    if length > longest {
        let limit = longest;
        let (format, what, size) = (Format::Gguf, what.to_owned(), length);
        return Err(FormatError::TooLarge {
            format,
            what,
            size,
            limit,
        });
    }
    reader.count(length, 1, 1, what)?;
    let bytes = reader.take(length, what)?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => Err(invalid(what, e, "UTF-8")),
    }
}

const ARRAY: u32 = 9;

/// The fewest bytes a value of type `kind` takes; `None` if there is no such type.
fn least(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        8 | 10..=12 => Some(8),
        ARRAY => Some(12),
        _ => None,
    }
}

fn value(reader: &mut Reader<'_>, kind: u32, what: &str) -> Result<Value> {
    if kind != ARRAY {
        return scalar(reader, kind, what);
    }
    let kind = reader.u32(what)?;
    let length = reader.u64(what)?;
    let least = least(kind).filter(|_| kind != ARRAY).ok_or_else(|| {
        invalid(
            format!("the item type of {what}"),
            kind,
            "a scalar or string type, 0 to 8 or 10 to 12",
        )
    })?;
    let length = reader.count(length, least, size_of::<Value>(), what)?;
    let mut items = Vec::with_capacity(length);
    for _ in 0..length {
        items.push(scalar(reader, kind, what)?);
    }
    Ok(Value::Array(items))
}

fn scalar(reader: &mut Reader<'_>, kind: u32, what: &str) -> Result<Value> {
    Ok(match kind {
        0 => Value::U8(reader.u8(what)?),
        1 => Value::I8(reader.i8(what)?),
        2 => Value::U16(reader.u16(what)?),
        3 => Value::I16(reader.i16(what)?),
        4 => Value::U32(reader.u32(what)?),
        5 => Value::I32(reader.i32(what)?),
        6 => Value::F32(reader.f32(what)?),
        7 => match reader.u8(what)? {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(invalid(what, other, "a bool, 0 or 1")),
        },
        8 => Value::String(string(reader, u64::MAX, what)?),
        10 => Value::U64(reader.u64(what)?),
        11 => Value::I64(reader.i64(what)?),
        12 => Value::F64(reader.f64(what)?),
        other => {
            return Err(invalid(
                format!("the type of {what}"),
                other,
                "a type from 0 to 12",
            ));
        }
    })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<usize> {
    let expected = "a uint32 power of two up to 65536";
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT as usize),
        Some(&Value::U32(n)) if n.is_power_of_two() && n <= MAX_ALIGNMENT => Ok(n as usize),
        Some(other) => Err(invalid("general.alignment", format!("{other:?}"), expected)),
    }
}

/// Reads one tensor info, whose data must begin at `offset` of the data section; moves `offset` past it.
fn tensor(reader: &mut Reader<'_>, offset: &mut usize, alignment: usize) -> Result<TensorInfo> {
    let name = string(reader, MAX_NAME, "a tensor name")?;
    let what = format!("tensor {}", quoted(&name));
    let of = |field: &str| format!("the {field} of {what}");
    let axes = reader.u32(&of("number of axes"))?;
    if axes > MAX_AXES {
        return Err(invalid(of("number of axes"), axes, "at most 4"));
    }
    let mut shape = Vec::with_capacity(axes as usize);
    for _ in 0..axes {
        let extent = reader.i64(&of("shape"))?;
        let checked = usize::try_from(extent);
        shape.push(checked.map_err(|_| invalid(of("shape"), extent, "extents of 0 or more"))?);
    }
    // GGUF lists the fastest axis first.
    shape.reverse();

    let number = reader.u32(&of("type"))?;
    let encoding = Encoding::from_ggml(number)
        .ok_or_else(|| invalid(of("type"), number, "the number of a GGML type"))?;
    let row = shape.last().copied().unwrap_or(1);
    if row.checked_rem(encoding.block_elements()) != Some(0) {
        let rows = format!(
            "rows of a multiple of {} for {}",
            encoding.block_elements(),
            encoding.name()
        );
        return Err(invalid(of("shape"), format!("{shape:?}"), &rows));
    }
    let size = elements(&shape).and_then(|n| encoding.bytes(n));
    let next = size.and_then(|size| {
        offset
            .checked_add(size)?
            .checked_next_multiple_of(alignment)
    });
    let (size, next) = size.zip(next).ok_or_else(|| {
        invalid(
            of("shape"),
            format!("{shape:?}"),
            "extents whose product fits in memory",
        )
    })?;

    let declared = reader.u64(&of("offset"))?;
    if declared != *offset as u64 {
        let expected = format!("{offset}, the aligned end of the tensor before");
        return Err(invalid(of("offset"), declared, &expected));
    }
    let start = std::mem::replace(offset, next);
    let end = start.saturating_add(size);
    Ok(TensorInfo {
        name,
        encoding,
        shape,
        start,
        end,
    })
}

/// Turns offsets into the data section, which follows the `head` bytes before it, into offsets into the file.
fn place(tensors: &mut [TensorInfo], head: usize, alignment: usize, length: usize) -> Result<()> {
    // What saturates is beyond the end of any file.
    let base = head
        .checked_next_multiple_of(alignment)
        .unwrap_or(usize::MAX);
    for t in &mut *tensors {
        let size = t.end.saturating_sub(t.start);
        t.start = base.saturating_add(t.start);
        t.end = t.start.saturating_add(size);
        if t.end > length {
            return Err(FormatError::Truncated {
                format: Format::Gguf,
                what: format!("tensor {}", quoted(&t.name)),
                need: size as u64,
                have: length.saturating_sub(t.start) as u64,
            });
        }
    }
    let end = tensors.last().map_or(length, |t| t.end);
    let padded = end.checked_next_multiple_of(alignment).unwrap_or(end);
    if length > padded {
        let expected = format!("{padded}, where the last tensor and its padding end");
        return Err(invalid("the file length", length, &expected));
    }
    Ok(())
}
