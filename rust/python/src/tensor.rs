//! `Tensor`: an immutable array, shared with numpy without a copy where Rust owns it.

use half::{bf16, f16};
use lmrs_tensor::{DType, Tensor};
use numpy::{
    PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::error::{PyRes, bad_argument, detached};

/// An immutable, contiguous array of float64, float32, float16, bfloat16 or int32.
#[pyclass(frozen, name = "Tensor", module = "lmrs._rs")]
#[derive(Clone)]
pub struct PyTensor(pub Tensor);

#[pymethods]
impl PyTensor {
    /// Copies a numpy array of float64, float32, float16 or int32.
    #[staticmethod]
    fn from_numpy(array: &Bound<'_, PyUntypedArray>) -> PyRes<Self> {
        if let Ok(array) = array.extract::<PyReadonlyArrayDyn<'_, f32>>() {
            return copied(&array);
        }
        if let Ok(array) = array.extract::<PyReadonlyArrayDyn<'_, i32>>() {
            return copied(&array);
        }
        if let Ok(array) = array.extract::<PyReadonlyArrayDyn<'_, f64>>() {
            return copied(&array);
        }
        if let Ok(array) = array.extract::<PyReadonlyArrayDyn<'_, f16>>() {
            return copied(&array);
        }
        Err(bad_argument(
            "array dtype",
            &array.dtype(),
            "float64, float32, float16 or int32",
        ))
    }

    /// The values as a new numpy array; bfloat16 widens to float32.
    fn numpy<'py>(&self, py: Python<'py>) -> PyRes<Bound<'py, PyAny>> {
        Ok(match self.0.dtype() {
            DType::F64 => array(py, self.0.values::<f64>()?, self.0.shape())?,
            DType::F32 => array(py, &self.0.decoded()?, self.0.shape())?,
            DType::F16 => array(py, self.0.values::<f16>()?, self.0.shape())?,
            DType::I32 => array(py, self.0.values::<i32>()?, self.0.shape())?,
            DType::BF16 => {
                let wide: Vec<f32> = self
                    .0
                    .values::<bf16>()?
                    .iter()
                    .map(|v| v.to_f32())
                    .collect();
                array(py, &wide, self.0.shape())?
            }
        })
    }

    /// The values in another float dtype, rounded to nearest even.
    fn cast(&self, py: Python<'_>, dtype: &str) -> PyRes<Self> {
        let dtype = parse_dtype(dtype)?;
        Ok(Self(detached(py, || self.0.cast(dtype))??))
    }

    /// The same values under another shape.
    fn reshape(&self, shape: Vec<usize>) -> PyRes<Self> {
        Ok(Self(self.0.reshaped(shape)?))
    }

    /// The rows `start..stop`; of a tensor in a file, that part of the file.
    fn slice_rows(&self, start: usize, stop: usize) -> PyRes<Self> {
        Ok(Self(self.0.slice_rows(start, stop)?))
    }

    /// The transpose of a matrix; of a tensor in a file, the same part of the file read by columns.
    fn transposed(&self) -> PyRes<Self> {
        Ok(Self(self.0.transposed()?))
    }

    /// The rows with the even ones of each of `heads` runs before the odd ones.
    fn unpaired(&self, heads: usize) -> PyRes<Self> {
        Ok(Self(self.0.unpaired(heads)?))
    }

    #[getter]
    fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.0.dtype().name()
    }

    /// Which bytes of which file these are, and how they are read; None for what was computed.
    #[getter]
    fn origin(&self) -> Option<String> {
        self.0.origin()
    }

    #[getter]
    fn id(&self) -> u64 {
        self.0.id()
    }

    fn __len__(&self) -> usize {
        self.0.rows()
    }

    fn __repr__(&self) -> String {
        format!("Tensor({}, shape={:?})", self.0.dtype(), self.0.shape())
    }
}

fn copied<T: numpy::Element + lmrs_tensor::Element>(
    array: &PyReadonlyArrayDyn<'_, T>,
) -> PyRes<PyTensor> {
    let shape = array.shape().to_vec();
    let values = array.as_array().iter().copied().collect();
    Ok(PyTensor(Tensor::new::<T>(values, shape)?))
}

pub fn array<'py, T: numpy::Element + Copy>(
    py: Python<'py>,
    values: &[T],
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    let flat = numpy::PyArray1::from_slice(py, values);
    let shaped: Bound<'py, PyArrayDyn<T>> = flat.reshape(shape.to_vec())?;
    Ok(shaped.into_any())
}

pub fn parse_dtype(name: &str) -> PyRes<DType> {
    let all = [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I32];
    let expected = "float64, float32, float16, bfloat16 or int32";
    all.into_iter()
        .find(|d| d.name() == name)
        .ok_or_else(|| bad_argument("dtype", &name, expected))
}
