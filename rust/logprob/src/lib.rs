//! Log-probabilities without logits: head, log-sum-exp and cross-entropy fused.
//!
//! Logits exist only for a few rows at a time, so memory does not know how many tokens there are.
#![forbid(unsafe_code)]

use lmrs_kernels::linear::{Epilogue, Packed, gradient_weight, matmul};
use lmrs_kernels::{Real, Rows, RowsMut};

/// Rows whose logits are held at once.
const CHUNK: usize = 32;

/// A head `x·Wᵀ + b`, `[vocabulary, d]`.
#[derive(Clone, Copy)]
pub struct Head<'a, F> {
    /// The weight's panels.
    pub weight: &'a Packed<F>,
    /// `[vocabulary]`.
    pub bias: Option<&'a [F]>,
}

impl<F: Real> Head<'_, F> {
    /// Calls `each(first row, logits)` for chunks of rows in order. The logits may be overwritten.
    fn chunks(&self, x: Rows<F>, mut each: impl FnMut(usize, RowsMut<F>)) {
        let vocabulary = self.weight.outputs();
        let mut logits = vec![F::ZERO; CHUNK.min(x.rows()) * vocabulary];
        let epilogue = Epilogue {
            bias: self.bias,
            ..Epilogue::default()
        };
        for first in (0..x.rows()).step_by(CHUNK) {
            let rows = CHUNK.min(x.rows() - first);
            let mut chunk = RowsMut::new(&mut logits[..rows * vocabulary], rows, vocabulary);
            matmul(
                x.slice(first..first + rows),
                self.weight,
                chunk.reborrow(),
                &epilogue,
            );
            each(first, chunk);
        }
    }

    /// `log softmax(x·Wᵀ + b)[label]` of each row; 0 where the label is negative.
    ///
    /// # Panics
    /// If the shapes disagree or a label is not in the vocabulary.
    pub fn token_logprob(&self, x: Rows<F>, labels: &[i32], out: &mut [F]) {
        self.chunks(x, |first, logits| {
            for row in 0..logits.rows() {
                let label = labels[first + row];
                let row_logits = logits.row(row);
                out[first + row] = if label < 0 {
                    F::ZERO
                } else {
                    token_logprob(row_logits, label as usize)
                };
            }
        });
    }

    /// [`Self::token_logprob`] and, from the same logits, the gradients of `Σ_t -scale[t]·logprob[t]`.
    ///
    /// `transposed` is the weight packed the other way, for `dx`. One product makes the logits and one (two with `dw`)
    /// takes them back, so a training step never computes them twice.
    ///
    /// # Panics
    /// If the shapes disagree or a label is not in the vocabulary.
    pub fn nll_gradients(
        &self,
        transposed: &Packed<F>,
        x: Rows<F>,
        labels: &[i32],
        scale: &[F],
        out: &mut [F],
        grads: &mut Gradients<F>,
    ) {
        if let Some(dbias) = grads.bias.as_deref_mut() {
            dbias.fill(F::ZERO);
        }
        let mut partial = grads
            .weight
            .as_ref()
            .map(|w| vec![F::ZERO; w.rows() * w.width()]);
        if let Some(dw) = &mut grads.weight {
            (0..dw.rows()).for_each(|i| dw.row_mut(i).fill(F::ZERO));
        }
        self.chunks(x, |first, mut logits| {
            let rows = logits.rows();
            for row in 0..rows {
                let label = labels[first + row];
                let row_logits = logits.row_mut(row);
                if label < 0 {
                    row_logits.fill(F::ZERO);
                    out[first + row] = F::ZERO;
                    continue;
                }
                let (lse, scale) = (log_sum_exp(row_logits), scale[first + row]);
                out[first + row] = row_logits[label as usize] - lse;
                row_logits
                    .iter_mut()
                    .for_each(|l| *l = (*l - lse).exp() * scale);
                row_logits[label as usize] = row_logits[label as usize] - scale;
            }
            let dlogits = logits.as_rows();
            if let Some(dx) = &mut grads.x {
                matmul(
                    dlogits,
                    transposed,
                    dx.reborrow().slice(first..first + rows),
                    &Epilogue::default(),
                );
            }
            if let (Some(dw), Some(partial)) = (&mut grads.weight, &mut partial) {
                let (outputs, inputs) = (dw.rows(), dw.width());
                gradient_weight(
                    dlogits,
                    x.slice(first..first + rows),
                    RowsMut::new(partial, outputs, inputs),
                );
                for o in 0..outputs {
                    dw.row_mut(o)
                        .iter_mut()
                        .zip(&partial[o * inputs..])
                        .for_each(|(d, &p)| *d += p);
                }
            }
            if let Some(dbias) = grads.bias.as_deref_mut() {
                for row in 0..rows {
                    dbias
                        .iter_mut()
                        .zip(dlogits.row(row))
                        .for_each(|(d, &g)| *d += g);
                }
            }
        });
    }
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

/// `log softmax(logits)[label]`: what [`Head::token_logprob`] gives for a row with these logits, to the bit.
///
/// # Panics
/// If there is no such label.
pub fn token_logprob<F: Real>(logits: &[F], label: usize) -> F {
    logits[label] - log_sum_exp(logits)
}

/// `log Σ exp`, shifted by the largest.
fn log_sum_exp<F: Real>(logits: &[F]) -> F {
    let max = logits.iter().fold(F::NEG_INFINITY, |m, &l| m.larger(l));
    max + logits
        .iter()
        .fold(F::ZERO, |sum, &l| sum + (l - max).exp())
        .ln()
}
