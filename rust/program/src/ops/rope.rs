//! Rotary position embedding, rotate-half form (Su et al. 2021).

use lmrs_kernels::rope;
use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, meta};

const NAME: &str = "rope";

/// `rope(x, positions, frequencies)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// The width of a head.
    pub head_dim: usize,
    /// Multiplies cos and sin (the attention factor of `YaRN`).
    pub factor: f64,
}

impl Operation for Rope {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        let width = x.width(NAME, "x")?;
        meta::expect_equal(
            NAME,
            "rows of positions",
            &required(NAME, inputs, 1)?.ids(NAME, "positions")?,
            &x.rows(),
        )?;
        let frequencies = *required(NAME, inputs, 2)?;
        let pairs = frequencies.vector(NAME, "frequencies")?;
        meta::expect_equal(NAME, "dtype of frequencies", &frequencies.dtype, &x.dtype)?;
        let dim = self.head_dim;
        if dim == 0 || !width.is_multiple_of(dim) || 2 * pairs > dim {
            let said = format!("width {width}, head_dim {dim}, {pairs} frequencies");
            return Err(Error::shape(
                NAME,
                format!("{said}; expected whole heads and at most head_dim/2 frequencies"),
            ));
        }
        Ok(x.clone())
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (x, positions, frequencies) = (
            required(NAME, inputs, 0)?,
            required(NAME, inputs, 1)?,
            required(NAME, inputs, 2)?,
        );
        let positions = positions.values::<i32>()?;
        float!(x, T => {
            let (rows, frequencies) = (view::<T>(x)?, frequencies.values()?);
            let factor = self.factor as T;
            Ok(call.spares.matrix(x.rows(), x.width(), |y| rope::rope(rows, positions, frequencies, self.head_dim, factor, y))?.into())
        })
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        (0..inputs.len()).map(|index| index > 0).collect()
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (positions, frequencies) = (
            required(NAME, saved.inputs, 1)?,
            required(NAME, saved.inputs, 2)?,
        );
        let positions = positions.values::<i32>()?;
        let dx = float!(grad, T => {
            let (dy, frequencies) = (view::<T>(grad)?, frequencies.values()?);
            let factor = self.factor as T;
            saved.spares.matrix(grad.rows(), grad.width(), |dx| rope::rope_backward(dy, positions, frequencies, self.head_dim, factor, dx))?
        });
        Ok(vec![Some(dx), None, None])
    }
}
