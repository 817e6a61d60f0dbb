//! `log softmax(x·Wᵀ + b)[label]` of each row, and on request what else there is to say of it; the logits never stored.

use lmrs_tensor::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{float, head};
use crate::Meta;
use crate::op::{Call, Forward, Operation, Saved, required};

const NAME: &str = "token_logprob";

/// Columns before the likeliest tokens: log-probability, log-sum-exp, entropy, rank.
const FIXED: usize = 4;
/// Ids and ranks up to here are exact in f32.
const EXACT: usize = 1 << 24;

/// `token_logprob(x, weight, labels, [bias])`; 0 where a label is negative.
///
/// With `top_k` the columns are `log p(label)`, `log Σ exp(logit)`, the entropy in nats, the rank of the label (1: the
/// likeliest), the ids of the `top_k` likeliest tokens, and their log-probabilities; there is then no gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenLogprob {
    /// How many of the likeliest tokens to name; `None`: the log-probabilities alone.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// Bounds the logits: `cap·tanh(logit / cap)`.
    #[serde(default)]
    pub softcap: Option<f64>,
}

impl Operation for TokenLogprob {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let x = head::infer(NAME, inputs, self.softcap)?;
        let Some(k) = self.top_k else {
            return Ok(Meta::matrix(x.dtype, x.rows(), 1));
        };
        let (vocabulary, _) = required(NAME, inputs, 1)?.weight(NAME, "weight")?;
        let most = vocabulary.min(EXACT);
        if k > most {
            return Err(Error::input("top_k", &k, format!("0 to {most}")));
        }
        if vocabulary > EXACT {
            let expected = format!("at most {EXACT} with top_k");
            return Err(Error::input("vocabulary", &vocabulary, expected));
        }
        Ok(Meta::matrix(x.dtype, x.rows(), FIXED + 2 * k))
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let head = head::Inputs::of(NAME, inputs, self.softcap, |label| label < 0)?;
        let rows = head.x.rows();
        float!(head.x, T => match self.top_k {
            None => Ok(Tensor::new(head.logprobs::<T>(call)?, [rows, 1])?.into()),
            Some(k) => {
                let found = head.evaluation::<T>(call, k)?;
                let table = call.spares.matrix(rows, FIXED + 2 * k, |mut table| {
                    for row in 0..rows {
                        let (fixed, top) = table.row_mut(row).split_at_mut(FIXED);
                        fixed.copy_from_slice(&[
                            found.logprob[row],
                            found.log_sum_exp[row],
                            found.entropy[row],
                            found.rank[row] as T,
                        ]);
                        let (ids, logprobs) = top.split_at_mut(k);
                        for (i, &(id, logprob)) in found.top[row * k..][..k].iter().enumerate() {
                            (ids[i], logprobs[i]) = (id as T, logprob);
                        }
                    }
                })?;
                Ok(table.into())
            }
        })
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        if let Some(k) = self.top_k {
            let expected = "none where a gradient is wanted";
            return Err(Error::input("top_k", &k, expected));
        }
        let head = head::Inputs::of(NAME, saved.inputs, self.softcap, |label| label < 0)?;
        float!(grad, T => {
            let scale: Vec<T> = grad.values::<T>()?.iter().map(|g| -g).collect();
            Ok(head.gradients(saved.compute, saved.spares, &scale, saved.needs)?.1)
        })
    }
}
