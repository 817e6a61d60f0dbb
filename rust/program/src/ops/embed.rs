//! Rows of a table by id: `y[t] = table[ids[t]]`.

use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::rows::{gathered, scattered};
use crate::Meta;
use crate::op::{Call, Forward, Operation, Saved, required};

const NAME: &str = "embed";

/// `embed(table, ids)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embed {}

impl Operation for Embed {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let table = *required(NAME, inputs, 0)?;
        let (_, width) = table.weight(NAME, "table")?;
        Ok(Meta::matrix(
            table.dtype,
            required(NAME, inputs, 1)?.ids(NAME, "ids")?,
            width,
        ))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (table, ids) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        Ok(gathered(call.spares, "id", table, ids)?.into())
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (table, ids) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        Ok(vec![Some(scattered(saved.spares, table, ids, grad)?), None])
    }
}
