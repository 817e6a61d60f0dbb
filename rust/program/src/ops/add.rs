//! `x + y`, the second possibly a row added to each.

use lmrs_kernels::elementwise;
use lmrs_kernels::view::Rows;
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{broadcast, float, view};
use crate::op::{Call, Forward, Operation, Saved, optional, required};
use crate::{Dim, Meta, Spares, meta};

const NAME: &str = "add";

/// `add(x, y)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {}

impl Operation for Add {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        infer_broadcast(NAME, inputs)
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        Ok(sum_of(
            call.spares,
            required(NAME, inputs, 0)?,
            required(NAME, inputs, 1)?,
        )?
        .into())
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        let is_row = |y: &Tensor| matches!(y.shape(), [_] | [1, _]);
        vec![false, optional(inputs, 1).is_some_and(is_row)]
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let dy = match optional(saved.inputs, 1).map(Tensor::shape) {
            _ if !saved.needs[1] => None,
            Some(shape @ ([n] | [1, n])) => Some(float!(grad, T => {
                let dy = view::<T>(grad)?;
                saved.spares.vector(*n, |sum| elementwise::sum_rows(dy, sum))?.reshaped(shape)
            })?),
            _ => Some(grad.clone()),
        };
        Ok(vec![Some(grad.clone()), dy])
    }
}

/// Judges `x [rows, d]` with `y [rows, d]`, `[1, d]` or `[d]`.
pub(super) fn infer_broadcast(op: &'static str, inputs: &[Option<&Meta>]) -> Result<Meta> {
    let (x, y) = (*required(op, inputs, 0)?, *required(op, inputs, 1)?);
    let width = x.width(op, "x")?;
    if y.dims.len() == 1 {
        meta::expect_equal(op, "length of y", &y.vector(op, "y")?, &width)?;
        meta::expect_equal(op, "dtype of y", &y.dtype, &x.dtype)?;
    } else if y.rows() == Dim::Known(1) {
        meta::expect_equal(op, "width of y", &y.width(op, "y")?, &width)?;
        meta::expect_equal(op, "dtype of y", &y.dtype, &x.dtype)?;
    } else {
        meta::expect_equal(op, "y", y, x)?;
    }
    Ok(x.clone())
}

/// `x + y`; also how gradients of one value add up.
pub(crate) fn sum_of(spares: &Spares, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    float!(x, T => {
        if let [n] = *x.shape() {
            let (a, b) = (Rows::new(x.values()?, 1, n), Rows::new(y.values()?, 1, n));
            return spares.matrix::<T>(1, n, |out| elementwise::add(a, b, out))?.reshaped([n]);
        }
        let (a, b) = (view(x)?, broadcast(y, x.rows())?);
        spares.matrix::<T>(x.rows(), x.width(), |out| elementwise::add(a, b, out))
    })
}
