//! Tensors of lmrs: dtype, shape, storage (owned or memory-mapped) and the one [`Error`].
//!
//! A [`Tensor`] is contiguous, row-major and immutable; cloning shares the storage. Kernels borrow its elements as slices.

mod dtype;
mod error;
mod storage;
mod tensor;

pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use storage::{Buffer, Mapping, Storage};
pub use tensor::Tensor;
