//! `y = kind(gate)·up`, elementwise (Shazeer 2020, "GLU Variants Improve Transformer").

use lmrs_kernels::activation::{self, Activation as Kind};
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::activation::KindName;
use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, meta};

const NAME: &str = "gated";

/// `gated(gate, up)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gated {
    /// The function of the gate.
    #[serde(with = "KindName")]
    pub kind: Kind,
}

impl Operation for Gated {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let gate = *required(NAME, inputs, 0)?;
        gate.width(NAME, "gate")?;
        meta::expect_equal(NAME, "up", *required(NAME, inputs, 1)?, gate)?;
        Ok(gate.clone())
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (gate, up) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        float!(gate, T => {
            let (g, u) = (view(gate)?, view(up)?);
            Ok(call.spares.matrix::<T>(gate.rows(), gate.width(), |y| activation::gated(self.kind, g, u, y))?.into())
        })
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (gate, up) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        let (rows, width) = (gate.rows(), gate.width());
        float!(gate, T => {
            let (g, u, dy) = (view(gate)?, view(up)?, view(grad)?);
            let mut dup = Ok(Tensor::zeros::<T>([0]));
            let dgate = saved.spares.matrix::<T>(rows, width, |dg| {
                dup = saved.spares.matrix::<T>(rows, width, |du| activation::gated_backward(self.kind, g, u, dy, dg, du));
            })?;
            Ok(vec![Some(dgate), Some(dup?)])
        })
    }
}
