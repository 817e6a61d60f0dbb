//! What a model thought of each token, beside the token's own probability.

use lmrs_kernels::linear::pick;
use lmrs_kernels::softmax::{ExpSum, Softmax, softcap};
use lmrs_kernels::{Real, Rows};

use crate::{Head, gather};

/// The distribution each row predicts, seen from its label. Rows with a negative label have zeros, and -1 for ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation<F> {
    /// `log p(label)` in nats, `[T]`; the bits of [`Head::token_logprob`].
    pub logprob: Vec<F>,
    /// `log Σ exp(logit)`, `[T]`.
    pub log_sum_exp: Vec<F>,
    /// `−Σ p·log p` in nats, `[T]`.
    pub entropy: Vec<F>,
    /// 1 for the likeliest token, `[T]`: how many are likelier, or as likely with a smaller id, and one.
    pub rank: Vec<u32>,
    /// The likeliest tokens of each row, the likeliest first and the smaller id of two as likely, `[T, k]`.
    pub top: Vec<(i32, F)>,
}

/// A row after some of the vocabulary.
#[derive(Clone)]
struct Seen<F> {
    sum: ExpSum<F>,
    above: u32,
    top: Top<F>,
}

impl<F: Real> Head<'_, F> {
    /// An [`Evaluation`] with the `k` likeliest tokens of each row.
    ///
    /// # Panics
    /// If the shapes disagree, a label is not in the vocabulary, or `k` is more than the vocabulary.
    pub fn evaluate(&self, x: Rows<F>, labels: &[i32], k: usize) -> Evaluation<F> {
        assert_eq!(labels.len(), x.rows());
        assert!(k <= self.weight.outputs(), "{k} likeliest tokens");
        let counted = self.counted(labels);
        let dense = gather(x, &counted);
        let dense = Rows::new(&dense, counted.len(), x.width());
        let labels: Vec<usize> = counted.iter().map(|&row| labels[row] as usize).collect();
        let mut targets = vec![F::ZERO; counted.len()];
        pick(dense, self.weight, self.bias, &labels, &mut targets);
        if let Some(cap) = self.softcap {
            softcap(&mut targets, cap);
        }
        let fresh = Seen {
            sum: ExpSum::default(),
            above: 0,
            top: Top::of(k),
        };
        let mut whole = vec![(Softmax::default(), 0, Top::of(k)); counted.len()];
        self.sweep(
            dense,
            &fresh,
            |seen, row, first, logits| {
                seen.sum.add(logits);
                seen.above += above(targets[row], labels[row], first, logits);
                seen.top.see(first, logits);
            },
            |_, states| {
                for ((softmax, above, top), seen) in whole.iter_mut().zip(states) {
                    softmax.join(&seen.sum);
                    *above += seen.above;
                    let mut found = seen.top.found.iter();
                    while found
                        .next()
                        .is_some_and(|&(id, logit)| top.insert(id, logit))
                    {}
                }
            },
        );
        let zeros = || vec![F::ZERO; x.rows()];
        let mut evaluation = Evaluation {
            logprob: zeros(),
            log_sum_exp: zeros(),
            entropy: zeros(),
            rank: vec![0; x.rows()],
            top: vec![(-1, F::ZERO); x.rows() * k],
        };
        for (i, (softmax, above, top)) in whole.into_iter().enumerate() {
            let (row, total) = (counted[i], softmax.log_sum_exp());
            let logprob = |logit: F| F::of(logit.to_f64() - total);
            evaluation.logprob[row] = logprob(targets[i]);
            evaluation.log_sum_exp[row] = F::of(total);
            evaluation.entropy[row] = F::of(softmax.entropy());
            evaluation.rank[row] = above + 1;
            for (to, (id, logit)) in evaluation.top[row * k..].iter_mut().zip(top.found) {
                *to = (id as i32, logprob(logit));
            }
        }
        evaluation
    }
}

/// How many of the logits `first..` come before the label.
fn above<F: Real>(target: F, label: usize, first: usize, logits: &[F]) -> u32 {
    let (before, after) = logits.split_at(label.saturating_sub(first).min(logits.len()));
    let ties = before.iter().filter(|&&logit| logit >= target).count();
    let over = after.iter().filter(|&&logit| logit > target).count();
    (ties + over) as u32
}

/// The largest logits seen, in falling order; of equal ones the smaller id comes first. A NaN counts as −∞.
#[derive(Clone)]
struct Top<F> {
    most: usize,
    found: Vec<(u32, F)>,
}

impl<F: Real> Top<F> {
    fn of(most: usize) -> Self {
        let found = Vec::with_capacity(most);
        Self { most, found }
    }

    /// Adds the logits of the ids `first..`, which are larger than all seen before.
    fn see(&mut self, first: usize, logits: &[F]) {
        if self.most == 0 {
            return;
        }
        for (at, run) in logits.chunks(16).enumerate() {
            // Most runs have nothing large enough.
            if let (true, Some(&(_, least))) = (self.found.len() == self.most, self.found.last())
                && !run.iter().any(|&logit| logit > least)
            {
                continue;
            }
            for (i, &logit) in run.iter().enumerate() {
                self.insert((first + at * 16 + i) as u32, logit);
            }
        }
    }

    /// Adds one logit whose id is larger than all seen before; says whether it was large enough.
    fn insert(&mut self, id: u32, logit: F) -> bool {
        let logit = if logit.is_nan() {
            F::NEG_INFINITY
        } else {
            logit
        };
        let at = self.found.partition_point(|&(_, seen)| seen >= logit);
        let large = at < self.most;
        if large {
            self.found.truncate(self.most - 1);
            self.found.insert(at, (id, logit));
        }
        large
    }
}
