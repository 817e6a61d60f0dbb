//! A convolution along each sequence and its largest value (Kim et al. 2016): a word from its characters.

use std::sync::Arc;

use lmrs_kernels::{conv, elementwise};
use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::linear::packed;
use super::pool::stream;
use super::{float, view};
use crate::op::{Call, Forward, Operation, Saved, optional, required};
use crate::{Dim, Meta, meta};

const NAME: &str = "char_conv";

/// `char_conv(x, weight, [bias])` over the stream of x's sequences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CharConv {}

impl Operation for CharConv {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let (x, weight) = (*required(NAME, inputs, 0)?, *required(NAME, inputs, 1)?);
        let (outputs, depth) = weight.weight(NAME, "weight")?;
        let channels = x.width(NAME, "x")?;
        if channels == 0 || depth == 0 || !depth.is_multiple_of(channels) {
            let said = format!("x has width {channels}, a row of weight {depth} elements");
            return Err(Error::shape(NAME, format!("{said}; expected a multiple")));
        }
        meta::expect_equal(NAME, "dtype of weight", &weight.dtype, &x.dtype)?;
        if let Some(bias) = optional(inputs, 2) {
            let length = bias.vector(NAME, "bias")?;
            meta::expect_equal(NAME, "length of bias", &length, &outputs)?;
            meta::expect_equal(NAME, "dtype of bias", &bias.dtype, &x.dtype)?;
        }
        let rows = Dim::Named(Arc::from("sequences"));
        Ok(Meta::matrix(x.dtype, rows, outputs))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (x, weight) = (required(NAME, inputs, 0)?, required(NAME, inputs, 1)?);
        let sequences = stream(NAME, call.streams, x.rows())?;
        let (rows, outputs) = (sequences.sequences(), weight.rows());
        float!(x, T => {
            let (panels, bias) = (packed::<T>(weight)?, optional(inputs, 2).map(Tensor::values).transpose()?);
            let (view, mut chosen) = (view(x)?, Vec::new());
            let output = call.spares.matrix(rows, outputs, |y| {
                chosen = conv::conv_max(view, sequences.starts(), &panels, bias, y);
            })?;
            let kept = if call.needs.contains(&true) {
                vec![Tensor::new(chosen, [rows, outputs])?]
            } else {
                Vec::new()
            };
            Ok(Forward { output, kept })
        })
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        (0..inputs.len()).map(|index| index < 2).collect()
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (
            required(NAME, saved.inputs, 0)?,
            required(NAME, saved.inputs, 1)?,
        );
        let starts = stream(NAME, saved.streams, x.rows())?.starts();
        let Some(chosen) = saved.kept.first() else {
            return Err(Error::Internal("char_conv kept no windows".into()));
        };
        let chosen = chosen.values::<i32>()?;
        let wants = |index: usize| saved.needs.get(index) == Some(&true);
        float!(x, T => {
            let (rows, weights, dy) = (view::<T>(x)?, view(weight)?, view(grad)?);
            let (mut dx, mut dw, mut db) = (None, None, None);
            if wants(0) {
                dx = Some(saved.spares.matrix(x.rows(), x.width(), |dx| conv::conv_max_input(starts, weights, chosen, dy, dx))?);
            }
            if wants(1) {
                dw = Some(saved.spares.matrix(weight.rows(), weight.width(), |dw| conv::conv_max_weight(rows, starts, chosen, dy, dw))?);
            }
            if wants(2) {
                db = Some(saved.spares.vector(grad.width(), |db| elementwise::sum_rows(dy, db))?);
            }
            Ok(vec![dx, dw, db])
        })
    }
}
