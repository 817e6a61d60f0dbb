//! A gather of rows: `y[n] = x[index[n]]`.

use lmrs_kernels::embed;
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, ids_below, matrix, view};
use crate::Meta;
use crate::op::{Call, Forward, Operation, Saved, required};

const NAME: &str = "rows";

/// `rows(x, index)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {}

impl Operation for Rows {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        let count = required(NAME, inputs, 1)?.ids(NAME, "index")?;
        Ok(Meta::matrix(x.dtype, count, x.width(NAME, "x")?))
    }

    fn forward(&self, _: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (x, index) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        Ok(gathered("row index", x, index)?.into())
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, index) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        Ok(vec![Some(scattered(x, index, grad)?), None])
    }
}

/// `table[ids]`.
pub(super) fn gathered(what: &str, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let ids = ids_below(what, ids, table.rows())?;
    float!(table, T => {
        let rows = view::<T>(table)?;
        matrix(ids.len(), table.width(), |y| embed::gather(rows, ids, y))
    })
}

/// The gradient of [`gathered`] with respect to the table.
pub(super) fn scattered(table: &Tensor, ids: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let ids = ids.values::<i32>()?;
    float!(grad, T => {
        let dy = view::<T>(grad)?;
        matrix(table.rows(), table.width(), |dx| embed::scatter_add(dy, ids, dx))
    })
}
