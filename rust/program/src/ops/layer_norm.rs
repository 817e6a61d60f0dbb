//! `y = (x - mean(x)) / sqrt(var(x) + eps) · w + b` over each row (Ba et al. 2016).

use lmrs_kernels::norm;
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, optional, required};
use crate::{Meta, meta};

const NAME: &str = "layer_norm";

/// `layer_norm(x, weight, [bias])`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl Operation for LayerNorm {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        let width = x.width(NAME, "x")?;
        for (name, weight) in [
            ("weight", Some(required(NAME, inputs, 1)?)),
            ("bias", optional(inputs, 2)),
        ] {
            if let Some(weight) = weight {
                meta::expect_equal(NAME, name, &weight.vector(NAME, name)?, &width)?;
                meta::expect_equal(NAME, "dtype of a weight", &weight.dtype, &x.dtype)?;
            }
        }
        Ok(x.clone())
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (x, weight) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        float!(x, T => {
            let (rows, weight) = (view::<T>(x)?, weight.values()?);
            let bias = optional(inputs, 2).map(Tensor::values).transpose()?;
            Ok(call.spares.matrix(x.rows(), x.width(), |y| norm::layer_norm(rows, weight, bias, self.eps as T, y))?.into())
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
        let wants = |index: usize| saved.needs.get(index) == Some(&true);
        float!(x, T => {
            let (rows, dy, w) = (view::<T>(x)?, view(grad)?, weight.values()?);
            let mut dw = wants(1).then(|| vec![0.0 as T; x.width()]);
            let mut db = wants(2).then(|| vec![0.0 as T; x.width()]);
            let dx = saved.spares.matrix(x.rows(), x.width(), |dx| {
                norm::layer_norm_backward(rows, w, self.eps as T, dy, dx, dw.as_deref_mut(), db.as_deref_mut());
            })?;
            let gradient = |values: Option<Vec<T>>| values.map(|v| Tensor::new(v, [x.width()])).transpose();
            Ok(vec![Some(dx), gradient(dw)?, gradient(db)?])
        })
    }
}
