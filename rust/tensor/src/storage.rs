//! Where a tensor's bytes live: in a vector of ours, or in a memory-mapped file, as they are or encoded.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use half::{bf16, f16};

use crate::encoded::Encoded;
use crate::{DType, Error, Result};

/// Elements owned by the process.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant is the dtype of the same name")]
pub enum Buffer {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I32(Vec<i32>),
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::F64(v) => bytemuck::cast_slice(v),
            Self::F32(v) => bytemuck::cast_slice(v),
            Self::F16(v) => bytemuck::cast_slice(v),
            Self::BF16(v) => bytemuck::cast_slice(v),
            Self::I32(v) => bytemuck::cast_slice(v),
        }
    }
}

/// A file mapped read-only. Shared by every tensor that lies in it.
#[derive(Debug)]
pub struct Mapping {
    map: memmap2::Mmap,
    identity: String,
}

impl Mapping {
    /// Maps the whole file at `path`.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let error = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        // Asked before opening: to open a named pipe is to wait for whoever writes to it.
        if !path.metadata().map_err(error)?.is_file() {
            return Err(error(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "not a regular file",
            )));
        }
        let file = File::open(path).map_err(error)?;
        // SAFETY: the map is private and read-only. Its bytes change only if another process writes to the
        // file while it is mapped, which `Checkpoint` documents as outside its contract, as every reader of
        // mapped weights does.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(error)?;
        let identity = identity(path, &file).map_err(error)?;
        Ok(Arc::new(Self { map, identity }))
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// What tells it from every other file and from itself after a change: its path, its length and when it was changed.
    fn identity(&self) -> &str {
        &self.identity
    }
}

fn identity(path: &Path, file: &File) -> std::io::Result<String> {
    let facts = file.metadata()?;
    let changed = facts.modified()?.duration_since(std::time::UNIX_EPOCH);
    let changed = changed.unwrap_or_default().as_nanos();
    let path = path.canonicalize()?;
    Ok(format!("{} {} {changed}", path.display(), facts.len()))
}

/// Rows of float32 that are made when they are asked for.
pub trait Rows: fmt::Debug + Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;
    /// Their length.
    fn width(&self) -> usize;
    /// Writes the rows from `first` on to `out`, as many as it holds.
    ///
    /// # Panics
    /// If `out` is not a number of rows, or there are no such rows.
    fn read(&self, first: usize, out: &mut [f32]);
    /// The part of a file that they are, if they are one.
    fn encoded(&self) -> Option<&Encoded> {
        None
    }
}

#[derive(Debug)]
enum Bytes {
    Owned(Buffer),
    Mapped {
        map: Arc<Mapping>,
        start: usize,
        end: usize,
    },
    Encoded {
        rows: Box<dyn Rows>,
        /// All of it as float32, once somebody wanted that.
        decoded: OnceLock<Vec<f32>>,
    },
}

type Value = dyn Any + Send + Sync;

/// What was computed from the bytes, and whether the storage itself keeps it.
#[derive(Debug)]
enum Derived {
    Kept(Arc<Value>),
    Lent(Weak<Value>),
}

/// How long a derived value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As long as the storage.
    Storage,
    /// As long as somebody holds it.
    Holders,
}

/// Takes the memory of values that nobody holds any more.
pub trait Keeper: fmt::Debug + Send + Sync {
    /// Called with what a value held, whatever thread let go of it last.
    fn keep(&self, values: Vec<f32>);
}

/// The bytes of a tensor, and what was computed from them once (packed panels).
#[derive(Debug)]
pub struct Storage {
    bytes: Bytes,
    /// By key and the shape the bytes were read with.
    derived: Mutex<Vec<(&'static str, Vec<usize>, Derived)>>,
    keeper: Option<Weak<dyn Keeper>>,
    /// Which bytes of which file these are, or were rearranged from.
    origin: Option<String>,
}

impl Drop for Storage {
    fn drop(&mut self) {
        let keeper = self.keeper.as_ref().and_then(Weak::upgrade);
        if let (Some(keeper), Bytes::Owned(Buffer::F32(values))) = (keeper, &mut self.bytes) {
            keeper.keep(std::mem::take(values));
        }
    }
}

impl Storage {
    /// Storage that owns `buffer`.
    pub fn owned(buffer: Buffer) -> Self {
        Self::of(Bytes::Owned(buffer))
    }

    /// Storage that owns `buffer` and leaves it, where it is of float32, to `keeper` if that is still there.
    pub fn lent(buffer: Buffer, keeper: Weak<dyn Keeper>) -> Self {
        let mut storage = Self::owned(buffer);
        storage.keeper = Some(keeper);
        storage
    }

    fn of(bytes: Bytes) -> Self {
        Self {
            bytes,
            derived: Mutex::default(),
            keeper: None,
            origin: None,
        }
    }

    /// The same, known to be what `origin` says.
    #[must_use]
    pub fn from(mut self, origin: Option<String>) -> Self {
        if self.origin.is_none() {
            self.origin = origin;
        }
        self
    }

    /// Which bytes of which file these are, and how they are read or were rearranged: equal only for equal values. `None` for
    /// what was computed.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// The bytes `start..end` of a mapped file, to be read as `dtype`. `None` if they are out of the file or
    /// not aligned for `dtype`: the caller then copies.
    pub fn mapped(map: &Arc<Mapping>, start: usize, end: usize, dtype: DType) -> Option<Self> {
        let bytes = map.bytes().get(start..end)?;
        let aligned = bytes.as_ptr().align_offset(dtype.size()) == 0;
        let origin = format!("{} {start}..{end} {dtype}", map.identity());
        let bytes = aligned.then(|| Bytes::Mapped {
            map: Arc::clone(map),
            start,
            end,
        });
        Some(Self::of(bytes?).from(Some(origin)))
    }

    /// Rows of a mapped file: read in place where they are float32 one after another, else decoded when asked for.
    pub fn encoded(rows: Encoded) -> Self {
        let plain = rows.plain();
        let plain = plain.and_then(|(map, at)| Self::mapped(map, at.start, at.end, DType::F32));
        plain.unwrap_or_else(|| {
            let origin = format!("{} {rows}", rows.map().identity());
            Self::made(Box::new(rows)).from(Some(origin))
        })
    }

    /// Rows that are made when they are asked for.
    pub fn made(rows: Box<dyn Rows>) -> Self {
        Self::of(Bytes::Encoded {
            rows,
            decoded: OnceLock::new(),
        })
    }

    /// The raw bytes. Those of an encoded tensor are decoded the first time and kept.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(buffer) => buffer.bytes(),
            Bytes::Mapped { map, start, end } => &map.bytes()[*start..*end],
            Bytes::Encoded { rows, decoded } => {
                let values = decoded.get_or_init(|| {
                    let mut values = vec![0.0; rows.count() * rows.width()];
                    rows.read(0, &mut values);
                    values
                });
                bytemuck::cast_slice(values)
            }
        }
    }

    /// How many bytes there are, without decoding them.
    pub(crate) fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Encoded { rows, .. } => rows.count() * rows.width() * size_of::<f32>(),
            Bytes::Owned(_) | Bytes::Mapped { .. } => self.bytes().len(),
        }
    }

    /// The rows that can be asked for, unless somebody has had them all.
    pub(crate) fn rows(&self) -> Option<&dyn Rows> {
        match &self.bytes {
            Bytes::Encoded { rows, decoded } => decoded.get().is_none().then_some(&**rows),
            Bytes::Owned(_) | Bytes::Mapped { .. } => None,
        }
    }

    /// What `build` makes of these bytes read as `shape`, computed once for as long as it lives.
    ///
    /// `key` names the result; the same key always stands for the same type.
    pub(crate) fn derived<T: Any + Send + Sync>(
        &self,
        key: &'static str,
        shape: &[usize],
        life: Life,
        build: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut derived = self
            .derived
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = derived.iter().position(|(k, s, _)| *k == key && s == shape);
        let found = at.map(|at| derived.swap_remove(at).2);
        let (known, kept) = match found {
            Some(Derived::Kept(value)) => (Some(value), true),
            Some(Derived::Lent(value)) => (value.upgrade(), false),
            None => (None, false),
        };
        let known = known.and_then(|value| value.downcast::<T>().ok());
        let built = known.unwrap_or_else(|| Arc::new(build()));
        let value = Arc::clone(&built) as Arc<Value>;
        let value = if kept || life == Life::Storage {
            Derived::Kept(value)
        } else {
            Derived::Lent(Arc::downgrade(&value))
        };
        derived.push((key, shape.to_vec(), value));
        built
    }
}
