//! What `cross_entropy` and `token_logprob` share: `log softmax(x·Wᵀ + b)[label]` of each row.

use std::sync::Arc;

use lmrs_kernels::linear::{Compute, Packed};
use lmrs_kernels::{Real, RowsMut};
use lmrs_logprob::{Evaluation, Gradients, Head, Trained};
use lmrs_tensor::{Element, Error, Result, Tensor};

use super::linear::TwoWay;
use super::view;
use crate::op::{Call, optional, required};
use crate::{Meta, Spares, meta};

/// Which input the weight is.
const WEIGHT: usize = 1;

/// Judges `x [T, d], weight [V, d], labels [T], [bias [V]]` and returns the meta of x.
pub fn infer<'a>(
    op: &'static str,
    inputs: &[Option<&'a Meta>],
    softcap: Option<f64>,
) -> Result<&'a Meta> {
    if let Some(cap) = softcap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
        return Err(Error::input("softcap", &cap, "a positive number"));
    }
    let (x, weight) = (*required(op, inputs, 0)?, *required(op, inputs, 1)?);
    let (vocabulary, width) = weight.weight(op, "weight")?;
    meta::expect_equal(op, "width of x", &x.width(op, "x")?, &width)?;
    meta::expect_equal(op, "dtype of weight", &weight.dtype, &x.dtype)?;
    meta::expect_equal(
        op,
        "rows of labels",
        &required(op, inputs, 2)?.ids(op, "labels")?,
        &x.rows(),
    )?;
    if let Some(bias) = optional(inputs, 3) {
        meta::expect_equal(op, "length of bias", &bias.vector(op, "bias")?, &vocabulary)?;
        meta::expect_equal(op, "dtype of bias", &bias.dtype, &x.dtype)?;
    }
    Ok(x)
}

/// The inputs of a head op, labels checked; the rows to leave out have label -1.
pub struct Inputs<'a> {
    /// `[T, d]`.
    pub x: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    softcap: Option<f64>,
    /// `[T]`.
    pub labels: Vec<i32>,
}

impl<'a> Inputs<'a> {
    /// # Errors
    /// [`Error::Input`] if a label is neither in the vocabulary nor `ignored`.
    pub fn of(
        op: &'static str,
        inputs: &'a [Option<Tensor>],
        softcap: Option<f64>,
        ignored: impl Fn(i32) -> bool,
    ) -> Result<Self> {
        let (x, weight) = (required(op, inputs, 0)?, required(op, inputs, 1)?);
        let mut labels = required(op, inputs, 2)?.values::<i32>()?.to_vec();
        for (at, label) in labels.iter_mut().enumerate() {
            if ignored(*label) {
                *label = -1;
            } else if *label < 0 || *label as usize >= weight.rows() {
                let expected = format!("0 to {} or ignored", weight.rows().saturating_sub(1));
                return Err(Error::input(format!("labels[{at}]"), label, expected));
            }
        }
        Ok(Self {
            x,
            weight,
            bias: optional(inputs, 3),
            softcap,
            labels,
        })
    }

    /// How many rows count.
    pub fn counted(&self) -> usize {
        self.labels.iter().filter(|&&label| label >= 0).count()
    }

    /// The log-probability of each row's label; 0 for a row left out.
    pub fn logprobs<T: Real + Element>(&self, call: &Call<'_>) -> Result<Vec<T>> {
        let weight: Arc<Packed<T>> = call.packed(WEIGHT, self.weight)?;
        let head = Head {
            weight: &weight,
            bias: self.bias.map(Tensor::values).transpose()?,
            softcap: self.softcap,
        };
        let mut logprobs = vec![T::ZERO; self.x.rows()];
        head.token_logprob(view(self.x)?, &self.labels, &mut logprobs);
        Ok(logprobs)
    }

    /// The log-probability of each row's label and what else the row predicts, with the `k` likeliest tokens.
    pub fn evaluation<T: Real + Element>(
        &self,
        call: &Call<'_>,
        k: usize,
    ) -> Result<Evaluation<T>> {
        let weight: Arc<Packed<T>> = call.packed(WEIGHT, self.weight)?;
        let head = Head {
            weight: &weight,
            bias: self.bias.map(Tensor::values).transpose()?,
            softcap: self.softcap,
        };
        Ok(head.evaluate(view(self.x)?, &self.labels, k))
    }

    /// The log-probabilities, and the gradients of `Σ_t -scale[t]·logprob[t]` for the inputs that need one.
    pub fn gradients<T: Real + Element>(
        &self,
        compute: Compute,
        spares: &Spares,
        scale: &[T],
        needs: &[bool],
    ) -> Result<(Vec<T>, Vec<Option<Tensor>>)> {
        let wants = |index: usize| needs.get(index) == Some(&true);
        let weight = TwoWay::<T>::of(compute, self.weight, wants(WEIGHT))?;
        let head = Trained {
            compute,
            weight: weight.both_ways()?,
            bias: self.bias.map(Tensor::values).transpose()?,
            softcap: self.softcap,
        };
        let buffer = |wanted: bool, like: &Tensor| wanted.then(|| spares.buffer::<T>(like.len()));
        let mut logprobs = vec![T::ZERO; self.x.rows()];
        let (mut dx, mut dw) = (buffer(wants(0), self.x), buffer(wants(WEIGHT), self.weight));
        let mut db = self.bias.and_then(|bias| buffer(wants(3), bias));
        let mut grads = Gradients {
            x: dx
                .as_mut()
                .map(|dx| RowsMut::new(dx, self.x.rows(), self.x.width())),
            weight: dw
                .as_mut()
                .map(|dw| RowsMut::new(dw, self.weight.rows(), self.weight.width())),
            bias: db.as_deref_mut(),
        };
        let mut logits = spares.buffer(head.room(self.x.rows()));
        head.nll_gradients(
            &mut logits,
            view(self.x)?,
            &self.labels,
            scale,
            &mut logprobs,
            &mut grads,
        );
        let room = logits.len();
        drop(spares.tensor(logits, [room])?);
        let tensor = |values: Option<Vec<T>>, like: &Tensor| {
            values.map(|v| spares.tensor(v, like.shape())).transpose()
        };
        let db = db
            .map(|v| {
                let n = v.len();
                spares.tensor(v, [n])
            })
            .transpose()?;
        Ok((
            logprobs,
            vec![tensor(dx, self.x)?, tensor(dw, self.weight)?, None, db],
        ))
    }
}
