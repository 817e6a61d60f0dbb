//! `y = base + scale·(x·Aᵀ)·Bᵀ`, the update of LoRA (Hu et al. 2021, eq. 3).

use lmrs_kernels::{Rows, RowsMut};
use lmrs_lowrank::{Gradients, LowRank as Pair};
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, meta};

const NAME: &str = "low_rank";

/// `low_rank(base, x, a, b)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowRank {
    /// `alpha / rank`.
    pub scale: f64,
}

impl Operation for LowRank {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let (base, x) = (*required(NAME, inputs, 0)?, *required(NAME, inputs, 1)?);
        let (a, b) = (*required(NAME, inputs, 2)?, *required(NAME, inputs, 3)?);
        let ((rank, width), (outputs, columns)) = (a.weight(NAME, "a")?, b.weight(NAME, "b")?);
        meta::expect_equal(NAME, "width of x", &x.width(NAME, "x")?, &width)?;
        meta::expect_equal(NAME, "width of b", &columns, &rank)?;
        meta::expect_equal(NAME, "width of base", &base.width(NAME, "base")?, &outputs)?;
        meta::expect_equal(NAME, "rows of base", &base.rows(), &x.rows())?;
        for (name, part) in [("base", base), ("a", a), ("b", b)] {
            meta::expect_equal(NAME, &format!("dtype of {name}"), &part.dtype, &x.dtype)?;
        }
        Ok(base.clone())
    }

    fn forward(&self, _: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (base, x) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        let (a, b) = (required(NAME, inputs, 2)?, required(NAME, inputs, 3)?);
        float!(x, T => {
            let pair = Pair { a: view::<T>(a)?, b: view(b)?, scale: self.scale as T };
            let mut y = base.values::<T>()?.to_vec();
            pair.add(view(x)?, RowsMut::new(&mut y, base.rows(), base.width()));
            Ok(Tensor::new(y, base.shape())?.into())
        })
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = required(NAME, saved.inputs, 1)?;
        let (a, b) = (
            required(NAME, saved.inputs, 2)?,
            required(NAME, saved.inputs, 3)?,
        );
        float!(x, T => {
            let pair = Pair { a: view::<T>(a)?, b: view(b)?, scale: self.scale as T };
            let (rows, dy): (Rows<'_, T>, _) = (view(x)?, view(grad)?);
            let mut parts = [x, a, b].map(|t| vec![0.0 as T; t.len()]);
            let [dx, da, db] = &mut parts;
            pair.backward(rows, dy, Gradients {
                x: RowsMut::new(dx, x.rows(), x.width()),
                a: RowsMut::new(da, a.rows(), a.width()),
                b: RowsMut::new(db, b.rows(), b.width()),
            });
            let [dx, da, db] = parts;
            let grads = [Tensor::new(dx, x.shape())?, Tensor::new(da, a.shape())?, Tensor::new(db, b.shape())?];
            Ok(std::iter::once(grad.clone()).chain(grads).map(Some).collect())
        })
    }
}
