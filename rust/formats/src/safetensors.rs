//! safetensors: `u64` header length, JSON header, tensors one after another
//! (<https://huggingface.co/docs/safetensors>).
//!
//! The reader accepts what the reference accepts, and refuses besides: duplicate keys, a header that does not begin
//! with `{`, and shapes whose non-zero extents multiply to more than memory can address.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};

use serde::de::{Error as _, MapAccess};
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Serialize, Serializer};

use crate::encoding::elements;
use crate::error::quoted;
use crate::json::{Entries, Keyed};
use crate::reader::Reader;
use crate::{Encoding, Format, FormatError, Result, TensorInfo};

/// The longest header accepted, as in the reference implementation.
const HEADER_LIMIT: u64 = 100_000_000;
/// The key of the free-form metadata.
const METADATA: &str = "__metadata__";
/// The header is padded so that tensors begin at a multiple of this: a cache line, on which packed weights lie.
const ALIGNMENT: usize = 64;

fn invalid(what: impl Into<String>, got: impl std::fmt::Display, expected: &str) -> FormatError {
    FormatError::invalid(Format::Safetensors, what, got, expected)
}

/// The contents of a safetensors file, without the tensors' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// In the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// A field of the header: a tensor, except under [`METADATA`].
enum Field {
    Tensor(Entry),
    Metadata(Entries<String>),
}

impl Keyed for Field {
    fn read<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error> {
        if key == METADATA {
            return map.next_value().map(Self::Metadata);
        }
        let entry = map
            .next_value()
            .map_err(|e| A::Error::custom(format_args!("tensor {}: {e}", quoted(key))))?;
        Ok(Self::Tensor(entry))
    }
}

impl Header {
    /// Reads the header of `file`, the whole file, and checks that its tensors tile the rest of it exactly.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(Format::Safetensors, file, usize::MAX);
        let length = reader.u64("the header length")?;
        if length > HEADER_LIMIT {
            return Err(FormatError::TooLarge {
                format: Format::Safetensors,
                what: "the header".to_owned(),
                size: length,
                limit: HEADER_LIMIT,
            });
        }
        let json = reader.take(length, "the header")?;
        if json.first() != Some(&b'{') {
            let first = json.get(..json.len().min(8)).unwrap_or_default();
            return Err(invalid(
                "the header",
                format!("\"{}\"", first.escape_ascii()),
                "a JSON object beginning with `{`",
            ));
        }
        let fields: Entries<Field> = serde_json::from_slice(json)
            .map_err(|e| invalid("the header", e, "a JSON object of tensors"))?;

        let mut header = Self::default();
        for (name, field) in fields.0 {
            match field {
                Field::Metadata(entries) => header.metadata = entries.0.into_iter().collect(),
                Field::Tensor(entry) => {
                    header.tensors.push(tensor(name, entry, reader.position())?);
                }
            }
        }
        header.tensors.sort_by_key(|t| (t.start, t.end));
        let mut at = reader.position();
        for t in &header.tensors {
            if t.start != at {
                let base = reader.position();
                return Err(invalid(
                    format!("the begin offset of tensor {}", quoted(&t.name)),
                    t.start.saturating_sub(base),
                    &format!(
                        "{}, where the tensor before ends: no hole, no overlap",
                        at.saturating_sub(base)
                    ),
                ));
            }
            at = t.end;
        }
        match at.cmp(&file.len()) {
            std::cmp::Ordering::Equal => Ok(header),
            std::cmp::Ordering::Less => Err(invalid(
                "the file length",
                file.len(),
                &format!("{at}, where the last tensor ends"),
            )),
            std::cmp::Ordering::Greater => Err(FormatError::Truncated {
                format: Format::Safetensors,
                what: match header.tensors.iter().find(|t| t.end > file.len()) {
                    Some(t) => format!("tensor {}", quoted(&t.name)),
                    None => "the last tensor".to_owned(),
                },
                need: at.saturating_sub(reader.position()) as u64,
                have: reader.remaining() as u64,
            }),
        }
    }
}

/// The tensor `entry` describes, with its offsets moved by `base`, the length of all that precedes the data.
fn tensor(name: String, entry: Entry, base: usize) -> Result<TensorInfo> {
    let of = |field: &str| format!("the {field} of tensor {}", quoted(&name));
    let encoding = Encoding::from_safetensors(&entry.dtype)
        .ok_or_else(|| invalid(of("dtype"), quoted(&entry.dtype), "a safetensors dtype"))?;
    let size = elements(&entry.shape).and_then(|n| encoding.bytes(n));
    let size = size.ok_or_else(|| {
        invalid(
            of("shape"),
            format!("{:?} of {}", entry.shape, encoding.name()),
            "extents whose product is whole bytes and fits in memory",
        )
    })?;
    let (begin, finish) = entry.data_offsets;
    if finish.checked_sub(begin) != Some(size) {
        return Err(invalid(
            of("data_offsets"),
            format!("[{begin}, {finish}]"),
            &format!("{size} bytes, as its dtype and shape say"),
        ));
    }
    let offsets = begin.checked_add(base).zip(finish.checked_add(base));
    let (start, end) =
        offsets.ok_or_else(|| invalid(of("data_offsets"), finish, "an offset within the file"))?;
    Ok(TensorInfo {
        name,
        encoding,
        shape: entry.shape,
        start,
        end,
    })
}

/// A tensor to be written: its name, dtype, shape and bytes (little endian, row-major).
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "said above")]
pub struct View<'a> {
    pub name: &'a str,
    pub encoding: Encoding,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

/// A safetensors file laid out and checked, ready to be written.
///
/// Tensors lie widest elements first and then by name, so that each is aligned.
#[derive(Debug)]
pub struct Layout<'a> {
    header: Vec<u8>,
    tensors: Vec<View<'a>>,
}

impl<'a> Layout<'a> {
    /// Lays out `tensors` and `metadata`.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a repeated or reserved name, bytes that do not fill the shape, or an encoding
    /// that safetensors does not have.
    pub fn new(mut tensors: Vec<View<'a>>, metadata: &BTreeMap<String, String>) -> Result<Self> {
        tensors.sort_by_key(|t| (std::cmp::Reverse(t.encoding.block_bytes()), t.name));
        let mut names = HashSet::with_capacity(tensors.len());
        for t in &tensors {
            let of = |field: &str| format!("the {field} of tensor {}", quoted(t.name));
            if t.name == METADATA || !names.insert(t.name) {
                return Err(invalid(of("name"), "taken", "a name of its own"));
            }
            if !t.encoding.in_safetensors() {
                return Err(invalid(
                    of("dtype"),
                    t.encoding.name(),
                    "a safetensors dtype",
                ));
            }
            let size = elements(t.shape).and_then(|n| t.encoding.bytes(n));
            if size != Some(t.bytes.len()) {
                let fill = format!("bytes that fill {:?} of {}", t.shape, t.encoding.name());
                return Err(invalid(
                    of("data"),
                    format!("{} bytes", t.bytes.len()),
                    &fill,
                ));
            }
        }
        let mut header = vec![0; 8];
        serde_json::to_writer(
            &mut header,
            &Json {
                tensors: &tensors,
                metadata,
            },
        )
        .map_err(|e| invalid("the header", e, "offsets that fit in memory"))?;
        header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
        let length = header.len().saturating_sub(8) as u64;
        if length > HEADER_LIMIT {
            return Err(FormatError::TooLarge {
                format: Format::Safetensors,
                what: "the header".to_owned(),
                size: length,
                limit: HEADER_LIMIT,
            });
        }
        if let Some(slot) = header.first_chunk_mut() {
            *slot = length.to_le_bytes();
        }
        Ok(Self { header, tensors })
    }

    /// Writes the file to `out`.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        self.tensors.iter().try_for_each(|t| out.write_all(t.bytes))
    }
}

struct Json<'a> {
    tensors: &'a [View<'a>],
    metadata: &'a BTreeMap<String, String>,
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, self.metadata)?;
        }
        let mut begin = 0usize;
        for t in self.tensors {
            let end = begin.checked_add(t.bytes.len());
            let end = end.ok_or_else(|| S::Error::custom("more bytes than memory"))?;
            let entry = Entry {
                dtype: t.encoding.name().to_owned(),
                shape: t.shape.to_vec(),
                data_offsets: (begin, end),
            };
            map.serialize_entry(t.name, &entry)?;
            begin = end;
        }
        map.end()
    }
}
