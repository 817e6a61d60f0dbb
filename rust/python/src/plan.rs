//! `Plan`, and the panels of its weights in a file: one line a method.

use std::sync::Arc;

use lmrs_kernels::linear::Weights;
use lmrs_program::{Plan, Precision, Spares, stored};
use pyo3::prelude::*;

use crate::error::{PyRes, bad_argument, detached};
use crate::program::{Named, PyProgram, Streams, bindings};
use crate::tensor::PyTensor;

/// A Program made ready to run many times; it gives what the Program gives, bit for bit.
#[pyclass(frozen, name = "Plan", module = "lmrs._rs")]
pub struct PyPlan(pub Arc<Plan>);

#[pymethods]
impl PyPlan {
    /// `dtype` is how weights are held: f32, bf16, int8 or int4.
    #[new]
    #[pyo3(signature = (program, dtype="f32"))]
    fn new(py: Python<'_>, program: &PyProgram, dtype: &str) -> PyRes<Self> {
        let (program, precision) = (program.snapshot(), parse_precision(dtype)?);
        let plan = detached(py, || Plan::new(program, precision))??;
        Ok(Self(Arc::new(plan)))
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

fn parse_weights(name: &str) -> PyRes<Weights> {
    Weights::named(name).ok_or_else(|| bad_argument("panels", &name, "f32, bf16, int8 or int4"))
}

/// The weights that a plan of `program` packs: path, the weight, how it is held, whether the program also reads it otherwise.
#[pyfunction]
pub fn packed_weights(
    program: &PyProgram,
    dtype: &str,
) -> PyRes<Vec<(String, PyTensor, &'static str, bool)>> {
    let (program, precision) = (program.snapshot(), parse_precision(dtype)?);
    let weights = stored::weights(&program, precision).into_iter();
    Ok(weights
        .map(|w| {
            (
                w.path.to_owned(),
                PyTensor(w.tensor.clone()),
                w.weights.name(),
                w.read,
            )
        })
        .collect())
}

/// The panels of `weight` as int32 words, and how many outputs a strip of them has.
#[pyfunction]
pub fn pack(
    py: Python<'_>,
    path: &str,
    weight: &PyTensor,
    weights: &str,
) -> PyRes<(PyTensor, usize)> {
    let weights = parse_weights(weights)?;
    let (words, strip) = detached(py, || stored::packed(path, &weight.0, weights))??;
    Ok((PyTensor(words), strip))
}

/// Has products with `weight` take the panels `words`.
#[pyfunction]
pub fn lend_panels(weight: &PyTensor, weights: &str, strip: usize, words: &PyTensor) -> PyRes<()> {
    Ok(stored::lend(
        &weight.0,
        parse_weights(weights)?,
        strip,
        &words.0,
    )?)
}

/// The weight `[outputs, inputs]` of which there are only the panels `words`.
#[pyfunction]
pub fn unpacked(
    shape: [usize; 2],
    weights: &str,
    strip: usize,
    words: &PyTensor,
) -> PyRes<PyTensor> {
    let weights = parse_weights(weights)?;
    Ok(PyTensor(stored::unpacked(shape, weights, strip, &words.0)?))
}
