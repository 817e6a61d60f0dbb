//! The Python extension module `lmrs._rs`: one line a method.

use pyo3::pymodule;

// Activations are allocated and freed at every op of a step; this allocator keeps the pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule(gil_used = false)]
mod _rs {}
