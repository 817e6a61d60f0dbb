//! `Plan`: one line a method.

use lmrs_kernels::linear::Weights;
use lmrs_program::{Plan, Precision, Spares};
use pyo3::prelude::*;

use crate::error::{PyRes, bad_argument, detached};
use crate::program::{Named, PyProgram, Streams, bindings};
use crate::tensor::PyTensor;

/// A Program made ready to run many times; it gives what the Program gives, bit for bit.
#[pyclass(frozen, name = "Plan", module = "lmrs._rs")]
pub struct PyPlan(pub Plan);

#[pymethods]
impl PyPlan {
    /// `dtype` is how weights are held: f32, bf16, int8 or int4.
    #[new]
    #[pyo3(signature = (program, dtype="f32"))]
    fn new(py: Python<'_>, program: &PyProgram, dtype: &str) -> PyRes<Self> {
        let (program, precision) = (program.snapshot(), parse_precision(dtype)?);
        Ok(Self(detached(py, || Plan::new(program, precision))??))
    }

    /// Memory that the packed weights take.
    #[getter]
    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Memory that the values of a run of so many tokens take, `selected` of which are asked for.
    fn working_bytes(&self, tokens: usize, selected: usize) -> usize {
        self.0
            .working_bytes(|stream| if stream == "select" { selected } else { tokens })
    }

    /// Runs the plan on named inputs and streams, with no cache.
    fn run(&self, py: Python<'_>, inputs: Named<'_>, streams: Streams) -> PyRes<Vec<PyTensor>> {
        let bindings = bindings(inputs, streams)?;
        let outputs = detached(py, || self.0.run(&bindings, None, &Spares::default()))??;
        Ok(outputs.into_iter().map(PyTensor).collect())
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}

fn parse_precision(dtype: &str) -> PyRes<Precision> {
    let (layers, head) = match dtype {
        "f32" => (Weights::F32, Weights::F32),
        "bf16" => (Weights::Bf16, Weights::Bf16),
        "int8" => (Weights::Int8, Weights::Int8),
        "int4" => (Weights::Int4, Weights::Int8),
        _ => return Err(bad_argument("dtype", &dtype, "f32, bf16, int8 or int4")),
    };
    Ok(Precision { layers, head })
}
