//! Element types a tensor can hold.

use std::fmt;

use half::{bf16, f16};

use crate::storage::Buffer;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 64-bit float: the reference precision of gradient checks.
    F64,
    /// 32-bit float: what kernels compute in.
    F32,
    /// IEEE half precision: storage only.
    F16,
    /// bfloat16: storage only.
    BF16,
    /// 32-bit signed integer: token ids, positions, labels.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The numpy-style name: `float32`, `int32`, …
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I32 => "int32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is the element of some [`DType`].
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The dtype of `Self`.
    const DTYPE: DType;
    /// Takes ownership of `values` without copying them.
    fn buffer(values: Vec<Self>) -> Buffer;
}

macro_rules! element {
    ($($type:ty, $dtype:ident);*) => {$(
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            fn buffer(values: Vec<Self>) -> Buffer {
                Buffer::$dtype(values)
            }
        }
    )*};
}
element!(f64, F64; f32, F32; f16, F16; bf16, BF16; i32, I32);
