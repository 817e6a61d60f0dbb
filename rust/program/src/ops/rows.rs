//! A gather of rows: `y[n] = x[index[n]]`.

use lmrs_kernels::{RowsMut, embed};
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, ids_below, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Meta, Spares};

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

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (x, index) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        Ok(gathered(call.spares, "row index", x, index)?.into())
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, index) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        Ok(vec![Some(scattered(saved.spares, x, index, grad)?), None])
    }
}

/// `table[ids]`.
pub(super) fn gathered(
    spares: &Spares,
    what: &str,
    table: &Tensor,
    ids: &Tensor,
) -> Result<Tensor> {
    let ids = ids_below(what, ids, table.rows())?;
    if table.is_encoded() {
        let mut values: Vec<f32> = spares.buffer(ids.len() * table.width());
        for (&id, row) in ids
            .iter()
            .zip(values.chunks_exact_mut(table.width().max(1)))
        {
            table.read_rows(id as usize, row)?;
        }
        return spares.tensor(values, [ids.len(), table.width()]);
    }
    float!(table, T => {
        let rows = view::<T>(table)?;
        spares.matrix(ids.len(), table.width(), |y| embed::gather(rows, ids, y))
    })
}

/// The gradient of [`gathered`] with respect to the table.
pub(super) fn scattered(
    spares: &Spares,
    table: &Tensor,
    ids: &Tensor,
    grad: &Tensor,
) -> Result<Tensor> {
    let ids = ids.values::<i32>()?;
    float!(grad, T => {
        let dy = view::<T>(grad)?;
        let mut dx = spares.zeros::<T>(table.len());
        embed::scatter_add(dy, ids, RowsMut::new(&mut dx, table.rows(), table.width()));
        spares.tensor(dx, table.shape())
    })
}
