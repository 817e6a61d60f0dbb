//! `by·x`.

use lmrs_kernels::{Rows, elementwise};
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::float;
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, Spares};

const NAME: &str = "scale";

/// `scale(x)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The factor.
    pub by: f64,
}

impl Operation for Scale {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        x.width(NAME, "x")?;
        Ok(x.clone())
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        Ok(times(call.spares, required(NAME, inputs, 0)?, self.by)?.into())
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        (0..inputs.len()).map(|index| index > 0).collect()
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(times(saved.spares, grad, self.by)?)])
    }
}

/// `by·x`, of any shape.
pub(super) fn times(spares: &Spares, x: &Tensor, by: f64) -> Result<Tensor> {
    float!(x, T => {
        let flat = Rows::new(x.values::<T>()?, 1, x.len());
        spares.matrix(1, x.len(), |y| elementwise::scale(flat, by as T, y))?.reshaped(x.shape())
    })
}
