//! A run of columns: `y = x[:, start..stop]`.

use lmrs_kernels::{RowsMut, elementwise};
use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::Meta;
use crate::op::{Call, Forward, Operation, Saved, required};

const NAME: &str = "columns";

/// `columns(x)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The first column.
    pub start: usize,
    /// The column after the last.
    pub stop: usize,
}

impl Operation for Columns {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        let width = x.width(NAME, "x")?;
        if self.start > self.stop || self.stop > width {
            let asked = format!("columns {}..{} of {x}", self.start, self.stop);
            return Err(Error::shape(
                NAME,
                format!("{asked}, expected 0 <= start <= stop <= {width}"),
            ));
        }
        Ok(Meta::matrix(x.dtype, x.rows(), self.stop - self.start))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let x = required(NAME, inputs, 0)?;
        float!(x, T => {
            let part = view::<T>(x)?.columns(self.start..self.stop);
            Ok(call.spares.matrix(x.rows(), part.width(), |y| elementwise::copy(part, y))?.into())
        })
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = required(NAME, saved.inputs, 0)?;
        float!(x, T => {
            let dy = view::<T>(grad)?;
            let mut dx = saved.spares.zeros::<T>(x.len());
            let all = RowsMut::new(&mut dx, x.rows(), x.width());
            elementwise::copy(dy, all.columns(self.start..self.stop));
            let dx = saved.spares.tensor(dx, x.shape())?;
            Ok(vec![Some(dx)])
        })
    }
}
