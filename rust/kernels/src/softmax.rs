//! Sums of exponentials that grow a run of logits at a time, and the softmax itself.

use crate::Real;
use crate::simd::{self, Kernel, Simd};

/// Logits taken together.
const RUN: usize = 256;
/// Logits summed before the sum joins the total, which is carried in 64 bits.
pub const CHUNK: usize = 1024;

/// The softmax of the logits seen so far: `Σ exp(logit)` as `sum · exp(max)`, and `Σ exp(logit − max)·(logit − max)`.
#[derive(Clone, Copy, Debug)]
pub struct ExpSum<F> {
    max: F,
    sum: F,
    moment: F,
}

impl<F: Real> Default for ExpSum<F> {
    fn default() -> Self {
        Self {
            max: F::NEG_INFINITY,
            sum: F::ZERO,
            moment: F::ZERO,
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
}

/// Parts of [`CHUNK`] logits each, joined in their order: the same bits whether they come at once or one by one.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    max: f64,
    sum: f64,
    moment: f64,
}

impl Default for Softmax {
    fn default() -> Self {
        Self {
            max: f64::NEG_INFINITY,
            sum: 0.0,
            moment: 0.0,
        }
    }
}

impl Softmax {
    /// The softmax of a row.
    pub fn of<F: Real>(row: &[F]) -> Self {
        let mut whole = Self::default();
        for chunk in row.chunks(CHUNK) {
            let mut part = ExpSum::default();
            part.add(chunk);
            whole.join(&part);
        }
        whole
    }

    /// Adds the next part.
    pub fn join<F: Real>(&mut self, part: &ExpSum<F>) {
        let part = Self {
            max: part.max.to_f64(),
            sum: part.sum.to_f64(),
            moment: part.moment.to_f64(),
        };
        let max = self.max.larger(part.max);
        if max > f64::NEG_INFINITY {
            let (old, new) = (self.below(max), part.below(max));
            (self.sum, self.moment) = (old.0 + new.0, old.1 + new.1);
        } else {
            self.sum += part.sum;
        }
        self.max = max;
    }

    /// `sum` and `moment` with `max` in place of the own, which is not larger.
    fn below(&self, max: f64) -> (f64, f64) {
        let down = self.max - max;
        let factor = down.exp();
        let moment = if factor > 0.0 {
            (self.moment + self.sum * down) * factor
        } else {
            0.0
        };
        (self.sum * factor, moment)
    }

    /// `log Σ exp(logit)`; −∞ if there is no logit, NaN if one is NaN or +∞.
    pub fn log_sum_exp(&self) -> f64 {
        self.max + self.sum.ln()
    }

    /// `−Σ p·log p` in nats.
    pub fn entropy(&self) -> f64 {
        self.sum.ln() - self.moment / self.sum
    }
}

/// `log Σ exp(logit)` of a row.
pub fn log_sum_exp<F: Real>(row: &[F]) -> f64 {
    Softmax::of(row).log_sum_exp()
}

/// Each logit becomes `scale · exp(logit − shift)`: the softmax when `shift` is the log-sum-exp.
pub fn exp_scaled<F: Real>(row: &mut [F], shift: F, scale: F) {
    F::dispatch(simd::current(), Scaled { row, shift, scale });
}

/// Each logit becomes `cap·tanh(logit / cap)` (Gemma 2).
pub fn softcap<F: Real>(row: &mut [F], cap: f64) {
    F::dispatch(simd::current(), Capped { row, cap });
}

struct Capped<'a, F> {
    row: &'a mut [F],
    cap: f64,
}

impl<F: Real> Kernel<F> for Capped<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let (cap, inverse) = (s.splat(F::of(self.cap)), s.splat(F::of(1.0 / self.cap)));
        for chunk in self.row.chunks_mut(S::LANES) {
            // SAFETY: the chunk's own length is loaded and stored.
            unsafe {
                let v = s.load_part(chunk.as_ptr(), chunk.len());
                let capped = s.mul(s.tanh(s.mul(v, inverse)), cap);
                s.store_part(chunk.as_mut_ptr(), capped, chunk.len());
            }
        }
    }
}

struct Add<'a, F> {
    total: &'a mut ExpSum<F>,
    logits: &'a [F],
}

impl<F: Real> Kernel<F> for Add<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self { total, logits } = self;
        for run in logits.chunks(RUN) {
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
                let old = total.max;
                let max = old.larger(s.largest(top));
                total.max = max;
                // With nothing but −∞ so far, any finite shift gives 0.
                let shift = s.splat(if max == F::NEG_INFINITY { F::ZERO } else { max });
                let mut sums = [s.splat(F::ZERO); 2];
                let mut moment = s.splat(F::ZERO);
                // Where the exponential is 0 the product is too, not 0·∞.
                let least = s.splat(F::of(-104.0));
                at = 0;
                while at < whole {
                    let below = s.sub(s.load(start.add(at)), shift);
                    let e = s.exp(below);
                    sums = [sums[1], s.add(sums[0], e)];
                    moment = s.fma(e, s.max(least, below), moment);
                    at += S::LANES;
                }
                if rest > 0 {
                    let below = s.sub(tail(), shift);
                    let e = s.exp(below);
                    sums[0] = s.add(sums[0], e);
                    moment = s.fma(e, s.max(least, below), moment);
                }
                if old != max && old != F::NEG_INFINITY {
                    let down = s.largest(s.exp(s.sub(s.splat(old), shift)));
                    total.moment = (total.moment + total.sum * (old - max)) * down;
                    total.sum = total.sum * down;
                }
                total.sum += s.sum(s.add(sums[0], sums[1]));
                total.moment += s.sum(moment);
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
