//! The sum of all elements, `[1, 1]`.

use lmrs_kernels::elementwise;
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Dim, Meta};

const NAME: &str = "sum";

/// `sum(x)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sum {}

impl Operation for Sum {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        x.width(NAME, "x")?;
        Ok(Meta::matrix(x.dtype, Dim::Known(1), 1))
    }

    fn forward(&self, _: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let x = required(NAME, inputs, 0)?;
        float!(x, T => Ok(Tensor::new(vec![elementwise::sum(view::<T>(x)?)], [1, 1])?.into()))
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = required(NAME, saved.inputs, 0)?;
        float!(grad, T => Ok(vec![Some(Tensor::new(vec![grad.values::<T>()?[0]; x.len()], x.shape())?)]))
    }
}
