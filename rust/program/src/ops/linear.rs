//! `y = x·Wᵀ + b`.

use std::sync::Arc;

use lmrs_kernels::Real;
use lmrs_kernels::elementwise;
use lmrs_kernels::linear::{
    Compute, Decoded, Packed, Weight, Weights, apply, gradient_input, gradient_weight,
};
use lmrs_tensor::{Element, Life, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, optional, required};
use crate::{Meta, meta};

const NAME: &str = "linear";

/// `linear(x, weight, [bias])`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {}

impl Operation for Linear {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let (x, weight) = (*required(NAME, inputs, 0)?, *required(NAME, inputs, 1)?);
        let (outputs, width) = weight.weight(NAME, "weight")?;
        meta::expect_equal(NAME, "width of x", &x.width(NAME, "x")?, &width)?;
        meta::expect_equal(NAME, "dtype of weight", &weight.dtype, &x.dtype)?;
        if let Some(bias) = optional(inputs, 2) {
            meta::expect_equal(
                NAME,
                "length of bias",
                &bias.vector(NAME, "bias")?,
                &outputs,
            )?;
            meta::expect_equal(NAME, "dtype of bias", &bias.dtype, &x.dtype)?;
        }
        Ok(Meta::matrix(x.dtype, x.rows(), outputs))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (x, weight) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        float!(x, T => {
            let (rows, bias) = (view::<T>(x)?, optional(inputs, 2).map(Tensor::values).transpose()?);
            let product = |way: Weight<'_, T>| call.spares.matrix(x.rows(), weight.rows(), |y| apply(call.compute, rows, way, bias, y));
            Ok(if call.needs.get(1) == Some(&true) {
                product(Weight::Plain(view(weight)?))?
            } else {
                product(Weight::Packed(&*call.packed(1, weight)?))?
            }.into())
        })
    }

    fn reads(&self, _: &[Option<Tensor>], needs: &[bool]) -> Vec<bool> {
        let mut reads = vec![false; needs.len()];
        (reads[0], reads[1]) = (needs[1], needs[0]);
        reads
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let wants = |index: usize| saved.needs.get(index) == Some(&true);
        float!(grad, T => {
            let dy = view::<T>(grad)?;
            let (mut dx, mut dw, mut db) = (None, None, None);
            if wants(0) {
                let weight = required(NAME, saved.inputs, 1)?;
                let way = TwoWay::<T>::of(saved.compute, weight, wants(1))?;
                let way = way.both_ways()?;
                dx = Some(saved.spares.matrix(grad.rows(), weight.width(), |dx| gradient_input(saved.compute, dy, way, dx))?);
            }
            if wants(1) {
                let x = required(NAME, saved.inputs, 0)?;
                let rows = view::<T>(x)?;
                dw = Some(saved.spares.matrix(dy.width(), x.width(), |dw| gradient_weight(saved.compute, dy, rows, dw))?);
            }
            if wants(2) {
                db = Some(saved.spares.vector(dy.width(), |db| elementwise::sum_rows(dy, db))?);
            }
            Ok(vec![dx, dw, db])
        })
    }
}

/// The panels of a weight `[o, i]`, packed once.
pub(crate) fn packed<T: Real + Element>(weight: &Tensor) -> Result<Arc<Packed<T>>> {
    panels(weight, Weights::F32, Life::Storage)
}

/// The panels that hold a weight `[o, i]` as `weights`, packed once for as long as `life` says; from a file row by row.
pub(crate) fn panels<T: Real + Element>(
    weight: &Tensor,
    weights: Weights,
    life: Life,
) -> Result<Arc<Packed<T>>> {
    let key = key(weights);
    if !weight.is_encoded() {
        let rows = view::<T>(weight)?;
        return Ok(weight.derived(key, life, || Packed::pack(weights, &[&rows])));
    }
    let rows = Decoded {
        outputs: weight.rows(),
        inputs: weight.width(),
        decode: |row, values: &mut [T]| {
            let read = weight.read_rows(row, values);
            debug_assert!(read.is_ok(), "{read:?}");
        },
    };
    Ok(weight.derived(key, life, || Packed::pack(weights, &[&rows])))
}

/// Under which panels of a weight are kept.
pub(crate) fn key(weights: Weights) -> &'static str {
    match weights {
        Weights::F32 => "panels of f32",
        Weights::Bf16 => "panels of bf16",
        Weights::Int8 => "panels of int8",
        Weights::Int4 => "panels of int4",
    }
}

/// A weight for products both ways: as it is where it is trained, since it changes with every step, else with the panels that
/// all products share. One that lies encoded in a file has only these.
pub(super) enum TwoWay<'a, T> {
    Trained(&'a Tensor),
    Frozen(&'a Tensor, Arc<Packed<T>>),
}

impl<'a, T: Real + Element> TwoWay<'a, T> {
    pub(super) fn of(compute: Compute, weight: &'a Tensor, trained: bool) -> Result<Self> {
        if trained {
            Ok(Self::Trained(weight))
        } else {
            let panels = panels(weight, compute.weights(), Life::Storage)?;
            Ok(Self::Frozen(weight, panels))
        }
    }

    pub(super) fn both_ways(&self) -> Result<Weight<'_, T>> {
        match self {
            Self::Trained(weight) => view(weight).map(Weight::Plain),
            Self::Frozen(weight, panels) if weight.is_encoded() => Ok(Weight::Packed(panels)),
            Self::Frozen(weight, panels) => Ok(Weight::Both(panels, view(weight)?)),
        }
    }
}

/// The panels of its transpose, packed once.
pub(super) fn packed_transpose<T: Real + Element>(weight: &Tensor) -> Result<Arc<Packed<T>>> {
    let rows = view(weight)?;
    Ok(weight.derived("packed transpose", Life::Storage, || {
        Packed::transposed(rows)
    }))
}
