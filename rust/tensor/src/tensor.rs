//! The tensor itself: a shape over shared storage.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use half::{bf16, f16};

use crate::{DType, Element, Encoded, Error, Keeper, Life, Result, Rows, Storage};

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

    /// As [`Self::new`]; once nobody holds the values any more, `keeper` gets their memory if it is still there.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn lent<T: Element>(
        values: Vec<T>,
        shape: impl Into<Vec<usize>>,
        keeper: Weak<dyn Keeper>,
    ) -> Result<Self> {
        Self::over(
            Storage::lent(T::buffer(values), keeper),
            T::DTYPE,
            shape.into(),
        )
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
        if bytes != Some(storage.len()) {
            let have = storage.len();
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

    /// Whether the rows still lie in a file in an encoding of its own: to ask for some is cheaper then than for all,
    /// which stay in memory once they were asked for.
    pub fn is_encoded(&self) -> bool {
        self.made().is_some()
    }

    /// The rows that are made when they are asked for.
    fn made(&self) -> Option<&dyn Rows> {
        let rows = self.storage.rows()?;
        (rows.count() == self.rows() && rows.width() == self.width()).then_some(rows)
    }

    /// The rows as they lie in their file.
    fn encoded(&self) -> Option<&Encoded> {
        self.made()?.encoded()
    }

    /// Which bytes of which file these are, and how they are read: equal only for equal values of one shape. `None` for what
    /// was computed.
    pub fn origin(&self) -> Option<String> {
        let origin = self.storage.origin()?;
        Some(format!("{origin} {:?}", self.shape))
    }

    /// The elements of a float32 tensor; those that lie encoded in a file are decoded for the caller alone.
    ///
    /// # Errors
    /// [`Error::Shape`] if the dtype is another.
    pub fn decoded(&self) -> Result<Cow<'_, [f32]>> {
        if !self.is_encoded() {
            return self.values().map(Cow::Borrowed);
        }
        let mut values = vec![0.0; self.len()];
        self.read_rows(0, &mut values)?;
        Ok(Cow::Owned(values))
    }

    /// Writes the rows from `first` on to `out`, as many as it holds.
    ///
    /// # Errors
    /// [`Error::Shape`] if the dtype is not that of `T` or there are no such rows.
    pub fn read_rows<T: Element>(&self, first: usize, out: &mut [T]) -> Result<()> {
        let (width, count) = (self.width(), out.len());
        let rows = count.checked_div(width).unwrap_or(0);
        if rows * width != count || first + rows > self.rows() {
            let what = format!("{count} elements from row {first} of {:?}", self.shape);
            return Err(Error::shape("tensor", what));
        }
        match self.made() {
            Some(rows) if T::DTYPE == DType::F32 => {
                rows.read(first, bytemuck::cast_slice_mut(out));
            }
            _ => out.copy_from_slice(&self.values::<T>()?[first * width..][..count]),
        }
        Ok(())
    }

    /// The rows `start..stop`: a part of the file where this tensor lies in one, else a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no such rows.
    pub fn slice_rows(&self, start: usize, stop: usize) -> Result<Self> {
        if start > stop || stop > self.rows() {
            let what = format!("rows {start} to {stop} of {:?}", self.shape);
            return Err(Error::shape("tensor", what));
        }
        let mut shape = self.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = stop - start;
        }
        if let Some(rows) = self.encoded() {
            return Self::over(Storage::encoded(rows.slice(start..stop)), self.dtype, shape);
        }
        let how = format!("rows {start}..{stop}");
        self.rearranged(shape, &how, |row| start + row)
    }

    /// The transpose of a matrix: of the same part of the file where it lies in one, else a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is no matrix.
    pub fn transposed(&self) -> Result<Self> {
        let [rows, width] = self.shape[..] else {
            let what = format!("transpose of {:?}, expected a matrix", self.shape);
            return Err(Error::shape("tensor", what));
        };
        if let Some(encoded) = self.encoded().and_then(Encoded::transposed) {
            return Self::over(Storage::encoded(encoded), self.dtype, vec![width, rows]);
        }
        let shape = vec![width, rows];
        self.reordered(shape, "transposed", |at| at % rows * width + at / rows)
    }

    /// The rows with the even ones of each of `heads` runs before the odd ones: of the same part of the file where the
    /// tensor lies in one, else a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if the rows are not that many runs of pairs.
    pub fn unpaired(&self, heads: usize) -> Result<Self> {
        let half = self.rows().checked_div(2 * heads).unwrap_or(0);
        if half * 2 * heads != self.rows() {
            let what = format!("{:?} in {heads} heads of paired rows", self.shape);
            return Err(Error::shape("tensor", what));
        }
        if let Some(encoded) = self.encoded().and_then(|rows| rows.unpaired(heads)) {
            return Self::over(Storage::encoded(encoded), self.dtype, self.shape.clone());
        }
        let how = format!("unpaired {heads}");
        self.rearranged(self.shape.clone(), &how, |row| {
            let (run, at) = (row / (2 * half), row % (2 * half));
            run * 2 * half + at % half * 2 + at / half
        })
    }

    /// A copy whose row `n` is row `from(n)`.
    fn rearranged(
        &self,
        shape: Vec<usize>,
        how: &str,
        from: impl Fn(usize) -> usize,
    ) -> Result<Self> {
        let width = self.width().max(1);
        self.reordered(shape, how, |at| from(at / width) * width + at % width)
    }

    /// A copy whose element `n` is element `from(n)`; `how` tells it from copies in another order.
    fn reordered(
        &self,
        shape: Vec<usize>,
        how: &str,
        from: impl Fn(usize) -> usize,
    ) -> Result<Self> {
        fn pick<T: Element>(
            values: &[T],
            shape: &[usize],
            from: impl Fn(usize) -> usize,
        ) -> Storage {
            let count = shape.iter().product();
            let picked = (0..count).map(|at| values[from(at)]).collect();
            Storage::owned(T::buffer(picked))
        }
        let storage = match self.dtype {
            DType::F64 => pick(self.values::<f64>()?, &shape, from),
            DType::F32 => pick(self.values::<f32>()?, &shape, from),
            DType::F16 => pick(self.values::<f16>()?, &shape, from),
            DType::BF16 => pick(self.values::<bf16>()?, &shape, from),
            DType::I32 => pick(self.values::<i32>()?, &shape, from),
        };
        let origin = self.origin().map(|origin| format!("{origin} {how}"));
        Self::over(storage.from(origin), self.dtype, shape)
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
            DType::F32 => collect(self.decoded()?.iter().map(|&v| v as f64), dtype, shape),
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

    /// What `build` makes of this tensor, computed once for as long as `life` says (see [`Storage`]).
    pub fn derived<T: Any + Send + Sync>(
        &self,
        key: &'static str,
        life: Life,
        build: impl FnOnce() -> T,
    ) -> Arc<T> {
        self.storage.derived(key, &self.shape, life, build)
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
