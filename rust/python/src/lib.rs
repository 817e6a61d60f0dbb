//! The Python extension module `lmrs._rs`: one line a method.

// pyo3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod error;
mod program;
mod tensor;

use pyo3::pymodule;

// Activations are allocated and freed at every op of a step; this allocator keeps the pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule(gil_used = false)]
mod _rs {
    #[pymodule_export]
    use crate::program::{PyProgram, PyTape, apply, op_names};
    #[pymodule_export]
    use crate::tensor::PyTensor;
}
