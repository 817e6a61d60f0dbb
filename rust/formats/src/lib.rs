//! Checkpoint files: safetensors, GGUF and shard indexes. Parse, write and dequantise, trusting nothing.
//!
//! Everything works on byte slices and `Write`; mapping files and making tensors is `lmrs-tensor`'s business.
//! Every count, length and offset is checked against the bytes that are there before anything is allocated for it, so
//! memory stays proportional to the file and a malformed file gives one [`FormatError`], never a panic.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod encoding;
mod error;
pub mod gguf;
mod identify;
mod json;
mod quant;
mod reader;
pub mod safetensors;
pub mod shards;

pub use encoding::Encoding;
pub use error::{Format, FormatError, Result};
pub use identify::identify;
pub use quant::decode;

/// One tensor of a file: what it is and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// How its elements are stored.
    pub encoding: Encoding,
    /// The extent of each axis, outermost first (row-major). The product of the non-zero extents fits in `usize`.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub start: usize,
    /// One past the last byte; within the file.
    pub end: usize,
}

impl TensorInfo {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }
}
