//! `y = xᵀ`, of a matrix of weights.

use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Dim, Meta, Spares};

const NAME: &str = "transpose";

/// `transpose(x)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transpose {}

impl Operation for Transpose {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        let (rows, width) = x.weight(NAME, "x")?;
        Ok(Meta::matrix(x.dtype, Dim::Known(width), rows))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        Ok(transposed(call.spares, required(NAME, inputs, 0)?)?.into())
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        vec![false; inputs.len()]
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(transposed(saved.spares, grad)?)])
    }
}

fn transposed(spares: &Spares, x: &Tensor) -> Result<Tensor> {
    float!(x, T => {
        let rows = view::<T>(x)?;
        spares.matrix(x.width(), x.rows(), |mut y| {
            for i in 0..rows.rows() {
                for (j, &value) in rows.row(i).iter().enumerate() {
                    y.row_mut(j)[i] = value;
                }
            }
        })
    })
}
