//! `log softmax(x·Wᵀ + b)[label]` of each row, the logits never stored.

use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, head};
use crate::Meta;
use crate::op::{Call, Forward, Operation, Saved};

const NAME: &str = "token_logprob";

/// `token_logprob(x, weight, labels, [bias])`; 0 where a label is negative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenLogprob {}

impl Operation for TokenLogprob {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = head::infer(NAME, inputs)?;
        Ok(Meta::matrix(x.dtype, x.rows(), 1))
    }

    fn forward(&self, _: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let head = head::Inputs::of(NAME, inputs, |label| label < 0)?;
        float!(head.x, T => Ok(Tensor::new(head.logprobs::<T>()?, [head.x.rows(), 1])?.into()))
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let head = head::Inputs::of(NAME, saved.inputs, |label| label < 0)?;
        float!(grad, T => {
            let scale: Vec<T> = grad.values::<T>()?.iter().map(|g| -g).collect();
            Ok(head.gradients(&scale, saved.needs)?.1)
        })
    }
}
