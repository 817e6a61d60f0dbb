//! Log-probabilities without logits: head, log-sum-exp and cross-entropy fused.
//!
//! Scoring folds the head's product tile by tile, so its memory does not know the vocabulary; training holds the logits of a
//! few rows at a time, from which it takes loss and gradients at once. Both give the same bits for the same row.
#![forbid(unsafe_code)]

mod evaluate;
mod sweep;

pub use evaluate::Evaluation;

use lmrs_kernels::linear::{Compute, Packed, Weight, apply, gradient_input, gradient_weight_add};
use lmrs_kernels::softmax::{CHUNK, ExpSum, Softmax, exp_scaled, log_sum_exp, softcap};
use lmrs_kernels::{Real, Rows, RowsMut, elementwise, team};

/// Bytes of logits held at once in training: of enough rows that their products are worth panels of the weight.
const LOGITS: usize = 64 << 20;

/// A head `x·Wᵀ + b`, `[vocabulary, d]`, whose logits may be capped: `cap·tanh(logit / cap)`.
#[derive(Clone, Copy)]
pub struct Head<'a, F> {
    /// The weight's panels.
    pub weight: &'a Packed<F>,
    /// `[vocabulary]`.
    pub bias: Option<&'a [F]>,
    /// The bound of the logits.
    pub softcap: Option<f64>,
}

/// Where the gradients of the cross-entropy go; those that are asked for.
pub struct Gradients<'a, F> {
    /// `[T, d]`.
    pub x: Option<RowsMut<'a, F>>,
    /// `[vocabulary, d]`.
    pub weight: Option<RowsMut<'a, F>>,
    /// `[vocabulary]`.
    pub bias: Option<&'a mut [F]>,
}

/// `log softmax(logits)[token]`, bit for bit what [`Head::token_logprob`] gives for the row these logits are of.
///
/// # Panics
/// If there is no such token.
pub fn token_logprob<F: Real>(logits: &[F], token: usize) -> F {
    F::of(logits[token].to_f64() - log_sum_exp(logits))
}

impl<F: Real> Head<'_, F> {
    /// `log softmax(x·Wᵀ + b)[label]` of each row; 0 where the label is negative.
    ///
    /// # Panics
    /// If the shapes disagree or a label is not in the vocabulary.
    pub fn token_logprob(&self, x: Rows<F>, labels: &[i32], out: &mut [F]) {
        assert_eq!((labels.len(), out.len()), (x.rows(), x.rows()));
        let counted = self.counted(labels);
        let dense = gather(x, &counted);
        let x = Rows::new(&dense, counted.len(), x.width());
        let mut whole = vec![(Softmax::default(), F::ZERO); counted.len()];
        self.sweep(
            x,
            &(ExpSum::default(), F::ZERO),
            |(sum, target), row, first, logits| {
                sum.add(logits);
                let label = labels[counted[row]] as usize;
                if let Some(&logit) = label.checked_sub(first).and_then(|at| logits.get(at)) {
                    *target = logit;
                }
            },
            |first, states| {
                for (i, ((whole, target), (sum, seen))) in whole.iter_mut().zip(states).enumerate()
                {
                    whole.join(sum);
                    if labels[counted[i]] as usize / CHUNK * CHUNK == first {
                        *target = *seen;
                    }
                }
            },
        );
        out.fill(F::ZERO);
        for (&row, (whole, target)) in counted.iter().zip(whole) {
            out[row] = F::of(target.to_f64() - whole.log_sum_exp());
        }
    }

    /// The rows whose label is not negative.
    fn counted(&self, labels: &[i32]) -> Vec<usize> {
        counted(labels, self.weight.outputs())
    }
}

/// A head in training.
#[derive(Clone, Copy)]
pub struct Trained<'a, F> {
    /// What its products are computed in; log-sum-exp and the gradient of the logits are not rounded.
    pub compute: Compute,
    /// `[vocabulary, d]`.
    pub weight: Weight<'a, F>,
    /// `[vocabulary]`.
    pub bias: Option<&'a [F]>,
    /// As [`Head::softcap`].
    pub softcap: Option<f64>,
}

impl<F: Real> Trained<'_, F> {
    /// How many logits are held at once for `rows` rows.
    pub fn room(&self, rows: usize) -> usize {
        let vocabulary = self.weight.outputs();
        let most = LOGITS / (vocabulary * size_of::<F>()).max(1);
        most.clamp(16, 256).min(rows) * vocabulary
    }

    /// [`Head::token_logprob`], of panels of what is computed in, and, from the same logits, the gradients of `Σ_t -scale[t]·logprob[t]`.
    ///
    /// One product makes the logits and one (two with `dw`) takes them back, so a training step never computes them twice.
    /// Rows with a negative label cost nothing. `logits` is [`Self::room`] to compute in.
    ///
    /// # Panics
    /// If the shapes disagree or a label is not in the vocabulary.
    pub fn nll_gradients(
        &self,
        logits: &mut [F],
        x: Rows<F>,
        labels: &[i32],
        scale: &[F],
        out: &mut [F],
        grads: &mut Gradients<F>,
    ) {
        assert_eq!(
            (labels.len(), scale.len(), out.len()),
            (x.rows(), x.rows(), x.rows())
        );
        let (vocabulary, width) = (self.weight.outputs(), self.weight.inputs());
        out.fill(F::ZERO);
        if let Some(dx) = &mut grads.x {
            (0..dx.rows()).for_each(|i| dx.row_mut(i).fill(F::ZERO));
        }
        if let Some(dw) = &mut grads.weight {
            (0..dw.rows()).for_each(|i| dw.row_mut(i).fill(F::ZERO));
        }
        if let Some(dbias) = grads.bias.as_deref_mut() {
            dbias.fill(F::ZERO);
        }
        let counted = counted(labels, vocabulary);
        let rows = logits.len().checked_div(vocabulary).unwrap_or(0);
        let (mut dx, mut dbias) = (vec![F::ZERO; rows * width], vec![F::ZERO; vocabulary]);
        for counted in counted.chunks(rows.max(1)) {
            let n = counted.len();
            let dense = gather(x, counted);
            let dense = Rows::new(&dense, n, width);
            let logits = &mut logits[..n * vocabulary];
            let to = RowsMut::new(logits, n, vocabulary);
            apply(self.compute, dense, self.weight, self.bias, to);
            if let Some(cap) = self.softcap {
                let rows = RowsMut::new(logits, n, vocabulary);
                team::for_rows(rows, 1, |_, mut row| softcap(row.row_mut(0), cap));
            }
            let mut sums = vec![0.0; n];
            let seen = Rows::new(logits, n, vocabulary);
            team::for_rows(RowsMut::new(&mut sums, n, 1), 1, |i, mut sum| {
                sum.row_mut(0)[0] = log_sum_exp(seen.row(i));
            });
            for (i, &row) in counted.iter().enumerate() {
                out[row] = F::of(seen.row(i)[labels[row] as usize].to_f64() - sums[i]);
            }
            // The gradient of a row's logits: scale · (softmax − one at the label).
            let rows = RowsMut::new(logits, n, vocabulary);
            team::for_rows(rows, 1, |i, mut logits| {
                let (label, scale) = (labels[counted[i]] as usize, scale[counted[i]]);
                let logits = logits.row_mut(0);
                let slopes = self.softcap.map(|cap| slopes(logits, cap));
                exp_scaled(logits, F::of(sums[i]), scale);
                logits[label] = logits[label] - scale;
                let slopes = slopes.iter().flatten();
                logits
                    .iter_mut()
                    .zip(slopes)
                    .for_each(|(d, &slope)| *d = *d * slope);
            });
            let dlogits = Rows::new(logits, n, vocabulary);
            if let Some(to) = &mut grads.x {
                let found = RowsMut::new(&mut dx, n, width);
                gradient_input(self.compute, dlogits, self.weight, found);
                for (&row, dx) in counted.iter().zip(dx.chunks_exact(width.max(1))) {
                    to.row_mut(row).copy_from_slice(dx);
                }
            }
            if let Some(dw) = &mut grads.weight {
                gradient_weight_add(self.compute, dlogits, dense, dw.reborrow());
            }
            if let Some(to) = grads.bias.as_deref_mut() {
                elementwise::sum_rows(dlogits, &mut dbias);
                to.iter_mut().zip(&dbias).for_each(|(to, &d)| *to += d);
            }
        }
    }
}

/// The rows whose label is not negative.
fn counted(labels: &[i32], vocabulary: usize) -> Vec<usize> {
    assert!(
        labels
            .iter()
            .all(|&label| i64::from(label) < vocabulary as i64),
        "a label is not in the vocabulary"
    );
    (0..labels.len()).filter(|&row| labels[row] >= 0).collect()
}

/// How much each capped logit follows the raw one: `1 − (capped / cap)²`.
fn slopes<F: Real>(capped: &[F], cap: f64) -> Vec<F> {
    let inverse = F::of(1.0 / cap);
    let slope = |&logit: &F| F::ONE - (logit * inverse) * (logit * inverse);
    capped.iter().map(slope).collect()
}

/// Those rows of `x`, one after another.
fn gather<F: Real>(x: Rows<F>, rows: &[usize]) -> Vec<F> {
    rows.iter().flat_map(|&row| x.row(row)).copied().collect()
}
