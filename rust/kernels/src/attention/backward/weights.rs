//! From scores to weights and the gradients of raw scores.

use std::ops::Range;

use super::super::score::{cap, mask};
use crate::Real;
use crate::simd::Simd;

/// One row of raw scores and of `dout·vᵀ`, on its way to weights and gradients of raw scores.
pub(super) struct Weights<'a, F> {
    pub scores: &'a mut [F],
    pub slopes: &'a mut [F],
    /// Which of them are seen; the others become 0.
    pub seen: Range<usize>,
    pub bias: Option<&'a [F]>,
    /// Where the gradient of the bias is added.
    pub gradient: Option<&'a mut [F]>,
    /// What dropout multiplies the weights by.
    pub factors: Option<&'a [F]>,
    pub softcap: Option<F>,
    pub lse: F,
    pub delta: F,
}

impl<F: Real> Weights<'_, F> {
    /// `p = exp(score − lse)`, `ds = p·(dout·vᵀ − D)`, times the slope of the soft cap. With dropout `m`, `p·m` takes the
    /// place of what goes to the values, and `m·(dout·vᵀ)` that of the slope.
    #[inline(always)]
    pub fn differentiate<S: Simd<F>>(self, s: S) {
        let Self {
            scores,
            slopes,
            seen,
            bias,
            mut gradient,
            factors,
            softcap,
            lse,
            delta,
        } = self;
        let chunks = scores
            .chunks_exact_mut(S::LANES)
            .zip(slopes.chunks_exact_mut(S::LANES));
        for (j, (p, ds)) in chunks.enumerate() {
            let at = j * S::LANES;
            // SAFETY: the chunks hold `LANES` elements, the bias, its gradient and the factors as many as the scores.
            unsafe {
                let capped = cap(s, s.load(p.as_ptr()), softcap);
                let mut score = capped;
                if let Some(bias) = &bias {
                    score = s.add(score, s.load(bias[at..].as_ptr()));
                }
                let weight = s.exp(s.sub(mask(s, score, at, &seen, F::NEG_INFINITY), s.splat(lse)));
                let (mut given, mut slope) = (weight, s.load(ds.as_ptr()));
                if let Some(factors) = factors {
                    let factor = s.load(factors[at..].as_ptr());
                    (given, slope) = (s.mul(weight, factor), s.mul(slope, factor));
                }
                let slope = s.mul(weight, s.sub(slope, s.splat(delta)));
                // What is not seen may be infinite, and 0 times that is not 0.
                let mut slope = mask(s, slope, at, &seen, F::ZERO);
                if let Some(gradient) = &mut gradient {
                    let to = gradient[at..].as_mut_ptr();
                    s.store(to, s.add(s.load(to), slope));
                }
                if let Some(cap) = softcap {
                    let t = s.mul(capped, s.splat(F::ONE / cap));
                    slope = s.mul(slope, s.sub(s.splat(F::ONE), s.mul(t, t)));
                }
                s.store(p.as_mut_ptr(), given);
                s.store(ds.as_mut_ptr(), slope);
            }
        }
    }
}
