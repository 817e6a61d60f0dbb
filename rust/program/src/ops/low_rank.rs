//! `y = base + scale·(x·Aᵀ)·Bᵀ`, the update of `LoRA` (Hu et al. 2021, eq. 3).

use lmrs_kernels::RowsMut;
use lmrs_lowrank::{Gradients, LowRank as Pair, Trained};
use lmrs_tensor::{Error, Result, Tensor};
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

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (base, x) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        let (a, b) = (required(NAME, inputs, 2)?, required(NAME, inputs, 3)?);
        float!(x, T => {
            let (down, up) = (call.packed::<T>(2, a)?, call.packed(3, b)?);
            let pair = Pair { a: &down, b: &up, scale: self.scale as T };
            let mut y = call.spares.buffer(base.len());
            let down = pair.add(view(x)?, view(base)?, RowsMut::new(&mut y, base.rows(), base.width()));
            let keep = call.needs.get(3) == Some(&true);
            let kept = if keep { vec![Tensor::new(down, [x.rows(), a.rows()])?] } else { Vec::new() };
            Ok(Forward { output: call.spares.tensor(y, base.shape())?, kept })
        })
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        (0..inputs.len()).map(|index| index > 0).collect()
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = required(NAME, saved.inputs, 1)?;
        let (a, b) = (
            required(NAME, saved.inputs, 2)?,
            required(NAME, saved.inputs, 3)?,
        );
        let wants = |index: usize| saved.needs.get(index) == Some(&true);
        float!(x, T => {
            let down = match saved.kept.first() {
                Some(down) => down.values::<T>()?,
                None if wants(3) => return Err(Error::Internal("low_rank kept no x·Aᵀ".into())),
                None => &[],
            };
            let pair = Trained { compute: saved.compute, a: view(a)?, b: view(b)?, scale: self.scale as T };
            let buffer = |wanted: bool, like: &Tensor| wanted.then(|| saved.spares.buffer::<T>(like.len()));
            let (mut dx, mut da, mut db) = (buffer(wants(1), x), buffer(wants(2), a), buffer(wants(3), b));
            pair.gradients(view(x)?, down, view(grad)?, Gradients {
                x: dx.as_mut().map(|dx| RowsMut::new(dx, x.rows(), x.width())),
                a: da.as_mut().map(|da| RowsMut::new(da, a.rows(), a.width())),
                b: db.as_mut().map(|db| RowsMut::new(db, b.rows(), b.width())),
            });
            let tensor = |values: Option<Vec<T>>, like: &Tensor| values.map(|v| saved.spares.tensor(v, like.shape())).transpose();
            Ok(vec![wants(0).then(|| grad.clone()), tensor(dx, x)?, tensor(da, a)?, tensor(db, b)?])
        })
    }
}
