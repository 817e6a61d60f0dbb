//! `y = x / sqrt(mean(x²) + eps) · w` over each run of `w`'s length (Zhang & Sennrich 2019).

use lmrs_kernels::norm;
use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, meta};

const NAME: &str = "rms_norm";

/// `rms_norm(x, weight)`: a weight as wide as x normalises rows, one as wide as a head normalises heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

impl Operation for RmsNorm {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let (x, weight) = (*required(NAME, inputs, 0)?, *required(NAME, inputs, 1)?);
        let (width, group) = (x.width(NAME, "x")?, weight.vector(NAME, "weight")?);
        meta::expect_equal(NAME, "dtype of weight", &weight.dtype, &x.dtype)?;
        if group == 0 || !width.is_multiple_of(group) {
            return Err(Error::shape(
                NAME,
                format!("weight has {group} elements, expected a divisor of the width {width}"),
            ));
        }
        Ok(x.clone())
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (x, weight) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        float!(x, T => {
            let (rows, weight) = (view::<T>(x)?, weight.values()?);
            Ok(call.spares.matrix(x.rows(), x.width(), |y| norm::rms_norm(rows, weight, self.eps as T, y))?.into())
        })
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        float!(x, T => {
            let (rows, dy, w) = (view::<T>(x)?, view(grad)?, weight.values()?);
            let mut dw = saved.needs[1].then(|| vec![0.0 as T; weight.len()]);
            let dx = saved.spares.matrix(x.rows(), x.width(), |dx| {
                norm::rms_norm_backward(rows, w, self.eps as T, dy, dx, dw.as_deref_mut());
            })?;
            Ok(vec![Some(dx), dw.map(|dw| Tensor::new(dw, [weight.len()])).transpose()?])
        })
    }
}
