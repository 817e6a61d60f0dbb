//! What is known of a value before it is computed: its dtype and extents, a row count possibly only by name.

use std::fmt;
use std::sync::Arc;

use lmrs_tensor::{DType, Error, Result, Tensor};

/// The extent of an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A number: every extent of a weight, every extent when running eagerly.
    Known(usize),
    /// As many as the named stream has rows; known only when the program runs.
    Named(Arc<str>),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(n) => write!(f, "{n}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// The dtype and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The element type.
    pub dtype: DType,
    /// The extents.
    pub dims: Vec<Dim>,
}

impl Meta {
    /// The meta of `rows × width` elements.
    pub fn matrix(dtype: DType, rows: Dim, width: usize) -> Self {
        Self {
            dtype,
            dims: vec![rows, Dim::Known(width)],
        }
    }

    /// The meta of a tensor at hand.
    pub fn of(tensor: &Tensor) -> Self {
        Self {
            dtype: tensor.dtype(),
            dims: tensor.shape().iter().map(|&n| Dim::Known(n)).collect(),
        }
    }

    /// The extent of the first axis.
    pub fn rows(&self) -> Dim {
        self.dims.first().cloned().unwrap_or(Dim::Known(1))
    }

    /// Reads `self` as activations `[rows, width]` and returns the width.
    pub fn width(&self, op: &'static str, what: &str) -> Result<usize> {
        match (self.dtype, self.dims.as_slice()) {
            (DType::F32 | DType::F64, [_, Dim::Known(width)]) => Ok(*width),
            _ => Err(Error::shape(
                op,
                format!("{what} is {self}, expected floats [rows, width]"),
            )),
        }
    }

    /// Reads `self` as a weight vector and returns its length.
    pub fn vector(&self, op: &'static str, what: &str) -> Result<usize> {
        match (self.dtype, self.dims.as_slice()) {
            (DType::F32 | DType::F64, [Dim::Known(n)]) => Ok(*n),
            _ => Err(Error::shape(
                op,
                format!("{what} is {self}, expected floats [n]"),
            )),
        }
    }

    /// Reads `self` as a weight matrix and returns its extents.
    pub fn weight(&self, op: &'static str, what: &str) -> Result<(usize, usize)> {
        match (self.dtype, self.dims.as_slice()) {
            (DType::F32 | DType::F64, [Dim::Known(rows), Dim::Known(width)]) => Ok((*rows, *width)),
            _ => Err(Error::shape(
                op,
                format!("{what} is {self}, expected floats [rows, width] of a weight"),
            )),
        }
    }

    /// Reads `self` as ids, positions or labels and returns its extent.
    pub fn ids(&self, op: &'static str, what: &str) -> Result<Dim> {
        match (self.dtype, self.dims.as_slice()) {
            (DType::I32, [n]) => Ok(n.clone()),
            _ => Err(Error::shape(
                op,
                format!("{what} is {self}, expected int32 [n]"),
            )),
        }
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<_> = self.dims.iter().map(ToString::to_string).collect();
        write!(f, "{} [{}]", self.dtype, dims.join(", "))
    }
}

/// Fails unless `got` equals `expected`, naming the op and the extent.
pub fn expect_equal<T: PartialEq + fmt::Display>(
    op: &'static str,
    what: &str,
    got: &T,
    expected: &T,
) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format!("{what} is {got}, expected {expected}"),
    ))
}
