//! `y[0, j] = 1 / ‖w_j‖`, of each row of a weight (`DoRA`, Liu et al. 2024, eq. 5).

use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Dim, Meta};

const NAME: &str = "inverse_norm";

/// `inverse_norm(w)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InverseNorm {
    /// Whether the norm is taken for a number: no gradient goes through it.
    pub constant: bool,
}

impl Operation for InverseNorm {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let w = *required(NAME, inputs, 0)?;
        let (rows, _) = w.weight(NAME, "w")?;
        Ok(Meta::matrix(w.dtype, Dim::Known(1), rows))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let w = required(NAME, inputs, 0)?;
        float!(w, T => {
            let rows = view::<T>(w)?;
            Ok(call.spares.matrix(1, w.rows(), |mut y| {
                for (j, out) in y.row_mut(0).iter_mut().enumerate() {
                    let square: T = rows.row(j).iter().map(|&x| x * x).sum();
                    *out = 1.0 / square.sqrt();
                }
            })?.into())
        })
    }

    fn reads_output(&self) -> bool {
        !self.constant
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let w = required(NAME, saved.inputs, 0)?;
        if self.constant {
            return Ok(vec![None]);
        }
        let inverse = saved
            .output
            .ok_or_else(|| Error::Internal("inverse_norm lost its output".into()))?;
        float!(w, T => {
            let (rows, y, dy) = (view::<T>(w)?, inverse.values::<T>()?, grad.values::<T>()?);
            // d(1/‖w‖)/dw = -w / ‖w‖³.
            let dw = saved.spares.matrix(w.rows(), w.width(), |mut dw| {
                for (j, (&y, &dy)) in y.iter().zip(dy).enumerate() {
                    for (out, &x) in dw.row_mut(j).iter_mut().zip(rows.row(j)) {
                        *out = -dy * y * y * y * x;
                    }
                }
            })?;
            Ok(vec![Some(dw)])
        })
    }
}
