//! `x·y` elementwise, the second possibly a row applied to each ((IA)³ scales activations so).

use lmrs_kernels::elementwise;
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::add::infer_broadcast;
use super::{broadcast, float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, Spares};

const NAME: &str = "mul";

/// `mul(x, y)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mul {}

impl Operation for Mul {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        infer_broadcast(NAME, inputs)
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        Ok(product_of(
            call.spares,
            required(NAME, inputs, 0)?,
            required(NAME, inputs, 1)?,
        )?
        .into())
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, y) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        let dx = if saved.needs[0] {
            Some(product_of(saved.spares, grad, y)?)
        } else {
            None
        };
        let dy = match y.shape() {
            _ if !saved.needs[1] => None,
            shape @ ([n] | [1, n]) => Some(float!(grad, T => {
                let (dy, x) = (view::<T>(grad)?, view(x)?);
                saved.spares.vector(*n, |sum| elementwise::sum_rows_of_product(dy, x, sum))?.reshaped(shape)
            })?),
            _ => Some(product_of(saved.spares, grad, x)?),
        };
        Ok(vec![dx, dy])
    }
}

fn product_of(spares: &Spares, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    float!(x, T => {
        let (a, b) = (view(x)?, broadcast(y, x.rows())?);
        spares.matrix::<T>(x.rows(), x.width(), |out| elementwise::mul(a, b, out))
    })
}
