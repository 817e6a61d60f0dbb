//! `by·x`.

use lmrs_kernels::elementwise;
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, matrix, view};
use crate::Meta;
use crate::op::{Call, Forward, Operation, Saved, required};

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

    fn forward(&self, _: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        Ok(self.times(required(NAME, inputs, 0)?)?.into())
    }

    fn backward(&self, _: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.times(grad)?)])
    }
}

impl Scale {
    fn times(&self, x: &Tensor) -> Result<Tensor> {
        float!(x, T => {
            let view = view::<T>(x)?;
            matrix(x.rows(), x.width(), |y| elementwise::scale(view, self.by as T, y))
        })
    }
}
