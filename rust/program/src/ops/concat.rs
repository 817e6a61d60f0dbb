//! Values side by side: `[T, d₁], [T, d₂], … → [T, d₁ + d₂ + …]`.

use lmrs_kernels::elementwise;
use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, meta};

const NAME: &str = "concat";

/// `concat(x₁, x₂, …)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concat {}

impl Operation for Concat {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let first = *required(NAME, inputs, 0)?;
        let mut width = 0;
        for index in 0..inputs.len() {
            let part = *required(NAME, inputs, index)?;
            width += part.width(NAME, "a part")?;
            meta::expect_equal(NAME, "rows of a part", &part.rows(), &first.rows())?;
            meta::expect_equal(NAME, "dtype of a part", &part.dtype, &first.dtype)?;
        }
        Ok(Meta::matrix(first.dtype, first.rows(), width))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let parts = inputs.iter().flatten();
        let first = required(NAME, inputs, 0)?;
        let width = parts.clone().map(Tensor::width).sum();
        float!(first, T => {
            let views = parts.map(view::<T>).collect::<Result<Vec<_>>>()?;
            Ok(call.spares.matrix(first.rows(), width, |mut y| {
                let mut start = 0;
                for part in views {
                    elementwise::copy(part, y.reborrow().columns(start..start + part.width()));
                    start += part.width();
                }
            })?.into())
        })
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut start = 0;
        let mut grads = Vec::with_capacity(saved.inputs.len());
        for part in saved.inputs {
            let width = part
                .as_ref()
                .map(Tensor::width)
                .ok_or_else(|| Error::Internal("concat lost a part".into()))?;
            grads.push(Some(float!(grad, T => {
                let dy = view::<T>(grad)?.columns(start..start + width);
                saved.spares.matrix(grad.rows(), width, |dx| elementwise::copy(dy, dx))
            })?));
            start += width;
        }
        Ok(grads)
    }
}
