//! `Checkpoint`: the tensors and metadata of a file; `save_safetensors`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lmrs_formats::gguf::Value;
use lmrs_tensor::{Checkpoint, Error, Metadata};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::error::{PyRes, detached};
use crate::tensor::PyTensor;

/// The tensors of a safetensors file, of a set of shards, or of a GGUF file; mapped, never loaded whole.
#[pyclass(frozen, name = "Checkpoint", module = "lmrs._rs")]
pub struct PyCheckpoint(Checkpoint);

#[pymethods]
impl PyCheckpoint {
    /// Opens a file, or a directory: its model.safetensors, the shards of its index, or its one GGUF file.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyRes<Self> {
        Ok(Self(detached(py, || Checkpoint::open(&path))??))
    }

    /// Names, encodings and shapes, in file order.
    #[getter]
    fn tensors(&self) -> Vec<(&str, &'static str, Vec<usize>)> {
        let each = self.0.tensors();
        each.map(|t| (t.name.as_str(), t.encoding.name(), t.shape.clone()))
            .collect()
    }

    /// The tensor `name` in float32, without a copy where it is stored so.
    fn tensor(&self, py: Python<'_>, name: &str) -> PyRes<PyTensor> {
        Ok(PyTensor(detached(py, || self.0.tensor(name))??))
    }

    /// The tensor `name` in the dtype it is stored in.
    fn stored(&self, py: Python<'_>, name: &str) -> PyRes<PyTensor> {
        Ok(PyTensor(detached(py, || self.0.stored(name))??))
    }

    /// Whether the file is GGUF.
    #[getter]
    fn is_gguf(&self) -> bool {
        matches!(self.0.metadata(), Metadata::Gguf(_))
    }

    /// `__metadata__` of a safetensors file, or the key-value pairs of a GGUF file.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyRes<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        match self.0.metadata() {
            Metadata::Safetensors(entries) => {
                for (key, value) in entries {
                    dict.set_item(key, value)?;
                }
            }
            Metadata::Gguf(entries) => {
                for (key, value) in entries {
                    dict.set_item(key, object(py, value)?)?;
                }
            }
        }
        Ok(dict)
    }

    /// The files it consists of.
    #[getter]
    fn files(&self) -> Vec<PathBuf> {
        self.0.files().map(PathBuf::from).collect()
    }
}

fn object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::U8(v) => v.into_bound_py_any(py),
        Value::I8(v) => v.into_bound_py_any(py),
        Value::U16(v) => v.into_bound_py_any(py),
        Value::I16(v) => v.into_bound_py_any(py),
        Value::U32(v) => v.into_bound_py_any(py),
        Value::I32(v) => v.into_bound_py_any(py),
        Value::U64(v) => v.into_bound_py_any(py),
        Value::I64(v) => v.into_bound_py_any(py),
        Value::F32(v) => v.into_bound_py_any(py),
        Value::F64(v) => v.into_bound_py_any(py),
        Value::Bool(v) => v.into_bound_py_any(py),
        Value::String(v) => v.into_bound_py_any(py),
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(object(py, item)?)?;
            }
            Ok(list.into_any())
        }
    }
}

/// Writes a safetensors file, whole or not at all.
#[pyfunction]
pub fn save_safetensors(
    py: Python<'_>,
    path: PathBuf,
    tensors: BTreeMap<String, PyRef<'_, PyTensor>>,
    metadata: BTreeMap<String, String>,
) -> PyRes<()> {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(n, t)| (n.as_str(), t.0.clone()))
        .collect();
    let write = || -> Result<(), Error> {
        let tensors = tensors.iter().map(|(name, tensor)| (*name, tensor));
        lmrs_tensor::save_safetensors(&path, tensors, &metadata)
    };
    Ok(detached(py, write)??)
}
