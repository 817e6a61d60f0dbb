//! `y = kind(x)`, elementwise.

use lmrs_kernels::activation::{self, Activation as Kind};
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::Meta;
use crate::op::{Call, Forward, Operation, Saved, required};

const NAME: &str = "activation";

/// The functions by the names models give them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", remote = "Kind")]
#[allow(missing_docs, reason = "documented where it is defined")]
pub enum KindName {
    Gelu,
    GeluTanh,
    QuickGelu,
    Relu,
    Silu,
    Tanh,
    Sigmoid,
}

/// `activation(x)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Which function.
    #[serde(with = "KindName")]
    pub kind: Kind,
}

impl Operation for Activation {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = required(NAME, inputs, 0)?;
        x.width(NAME, "x")?;
        Ok((*x).clone())
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let x = required(NAME, inputs, 0)?;
        float!(x, T => {
            let x_ = view(x)?;
            Ok(call.spares.matrix::<T>(x.rows(), x.width(), |y| activation::activate(self.kind, x_, y))?.into())
        })
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = required(NAME, saved.inputs, 0)?;
        float!(x, T => {
            let (x_, dy) = (view(x)?, view(grad)?);
            let dx = saved.spares.matrix::<T>(x.rows(), x.width(), |dx| activation::activate_backward(self.kind, x_, dy, dx))?;
            Ok(vec![Some(dx)])
        })
    }
}
