//! Dropout by a counter-based generator: the mask is a function of (seed, step, site, element).

use lmrs_kernels::dropout::{self, Key};
use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, Spares};

const NAME: &str = "dropout";

/// The seed of a run and the step it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Randomness {
    /// The run.
    pub seed: u64,
    /// The training step.
    pub step: u32,
}

impl Randomness {
    /// What a mask is drawn from at the place called `site`.
    pub(super) fn at(self, site: &str) -> Key {
        Key {
            seed: self.seed,
            step: self.step,
            site: site_number(site),
        }
    }
}

/// `dropout(x)`: zero with probability `rate`, the others divided by `1 - rate`; nothing outside training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropout {
    /// The probability, in `[0, 1)`.
    pub rate: f64,
    /// The place in the model, so that two places draw different masks.
    pub site: String,
}

impl Operation for Dropout {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        if !(0.0..1.0).contains(&self.rate) {
            return Err(Error::input("dropout rate", &self.rate, "0 <= rate < 1"));
        }
        let x = *required(NAME, inputs, 0)?;
        x.width(NAME, "x")?;
        Ok(x.clone())
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        Ok(self
            .masked(call.spares, required(NAME, inputs, 0)?, call.randomness)?
            .into())
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        (0..inputs.len()).map(|index| index > 0).collect()
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.masked(
            saved.spares,
            grad,
            saved.randomness,
        )?)])
    }
}

impl Dropout {
    /// The same mask forward and backward.
    fn masked(
        &self,
        spares: &Spares,
        x: &Tensor,
        randomness: Option<Randomness>,
    ) -> Result<Tensor> {
        let Some(randomness) = randomness.filter(|_| self.rate > 0.0) else {
            return x.reshaped(x.shape());
        };
        let key = randomness.at(&self.site);
        float!(x, T => {
            let view = view::<T>(x)?;
            spares.matrix(x.rows(), x.width(), |y| dropout::dropout(view, self.rate, key, y))
        })
    }
}

/// FNV-1a, so that a site's number depends on nothing but its name.
fn site_number(site: &str) -> u32 {
    site.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
