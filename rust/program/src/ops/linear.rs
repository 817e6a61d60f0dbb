//! `y = x·Wᵀ + b`.

use std::sync::Arc;

use lmrs_kernels::Real;
use lmrs_kernels::elementwise;
use lmrs_kernels::linear::{Epilogue, Packed, gradient_weight, matmul};
use lmrs_tensor::{Element, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, matrix, vector, view};
use crate::op::{Call, Forward, Operation, Saved, optional, required};
use crate::{Meta, meta};

const NAME: &str = "linear";

/// `linear(x, weight, [bias])`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {}

impl Operation for Linear {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let (x, weight) = (*required(NAME, inputs, 0)?, *required(NAME, inputs, 1)?);
        let (outputs, width) = weight.weight(NAME, "weight")?;
        meta::expect_equal(NAME, "width of x", &x.width(NAME, "x")?, &width)?;
        meta::expect_equal(NAME, "dtype of weight", &weight.dtype, &x.dtype)?;
        if let Some(bias) = optional(inputs, 2) {
            meta::expect_equal(
                NAME,
                "length of bias",
                &bias.vector(NAME, "bias")?,
                &outputs,
            )?;
            meta::expect_equal(NAME, "dtype of bias", &bias.dtype, &x.dtype)?;
        }
        Ok(Meta::matrix(x.dtype, x.rows(), outputs))
    }

    fn forward(&self, _: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (x, weight) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        float!(x, T => {
            let (rows, packed) = (view::<T>(x)?, packed(weight)?);
            let epilogue = Epilogue { bias: optional(inputs, 2).map(Tensor::values).transpose()?, ..Epilogue::default() };
            Ok(matrix(x.rows(), weight.rows(), |y| matmul(rows, &packed, y, &epilogue))?.into())
        })
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        let wants = |index: usize| saved.needs.get(index) == Some(&true);
        float!(x, T => {
            let (rows, dy) = (view::<T>(x)?, view::<T>(grad)?);
            let dx = if wants(0) { Some(input_gradient::<T>(grad, weight)?) } else { None };
            let dw = wants(1).then(|| matrix(weight.rows(), weight.width(), |dw| gradient_weight(dy, rows, dw)));
            let db = wants(2).then(|| vector(weight.rows(), |db| elementwise::sum_rows(dy, db)));
            Ok(vec![dx, dw.transpose()?, db.transpose()?])
        })
    }
}

/// The panels of a weight `[o, i]`, packed once.
pub(crate) fn packed<T: Real + Element>(weight: &Tensor) -> Result<Arc<Packed<T>>> {
    let rows = view(weight)?;
    Ok(weight.derived("packed", || Packed::new(rows)))
}

/// The panels of its transpose, packed once.
pub(super) fn packed_transpose<T: Real + Element>(weight: &Tensor) -> Result<Arc<Packed<T>>> {
    let rows = view(weight)?;
    Ok(weight.derived("packed transpose", || Packed::transposed(rows)))
}

/// `dX = dY·W`.
fn input_gradient<T: Real + Element>(grad: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (dy, packed) = (view::<T>(grad)?, packed_transpose(weight)?);
    matrix(grad.rows(), weight.width(), |dx| {
        matmul(dy, &packed, dx, &Epilogue::default());
    })
}
