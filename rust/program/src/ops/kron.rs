//! The Kronecker product of two matrices of weights: `y[i·p + k, j·q + l] = a[i, j]·b[k, l]`.

use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, required};
use crate::{Dim, Meta, meta};

const NAME: &str = "kron";

/// `kron(a, b)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kron {}

impl Operation for Kron {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let (a, b) = (*required(NAME, inputs, 0)?, *required(NAME, inputs, 1)?);
        let ((m, n), (p, q)) = (a.weight(NAME, "a")?, b.weight(NAME, "b")?);
        meta::expect_equal(NAME, "dtype of b", &b.dtype, &a.dtype)?;
        Ok(Meta::matrix(a.dtype, Dim::Known(m * p), n * q))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (a, b) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        float!(a, T => {
            let (left, right) = (view::<T>(a)?, view::<T>(b)?);
            let (p, q) = (b.rows(), b.width());
            Ok(call.spares.matrix(a.rows() * p, a.width() * q, |mut y| {
                for row in 0..a.rows() * p {
                    let (i, k) = (row / p, row % p);
                    let blocks = y.row_mut(row).chunks_exact_mut(q.max(1));
                    for (block, &factor) in blocks.zip(left.row(i)) {
                        for (out, &value) in block.iter_mut().zip(right.row(k)) {
                            *out = factor * value;
                        }
                    }
                }
            })?.into())
        })
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        float!(a, T => {
            let (left, right, dy) = (view::<T>(a)?, view::<T>(b)?, view::<T>(grad)?);
            let (p, q) = (b.rows(), b.width());
            let (mut da, mut db) = (vec![0.0 as T; a.len()], vec![0.0 as T; b.len()]);
            for row in 0..a.rows() * p {
                let (i, k) = (row / p, row % p);
                let da = &mut da[i * a.width()..][..a.width()];
                let db = &mut db[k * q..][..q];
                let blocks = dy.row(row).chunks_exact(q.max(1));
                for ((block, &factor), da) in blocks.zip(left.row(i)).zip(da) {
                    for ((&dy, &value), db) in block.iter().zip(right.row(k)).zip(&mut *db) {
                        *da += dy * value;
                        *db += dy * factor;
                    }
                }
            }
            Ok(vec![Some(Tensor::new(da, a.shape())?), Some(Tensor::new(db, b.shape())?)])
        })
    }
}
