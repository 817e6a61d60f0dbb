//! `AdamW` in one pass, and the norm that clipping and the check for NaN need.

use crate::lanewise::{self, Lanewise};
use crate::simd::Simd;
use crate::{Real, Rows, RowsMut, team};

/// `AdamW` (Loshchilov & Hutter 2019, algorithm 2, with the learning rate multiplying the decay).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// η.
    pub learning_rate: f64,
    /// β₁, of the mean of gradients.
    pub beta1: f64,
    /// β₂, of the mean of their squares.
    pub beta2: f64,
    /// ε, added to the root.
    pub eps: f64,
    /// λ: a parameter first shrinks by `η·λ` of itself.
    pub weight_decay: f64,
}

/// The numbers of one step: `p ← keep·p − rate·m / (√v·unbias + eps)`.
#[derive(Clone, Copy)]
struct Step<F> {
    by: F,
    keep: F,
    rate: F,
    unbias: F,
    eps: F,
    beta: [F; 2],
    rest: [F; 2],
}

impl<F: Real> Lanewise<F, 5, 3> for Step<F> {
    #[inline(always)]
    fn at<S: Simd<F>>(self, s: S, [g, p, _, m, v]: [S::V; 5]) -> [S::V; 3] {
        let c = |x: F| s.splat(x);
        let g = s.mul(g, c(self.by));
        let m = s.fma(c(self.beta[0]), m, s.mul(c(self.rest[0]), g));
        let v = s.fma(c(self.beta[1]), v, s.mul(c(self.rest[1]), s.mul(g, g)));
        let root = s.fma(s.sqrt(v), c(self.unbias), c(self.eps));
        let p = s.sub(s.mul(c(self.keep), p), s.div(s.mul(c(self.rate), m), root));
        [p, m, v]
    }
}

impl AdamW {
    /// One step, the `step`-th counted from 1, with `scale · gradient` in place of the gradient (clipping): `after` becomes
    /// what follows the parameter `before`.
    ///
    /// `moments` are the moving averages of the gradient and of its square, 0 at first.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn step<F: Real>(
        &self,
        step: u64,
        before: &[F],
        after: &mut [F],
        gradient: &[F],
        scale: f64,
        [mean, square]: [&mut [F]; 2],
    ) {
        let unbiased = |beta: f64| 1.0 - beta.powf(step as f64);
        let numbers = Step {
            by: F::of(scale),
            keep: F::of(1.0 - self.learning_rate * self.weight_decay),
            rate: F::of(self.learning_rate / unbiased(self.beta1)),
            unbias: F::of(unbiased(self.beta2).sqrt().recip()),
            eps: F::of(self.eps),
            beta: [self.beta1, self.beta2].map(F::of),
            rest: [1.0 - self.beta1, 1.0 - self.beta2].map(F::of),
        };
        let n = gradient.len();
        assert_eq!((before.len(), after.len()), (n, n));
        assert_eq!((mean.len(), square.len()), (n, n));
        let updated = [after, mean, square].map(|x| RowsMut::new(x, 1, n));
        lanewise::update(
            numbers,
            [gradient, before].map(|x| Rows::new(x, 1, n)),
            updated,
        );
    }
}

/// `√Σ x²` over all the slices, carried in 64 bits; NaN or infinite if an element is.
pub fn norm<F: Real>(slices: &[&[F]]) -> f64 {
    /// Elements of a partial sum; partial sums are added in order.
    const BLOCK: usize = 1 << 16;
    let blocks: Vec<&[F]> = slices
        .iter()
        .flat_map(|slice| slice.chunks(BLOCK))
        .collect();
    let mut sums = vec![0.0_f64; blocks.len()];
    team::for_rows(
        RowsMut::new(&mut sums, blocks.len(), 1),
        1,
        |index, mut sum| {
            let mut parts = [0.0; 8];
            let chunks = blocks[index].chunks_exact(8);
            let rest: f64 = chunks
                .remainder()
                .iter()
                .map(|x| x.to_f64() * x.to_f64())
                .sum();
            for chunk in chunks {
                for (part, x) in parts.iter_mut().zip(chunk) {
                    *part += x.to_f64() * x.to_f64();
                }
            }
            sum.row_mut(0)[0] = parts.iter().sum::<f64>() + rest;
        },
    );
    sums.iter().sum::<f64>().sqrt()
}
