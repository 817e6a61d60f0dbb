//! Values one under another: `[m, d], [n, d], … → [m + n + …, d]`.

use lmrs_kernels::elementwise;
use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Dim, Meta, meta};

const NAME: &str = "stack";

/// `stack(x₁, x₂, …)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {}

impl Operation for Stack {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let first = *required(NAME, inputs, 0)?;
        let width = first.width(NAME, "a part")?;
        let mut rows = 0;
        for index in 0..inputs.len() {
            let part = *required(NAME, inputs, index)?;
            let (own_rows, own_width) = part.weight(NAME, "a part")?;
            meta::expect_equal(NAME, "width of a part", &own_width, &width)?;
            meta::expect_equal(NAME, "dtype of a part", &part.dtype, &first.dtype)?;
            rows += own_rows;
        }
        Ok(Meta::matrix(first.dtype, Dim::Known(rows), width))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let parts = inputs.iter().flatten();
        let first = required(NAME, inputs, 0)?;
        let rows = parts.clone().map(Tensor::rows).sum();
        float!(first, T => {
            let views = parts.map(view::<T>).collect::<Result<Vec<_>>>()?;
            Ok(call.spares.matrix(rows, first.width(), |mut y| {
                let mut start = 0;
                for part in views {
                    elementwise::copy(part, y.reborrow().slice(start..start + part.rows()));
                    start += part.rows();
                }
            })?.into())
        })
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut start = 0;
        let mut grads = Vec::with_capacity(saved.inputs.len());
        for (part, wanted) in saved.inputs.iter().zip(saved.needs) {
            let rows = part
                .as_ref()
                .map(Tensor::rows)
                .ok_or_else(|| Error::Internal("stack lost a part".into()))?;
            grads.push(if *wanted {
                Some(float!(grad, T => {
                    let dy = view::<T>(grad)?.slice(start..start + rows);
                    saved.spares.matrix(rows, grad.width(), |dx| elementwise::copy(dy, dx))
                })?)
            } else {
                None
            });
            start += rows;
        }
        Ok(grads)
    }
}
