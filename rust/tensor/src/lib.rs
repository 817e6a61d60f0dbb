//! Tensors of lmrs: dtype, shape, storage (owned or memory-mapped) and the one [`Error`].
//!
//! A [`Tensor`] is contiguous, row-major and immutable; cloning shares the storage. Kernels borrow its elements as slices.

mod checkpoint;
mod dtype;
mod encoded;
mod error;
mod save;
mod storage;
mod tensor;

pub use checkpoint::{Checkpoint, Metadata};
pub use dtype::{DType, Element};
pub use encoded::Encoded;
pub use error::{Error, Result};
pub use save::save_safetensors;
pub use storage::{Buffer, Keeper, Life, Mapping, Rows, Storage};
pub use tensor::Tensor;
