//! The tensor itself: a shape over shared storage.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use half::{bf16, f16};

use crate::{DType, Element, Error, Result, Storage};

/// A contiguous, row-major, immutable array. Cloning shares the storage and keeps the identity.
#[derive(Clone)]
pub struct Tensor {
    id: u64,
    dtype: DType,
    shape: Vec<usize>,
    storage: Arc<Storage>,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Tensor {
    /// A tensor of `shape` over `values`, taken without a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of values is not the product of `shape`.
    pub fn new<T: Element>(values: Vec<T>, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let (count, shape) = (values.len(), shape.into());
        Self::over(Storage::owned(T::buffer(values)), T::DTYPE, shape).map_err(|_| {
            Error::shape(
                "tensor",
                format!("{count} values do not fill the shape given"),
            )
        })
    }

    /// A tensor of zeros.
    pub fn zeros<T: Element>(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let values = vec![T::zeroed(); shape.iter().product()];
        Self {
            id: next_id(),
            dtype: T::DTYPE,
            shape,
            storage: Arc::new(Storage::owned(T::buffer(values))),
        }
    }

    /// A tensor over `storage`, which must hold exactly the bytes of `shape` in `dtype`.
    pub fn over(storage: Storage, dtype: DType, shape: Vec<usize>) -> Result<Self> {
        let bytes = shape
            .iter()
            .try_fold(dtype.size(), |n, &d| n.checked_mul(d));
        if bytes != Some(storage.bytes().len()) {
            let have = storage.bytes().len();
            return Err(Error::shape(
                "tensor",
                format!("shape {shape:?} of {dtype} does not fit {have} bytes"),
            ));
        }
        Ok(Self {
            id: next_id(),
            dtype,
            shape,
            storage: Arc::new(storage),
        })
    }

    /// The identity of this value: equal for clones, different for everything else.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extent of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The extent of the first axis (1 for a scalar).
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The product of the axes after the first.
    pub fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw bytes, little endian.
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// The elements.
    ///
    /// # Errors
    /// [`Error::Shape`] if the dtype is not that of `T`.
    pub fn values<T: Element>(&self) -> Result<&[T]> {
        if self.dtype != T::DTYPE {
            return Err(Error::shape(
                "tensor",
                format!("is {}, expected {}", self.dtype, T::DTYPE),
            ));
        }
        Ok(bytemuck::cast_slice(self.storage.bytes()))
    }

    /// The same elements under another shape of the same size.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let shape = shape.into();
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape(
                "tensor",
                format!("cannot view {:?} as {shape:?}", self.shape),
            ));
        }
        Ok(Self {
            id: next_id(),
            dtype: self.dtype,
            shape,
            storage: Arc::clone(&self.storage),
        })
    }

    /// The same values in another float type, rounded to nearest even; a clone if nothing changes.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let shape = self.shape.clone();
        match self.dtype {
            DType::F64 => collect(self.values::<f64>()?.iter().copied(), dtype, shape),
            DType::F32 => collect(
                self.values::<f32>()?.iter().map(|&v| v as f64),
                dtype,
                shape,
            ),
            DType::F16 => collect(
                self.values::<f16>()?.iter().map(|v| v.to_f64()),
                dtype,
                shape,
            ),
            DType::BF16 => collect(
                self.values::<bf16>()?.iter().map(|v| v.to_f64()),
                dtype,
                shape,
            ),
            DType::I32 => Err(Error::shape("tensor", "int32 values are not cast")),
        }
    }

    /// What `build` makes of this tensor, computed once and kept as long as its storage lives (see [`Storage`]).
    pub fn derived<T: Any + Send + Sync>(
        &self,
        key: &'static str,
        build: impl FnOnce() -> T,
    ) -> Arc<T> {
        self.storage.derived(key, &self.shape, build)
    }
}

/// Gathers `values` as `dtype`; going through `f64` rounds once, since every float type here fits in it.
fn collect(values: impl Iterator<Item = f64>, dtype: DType, shape: Vec<usize>) -> Result<Tensor> {
    match dtype {
        DType::F64 => Tensor::new(values.collect::<Vec<_>>(), shape),
        DType::F32 => Tensor::new(values.map(|v| v as f32).collect::<Vec<_>>(), shape),
        DType::F16 => Tensor::new(values.map(f16::from_f64).collect::<Vec<_>>(), shape),
        DType::BF16 => Tensor::new(values.map(bf16::from_f64).collect::<Vec<_>>(), shape),
        DType::I32 => Err(Error::shape("tensor", "floats are not cast to int32")),
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor#{}({} {:?})", self.id, self.dtype, self.shape)
    }
}
