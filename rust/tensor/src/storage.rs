//! Where a tensor's bytes live: in a vector of ours, or in a memory-mapped file.

use std::any::Any;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use half::{bf16, f16};

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
pub struct Mapping(memmap2::Mmap);

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
        Ok(Arc::new(Self(map)))
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
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
}

/// One result: its key, the shape the bytes were read with, the value.
type Derived = (&'static str, Vec<usize>, Arc<dyn Any + Send + Sync>);

/// The bytes of a tensor, and what was computed from them once (packed panels).
#[derive(Debug)]
pub struct Storage {
    bytes: Bytes,
    derived: Mutex<Vec<Derived>>,
}

impl Storage {
    /// Storage that owns `buffer`.
    pub fn owned(buffer: Buffer) -> Self {
        Self {
            bytes: Bytes::Owned(buffer),
            derived: Mutex::default(),
        }
    }

    /// The bytes `start..end` of a mapped file, to be read as `dtype`. `None` if they are out of the file or
    /// not aligned for `dtype`: the caller then copies.
    pub fn mapped(map: &Arc<Mapping>, start: usize, end: usize, dtype: DType) -> Option<Self> {
        let bytes = map.bytes().get(start..end)?;
        let aligned = bytes.as_ptr().align_offset(dtype.size()) == 0;
        aligned.then(|| Self {
            bytes: Bytes::Mapped {
                map: Arc::clone(map),
                start,
                end,
            },
            derived: Mutex::default(),
        })
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(buffer) => buffer.bytes(),
            Bytes::Mapped { map, start, end } => &map.bytes()[*start..*end],
        }
    }

    /// What `build` makes of these bytes read as `shape`, computed once and kept as long as the storage lives.
    ///
    /// `key` names the result; the same key always stands for the same type.
    pub(crate) fn derived<T: Any + Send + Sync>(
        &self,
        key: &'static str,
        shape: &[usize],
        build: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut derived = self
            .derived
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = derived.iter().find(|(k, s, _)| *k == key && s == shape);
        known
            .and_then(|(.., value)| Arc::clone(value).downcast::<T>().ok())
            .unwrap_or_else(|| {
                let built = Arc::new(build());
                derived.push((key, shape.to_vec(), Arc::clone(&built) as _));
                built
            })
    }
}
