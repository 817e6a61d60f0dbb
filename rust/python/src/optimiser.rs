//! `AdamW` and the norm of gradients: one line a method.

use lmrs_kernels::Real;
use lmrs_kernels::adamw::{self, AdamW};
use lmrs_tensor::{DType, Element, Error, Result, Tensor};
use pyo3::prelude::*;

use crate::error::{PyRes, detached};
use crate::tensor::PyTensor;

/// The settings of `AdamW`; what it remembers of a parameter is given to each call and comes back.
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

    /// The parameter and its moments (mean, square) after the `step`-th step, counted from 1, by `scale·gradient`.
    fn step(
        &self,
        py: Python<'_>,
        step: u64,
        parameter: &PyTensor,
        gradient: &PyTensor,
        scale: f64,
        moments: (PyRef<'_, PyTensor>, PyRef<'_, PyTensor>),
    ) -> PyRes<(PyTensor, (PyTensor, PyTensor))> {
        let before = [&parameter.0, &moments.0.0, &moments.1.0].map(Clone::clone);
        let [parameter, mean, square] = detached(py, || match before[0].dtype() {
            DType::F64 => stepped::<f64>(&self.0, step, &before, &gradient.0, scale),
            _ => stepped::<f32>(&self.0, step, &before, &gradient.0, scale),
        })??;
        Ok((PyTensor(parameter), (PyTensor(mean), PyTensor(square))))
    }
}

fn stepped<F: Real + Element>(
    settings: &AdamW,
    step: u64,
    before: &[Tensor; 3],
    gradient: &Tensor,
    scale: f64,
) -> Result<[Tensor; 3]> {
    let shape = before[0].shape();
    if before
        .iter()
        .chain([gradient])
        .any(|t| t.shape() != shape || t.dtype() != F::DTYPE)
    {
        let shown = format!("{before:?} with gradient {gradient:?}");
        return Err(Error::shape(
            "adamw",
            format!("{shown}, expected one shape and dtype"),
        ));
    }
    let mut after = [Vec::new(), Vec::new(), Vec::new()];
    for (after, before) in after.iter_mut().zip(before) {
        *after = before.values::<F>()?.to_vec();
    }
    let [mut parameter, mut mean, mut square] = after;
    settings.step(
        step,
        &mut parameter,
        gradient.values()?,
        scale,
        &mut mean,
        &mut square,
    );
    let tensor = |values| Tensor::new::<F>(values, shape);
    Ok([tensor(parameter)?, tensor(mean)?, tensor(square)?])
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
