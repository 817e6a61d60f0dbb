//! One row a sequence: the mean, first, last or elementwise largest of its rows.

use std::sync::Arc;

use lmrs_kernels::pool::{self, Pool as Kind};
use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Dim, Meta, Ragged};

const NAME: &str = "pool";

/// The ways to pool by name.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", remote = "Kind")]
#[allow(missing_docs, reason = "documented where it is defined")]
pub enum KindName {
    Mean,
    First,
    Last,
    Max,
}

/// `pool(x)` over the stream of x's sequences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// How.
    #[serde(with = "KindName")]
    pub kind: Kind,
}

impl Operation for Pool {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = *required(NAME, inputs, 0)?;
        // How many sequences there are is known only to the stream, which is bound when the op runs.
        Ok(Meta::matrix(
            x.dtype,
            Dim::Named(Arc::from("sequences")),
            x.width(NAME, "x")?,
        ))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let x = required(NAME, inputs, 0)?;
        let sequences = stream(NAME, call.streams, x.rows())?;
        float!(x, T => {
            let rows = view::<T>(x)?;
            Ok(call.spares.matrix(sequences.sequences(), x.width(), |y| pool::pool(self.kind, rows, sequences.starts(), y))?.into())
        })
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let x = required(NAME, saved.inputs, 0)?;
        let starts = stream(NAME, saved.streams, x.rows())?.starts();
        float!(x, T => {
            let (rows, dy) = (view::<T>(x)?, view(grad)?);
            let dx = saved.spares.matrix(x.rows(), x.width(), |dx| pool::pool_backward(self.kind, rows, starts, dy, dx))?;
            Ok(vec![Some(dx)])
        })
    }
}

/// The one stream of an op, which must split exactly `rows` rows.
pub(super) fn stream<'a>(
    op: &'static str,
    streams: &'a [Ragged],
    rows: usize,
) -> Result<&'a Ragged> {
    match streams {
        [stream] if stream.rows() == rows => Ok(stream),
        [stream] => Err(Error::shape(
            op,
            format!("the stream has {} rows, x has {rows}", stream.rows()),
        )),
        _ => Err(Error::shape(
            op,
            format!("{} streams, expected 1", streams.len()),
        )),
    }
}
