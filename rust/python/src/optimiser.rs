//! `AdamW` and the norm of gradients: one line a method.

use std::sync::Mutex;

use lmrs_kernels::Real;
use lmrs_kernels::adamw::{self, AdamW};
use lmrs_program::Spares;
use lmrs_tensor::{DType, Element, Error, Result, Tensor};
use pyo3::prelude::*;

use crate::error::{PyRes, detached};
use crate::program::{PySpares, locked};
use crate::tensor::{PyTensor, array};

/// What an optimiser keeps of a parameter between steps. A step writes over it.
#[pyclass(frozen, name = "Moment", module = "lmrs._rs")]
pub struct PyMoment {
    values: Mutex<Values>,
    shape: Vec<usize>,
}

enum Values {
    F64(Vec<f64>),
    F32(Vec<f32>),
}

#[pymethods]
impl PyMoment {
    /// A copy of `tensor`, float64 or float32.
    #[new]
    fn new(tensor: &PyTensor) -> PyRes<Self> {
        let tensor = &tensor.0;
        Ok(Self {
            values: Mutex::new(match tensor.dtype() {
                DType::F64 => Values::F64(tensor.values()?.to_vec()),
                _ => Values::F32(tensor.values()?.to_vec()),
            }),
            shape: tensor.shape().to_vec(),
        })
    }

    /// Zeros of the shape and dtype of `tensor`.
    #[staticmethod]
    fn zeros(tensor: &PyTensor) -> Self {
        let (count, tensor) = (tensor.0.len(), &tensor.0);
        Self {
            values: Mutex::new(match tensor.dtype() {
                DType::F64 => Values::F64(vec![0.0; count]),
                _ => Values::F32(vec![0.0; count]),
            }),
            shape: tensor.shape().to_vec(),
        }
    }

    /// The values as a new numpy array.
    fn numpy<'py>(&self, py: Python<'py>) -> PyRes<Bound<'py, PyAny>> {
        Ok(match &*locked(&self.values) {
            Values::F64(values) => array(py, values, &self.shape)?,
            Values::F32(values) => array(py, values, &self.shape)?,
        })
    }
}

/// The settings of `AdamW`; what it remembers of a parameter is given to each call.
#[pyclass(frozen, name = "AdamW", module = "lmrs._rs")]
pub struct PyAdamW(AdamW);

#[pymethods]
impl PyAdamW {
    #[new]
    #[pyo3(signature = (*, learning_rate, beta1, beta2, eps, weight_decay))]
    fn new(learning_rate: f64, beta1: f64, beta2: f64, eps: f64, weight_decay: f64) -> Self {
        Self(AdamW {
            learning_rate,
            beta1,
            beta2,
            eps,
            weight_decay,
        })
    }

    /// The parameter after the `step`-th step, counted from 1, by `scale·gradient`; the moments (mean, square), which are
    /// two, become those after it.
    #[pyo3(signature = (step, parameter, gradient, scale, moments, spares=None))]
    #[allow(clippy::too_many_arguments)] // what a step of a parameter reads and changes
    fn step(
        &self,
        py: Python<'_>,
        step: u64,
        parameter: &PyTensor,
        gradient: &PyTensor,
        scale: f64,
        moments: (PyRef<'_, PyMoment>, PyRef<'_, PyMoment>),
        spares: Option<&PySpares>,
    ) -> PyRes<PyTensor> {
        let spares = spares.map(|spares| spares.0.clone()).unwrap_or_default();
        let (mean, square) = (&*moments.0, &*moments.1);
        if std::ptr::eq(mean, square) {
            return Err(Error::shape("adamw", "one moment in both places").into());
        }
        let stepped = detached(py, || {
            let (mut m, mut v) = (locked(&mean.values), locked(&square.values));
            let change = Change {
                settings: &self.0,
                step,
                scale,
                spares: &spares,
            };
            match (&mut *m, &mut *v) {
                (Values::F64(m), Values::F64(v)) => change.of(&parameter.0, &gradient.0, m, v),
                (Values::F32(m), Values::F32(v)) => change.of(&parameter.0, &gradient.0, m, v),
                _ => Err(Error::shape("adamw", "the moments are of two dtypes")),
            }
        })??;
        Ok(PyTensor(stepped))
    }
}

struct Change<'a> {
    settings: &'a AdamW,
    step: u64,
    scale: f64,
    spares: &'a Spares,
}

impl Change<'_> {
    fn of<F: Real + Element>(
        &self,
        parameter: &Tensor,
        gradient: &Tensor,
        mean: &mut [F],
        square: &mut [F],
    ) -> Result<Tensor> {
        let n = parameter.len();
        if gradient.shape() != parameter.shape() || (mean.len(), square.len()) != (n, n) {
            let shown = format!("{parameter:?} with gradient {gradient:?}");
            return Err(Error::shape(
                "adamw",
                format!("{shown} and moments of {}, expected one shape", mean.len()),
            ));
        }
        let (before, gradient) = (parameter.values::<F>()?, gradient.values::<F>()?);
        let mut after = self.spares.buffer::<F>(n);
        let moments = [mean, square];
        self.settings
            .step(self.step, before, &mut after, gradient, self.scale, moments);
        self.spares.tensor(after, parameter.shape())
    }
}

/// `√Σ x²` over all elements of `tensors`, which share a dtype; NaN or infinite if an element is.
#[pyfunction]
pub fn norm(py: Python<'_>, tensors: Vec<PyRef<'_, PyTensor>>) -> PyRes<f64> {
    let tensors: Vec<Tensor> = tensors.iter().map(|t| t.0.clone()).collect();
    Ok(detached(py, || {
        match tensors.first().map(Tensor::dtype) {
            Some(DType::F64) => norm_of::<f64>(&tensors),
            _ => norm_of::<f32>(&tensors),
        }
    })??)
}

fn norm_of<F: Real + Element>(tensors: &[Tensor]) -> Result<f64> {
    let slices = tensors
        .iter()
        .map(Tensor::values)
        .collect::<Result<Vec<&[F]>>>()?;
    Ok(adamw::norm(&slices))
}
