//! `Program`, `Tape` and the eager `apply`: one line a method.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lmrs_kernels::linear::Compute;
use lmrs_program::{
    Bindings, Op, Program, Ragged, Randomness, Setting, Spares, Tape, ValueId, evaluate,
};
use lmrs_tensor::{Error, Tensor};
use pyo3::prelude::*;

use crate::error::{PyRes, detached};
use crate::tensor::{PyTensor, parse_dtype};

pub type Named<'py> = HashMap<String, PyRef<'py, PyTensor>>;
type Inputs<'py> = Vec<Option<PyRef<'py, PyTensor>>>;
pub type Streams = Vec<(String, Vec<usize>)>;

fn tensors(inputs: Inputs<'_>) -> Vec<Option<Tensor>> {
    inputs.into_iter().map(|t| t.map(|t| t.0.clone())).collect()
}

fn ragged(streams: Streams) -> PyRes<Vec<(String, Ragged)>> {
    streams
        .into_iter()
        .map(|(name, starts)| Ok((name, Ragged::new(&starts)?)))
        .collect()
}

/// What a run is given.
pub fn bindings(inputs: Named<'_>, streams: Streams) -> PyRes<Bindings> {
    let inputs = inputs.into_iter();
    Ok(Bindings {
        inputs: inputs
            .map(|(name, tensor)| (name, tensor.0.clone()))
            .collect(),
        streams: ragged(streams)?.into_iter().collect(),
    })
}

/// The value; a panic while it was held left it as it was at some op, which is all right.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What products are computed in, by the name of its dtype.
fn parse_compute(name: &str) -> PyRes<Compute> {
    match name {
        "f32" => Ok(Compute::F32),
        "bf16" => Ok(Compute::Bf16),
        _ => Err(Error::input("compute", &name, "f32 or bf16").into()),
    }
}

/// Computes one op on tensors at hand.
#[pyfunction]
#[pyo3(signature = (op, attributes, inputs, streams, *, compute="f32"))]
pub fn apply(
    py: Python<'_>,
    op: &str,
    attributes: &str,
    inputs: Inputs<'_>,
    streams: Streams,
    compute: &str,
) -> PyRes<PyTensor> {
    let (op, inputs) = (Op::parse(op, attributes)?, tensors(inputs));
    let streams: Vec<Ragged> = ragged(streams)?.into_iter().map(|(_, r)| r).collect();
    let setting = Setting {
        compute: parse_compute(compute)?,
        ..Setting::default()
    };
    let value = detached(py, || evaluate(&op, &inputs, &streams, &[], &setting))??;
    Ok(PyTensor(value.output))
}

/// The names of all ops.
#[pyfunction]
pub fn op_names() -> Vec<&'static str> {
    Op::NAMES.to_vec()
}

/// A flat list of ops, written by recording a model.
#[pyclass(frozen, name = "Program", module = "lmrs._rs")]
#[derive(Default)]
pub struct PyProgram(Mutex<Program>);

impl PyProgram {
    /// A copy of the program as it stands; weights are shared.
    pub fn snapshot(&self) -> Program {
        locked(&self.0).clone()
    }
}

#[pymethods]
impl PyProgram {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// The number of the input `name`, declared at its first mention with as many rows as the stream `rows`.
    #[pyo3(signature = (name, dtype, rows, width=None))]
    fn input(&self, name: &str, dtype: &str, rows: &str, width: Option<usize>) -> PyRes<u32> {
        Ok(locked(&self.0)
            .input(name, parse_dtype(dtype)?, rows, width)
            .0)
    }

    /// The number of the leaf that holds `tensor`.
    fn parameter(&self, path: &str, tensor: &PyTensor) -> u32 {
        locked(&self.0).parameter(path, &tensor.0).0
    }

    /// Appends an op and returns the number of its result.
    fn push(
        &self,
        op: &str,
        attributes: &str,
        inputs: Vec<Option<u32>>,
        streams: Vec<String>,
        path: &str,
    ) -> PyRes<u32> {
        let inputs = inputs.into_iter().map(|v| v.map(ValueId)).collect();
        Ok(locked(&self.0)
            .push(Op::parse(op, attributes)?, inputs, streams, path)?
            .0)
    }

    /// Names the values a run returns.
    fn finish(&self, outputs: Vec<u32>) {
        locked(&self.0).outputs = outputs.into_iter().map(ValueId).collect();
    }

    /// Runs the program on named inputs and streams, with no cache.
    fn run(&self, py: Python<'_>, inputs: Named<'_>, streams: Streams) -> PyRes<Vec<PyTensor>> {
        let bindings = bindings(inputs, streams)?;
        let program = self.snapshot();
        Ok(detached(py, || program.run(&bindings, None))??
            .into_iter()
            .map(PyTensor)
            .collect())
    }

    #[getter]
    fn inputs(&self) -> Vec<String> {
        locked(&self.0)
            .inputs
            .iter()
            .map(|i| i.name.clone())
            .collect()
    }

    #[getter]
    fn parameters(&self) -> Vec<String> {
        locked(&self.0)
            .parameters
            .iter()
            .map(|p| p.path.clone())
            .collect()
    }

    /// The nodes as (op, path of the module that made it).
    #[getter]
    fn nodes(&self) -> Vec<(&'static str, String)> {
        locked(&self.0)
            .nodes
            .iter()
            .map(|n| (n.op.name(), n.path.clone()))
            .collect()
    }

    fn __eq__(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.snapshot() == other.snapshot()
    }

    fn __len__(&self) -> usize {
        locked(&self.0).nodes.len()
    }

    fn __str__(&self) -> String {
        locked(&self.0).to_string()
    }
}

/// Memory that values leave to those after them.
#[pyclass(frozen, name = "Spares", module = "lmrs._rs")]
#[derive(Default)]
pub struct PySpares(pub Spares);

#[pymethods]
impl PySpares {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Memory that is NaN throughout until it is written, for tests.
    #[staticmethod]
    fn poisoned() -> Self {
        Self(Spares::poisoned())
    }

    /// How many buffers had to be made so far.
    #[getter]
    fn made(&self) -> usize {
        self.0.made()
    }
}

/// Computes ops while noting those that a gradient has to pass through.
#[pyclass(frozen, name = "Tape", module = "lmrs._rs")]
pub struct PyTape(Mutex<Tape>);

#[pymethods]
impl PyTape {
    /// A tape for the gradients of `trainable`. `seed` and `step` key dropout; without them dropout does nothing. Operands
    /// of products are rounded to `compute`. Values get their memory from `spares`, else from one another.
    #[new]
    #[pyo3(signature = (trainable, *, randomness=None, compute="f32", spares=None))]
    fn new(
        trainable: Vec<PyRef<'_, PyTensor>>,
        randomness: Option<(u64, u32)>,
        compute: &str,
        spares: Option<&PySpares>,
    ) -> PyRes<Self> {
        let trainable: Vec<Tensor> = trainable.iter().map(|t| t.0.clone()).collect();
        let setting = Setting {
            randomness: randomness.map(|(seed, step)| Randomness { seed, step }),
            compute: parse_compute(compute)?,
            spares: spares.map(|spares| spares.0.clone()).unwrap_or_default(),
        };
        Ok(Self(Mutex::new(Tape::new(&trainable, setting))))
    }

    /// Computes one op, noting it if a trainable weight feeds it.
    fn apply(
        &self,
        py: Python<'_>,
        op: &str,
        attributes: &str,
        inputs: Inputs<'_>,
        streams: Streams,
    ) -> PyRes<PyTensor> {
        let (op, inputs, streams) = (
            Op::parse(op, attributes)?,
            tensors(inputs),
            ragged(streams)?,
        );
        Ok(PyTensor(detached(py, || {
            locked(&self.0).apply(op, inputs, streams)
        })??))
    }

    /// The gradients of the scalar `loss`, one for each of `wrt`; `None` where it does not depend on it.
    fn backward(
        &self,
        py: Python<'_>,
        loss: &PyTensor,
        wrt: Vec<PyRef<'_, PyTensor>>,
    ) -> PyRes<Vec<Option<PyTensor>>> {
        let wrt: Vec<Tensor> = wrt.iter().map(|t| t.0.clone()).collect();
        let grads = detached(py, || locked(&self.0).backward(&loss.0, &wrt))??;
        Ok(grads.into_iter().map(|g| g.map(PyTensor)).collect())
    }

    fn __len__(&self) -> usize {
        locked(&self.0).program().nodes.len()
    }

    fn __str__(&self) -> String {
        locked(&self.0).program().to_string()
    }
}
