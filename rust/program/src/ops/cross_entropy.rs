//! Cross-entropy with the head fused in: `-log softmax(x·Wᵀ + b)[label]`, summed or averaged; the logits never stored.

use lmrs_kernels::Real;
use lmrs_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

use super::scale::times;
use super::{float, head};
use crate::op::{Call, Forward, Operation, Saved};
use crate::{Dim, Meta};

const NAME: &str = "cross_entropy";

/// How the rows' losses become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Divided by how many rows count; 0 if none does.
    Mean,
    /// Added up.
    Sum,
}

/// `cross_entropy(x, weight, labels, [bias])`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossEntropy {
    /// Mean or sum.
    pub reduction: Reduction,
    /// The label of rows that do not count.
    pub ignore: i32,
    /// Bounds the logits: `cap·tanh(logit / cap)`.
    #[serde(default)]
    pub softcap: Option<f64>,
}

impl Operation for CrossEntropy {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = head::infer(NAME, inputs, self.softcap)?;
        Ok(Meta::matrix(x.dtype, Dim::Known(1), 1))
    }

    /// With a backward pass to come, the gradients are made now, from the logits that are at hand.
    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let head = head::Inputs::of(NAME, inputs, self.softcap, |label| label == self.ignore)?;
        let divisor = match self.reduction {
            Reduction::Mean => head.counted().max(1),
            Reduction::Sum => 1,
        };
        float!(head.x, T => {
            let weight = 1.0 / divisor as T;
            let (logprobs, grads) = if call.needs.contains(&true) {
                head.gradients(call.compute, call.spares, &vec![weight; head.labels.len()], call.needs)?
            } else {
                (head.logprobs(call)?, Vec::new())
            };
            let loss = -logprobs.iter().map(|l: &T| l.to_f64()).sum::<f64>() / divisor as f64;
            let kept = grads.into_iter().map(|g| g.unwrap_or_else(|| Tensor::zeros::<T>([0]))).collect();
            Ok(Forward { output: Tensor::new(vec![loss as T], [1, 1])?, kept })
        })
    }

    fn reads(&self, inputs: &[Option<Tensor>], _: &[bool]) -> Vec<bool> {
        vec![false; inputs.len()]
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let by = float!(grad, T => grad.values::<T>()?[0].to_f64());
        let scaled = |kept: &Tensor| {
            if kept.is_empty() {
                Ok(None)
            } else if by == 1.0 {
                Ok(Some(kept.clone()))
            } else {
                times(saved.spares, kept, by).map(Some)
            }
        };
        saved.kept.iter().map(scaled).collect()
    }
}
