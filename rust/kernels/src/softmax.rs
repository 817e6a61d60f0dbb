//! Sums of exponentials that grow a run of logits at a time, and the softmax itself.

use crate::Real;
use crate::simd::{self, Kernel, Simd};

/// Logits taken together.
const RUN: usize = 256;
/// Logits summed before the sum joins the total, which is carried in 64 bits.
pub const CHUNK: usize = 1024;

/// `Σ exp(logit)` of the logits seen so far, as `sum · exp(max)`.
#[derive(Clone, Copy, Debug)]
pub struct ExpSum<F> {
    max: F,
    sum: F,
}

impl<F: Real> Default for ExpSum<F> {
    fn default() -> Self {
        Self {
            max: F::NEG_INFINITY,
            sum: F::ZERO,
        }
    }
}

impl<F: Real> ExpSum<F> {
    /// Adds logits, 256 at a time.
    pub fn add(&mut self, logits: &[F]) {
        F::dispatch(
            simd::current(),
            Add {
                total: self,
                logits,
            },
        );
    }

    /// `log Σ exp(logit)` over parts of [`CHUNK`] logits each, in order. −∞ if there is none.
    pub fn total<'a>(parts: impl Iterator<Item = &'a Self>) -> f64 {
        let (mut max, mut sum) = (f64::NEG_INFINITY, 0.0);
        for part in parts {
            let old = max;
            max = max.larger(part.max.to_f64());
            if max > f64::NEG_INFINITY {
                sum = sum * (old - max).exp() + part.sum.to_f64() * (part.max.to_f64() - max).exp();
            }
            if part.sum.is_nan() {
                return f64::NAN;
            }
        }
        max + sum.ln()
    }
}

/// `log Σ exp(logit)` of a row, bit for bit what [`ExpSum::total`] of its chunks is.
pub fn log_sum_exp<F: Real>(row: &[F]) -> f64 {
    let part = |chunk| {
        let mut part = ExpSum::default();
        part.add(chunk);
        part
    };
    let parts: Vec<ExpSum<F>> = row.chunks(CHUNK).map(part).collect();
    ExpSum::total(parts.iter())
}

/// Each logit becomes `scale · exp(logit − shift)`: the softmax when `shift` is the log-sum-exp.
pub fn exp_scaled<F: Real>(row: &mut [F], shift: F, scale: F) {
    F::dispatch(simd::current(), Scaled { row, shift, scale });
}

struct Add<'a, F> {
    total: &'a mut ExpSum<F>,
    logits: &'a [F],
}

impl<F: Real> Kernel<F> for Add<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        for run in self.logits.chunks(RUN) {
            let (start, n) = (run.as_ptr(), run.len());
            let whole = n / S::LANES * S::LANES;
            let rest = n - whole;
            let never = s.splat(F::NEG_INFINITY);
            // SAFETY: loads stay inside the run.
            unsafe {
                // Lanes beyond the end are −∞, whose exponential is 0.
                let tail = || {
                    let number = s.load(F::NUMBERS.as_ptr());
                    let v = s.load_part(start.add(whole), rest);
                    s.select_less(number, s.splat(F::of(rest as f64)), v, never)
                };
                let mut top = if rest > 0 { tail() } else { never };
                let mut at = 0;
                while at < whole {
                    top = s.max(s.load(start.add(at)), top);
                    at += S::LANES;
                }
                let old = self.total.max;
                let max = old.larger(s.largest(top));
                self.total.max = max;
                // With nothing but −∞ so far, any finite shift gives 0.
                let shift = s.splat(if max == F::NEG_INFINITY { F::ZERO } else { max });
                let mut sums = [s.splat(F::ZERO); 2];
                at = 0;
                while at < whole {
                    let e = s.exp(s.sub(s.load(start.add(at)), shift));
                    sums = [sums[1], s.add(sums[0], e)];
                    at += S::LANES;
                }
                if rest > 0 {
                    sums[0] = s.add(sums[0], s.exp(s.sub(tail(), shift)));
                }
                if old != max {
                    let down = s.largest(s.exp(s.sub(s.splat(old), shift)));
                    self.total.sum = self.total.sum * down;
                }
                self.total.sum += s.sum(s.add(sums[0], sums[1]));
            }
        }
    }
}

struct Scaled<'a, F> {
    row: &'a mut [F],
    shift: F,
    scale: F,
}

impl<F: Real> Kernel<F> for Scaled<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let (shift, scale) = (s.splat(self.shift), s.splat(self.scale));
        for chunk in self.row.chunks_mut(S::LANES) {
            // SAFETY: the chunk's own length is loaded and stored.
            unsafe {
                let v = s.load_part(chunk.as_ptr(), chunk.len());
                s.store_part(
                    chunk.as_mut_ptr(),
                    s.mul(s.exp(s.sub(v, shift)), scale),
                    chunk.len(),
                );
            }
        }
    }
}
