//! Dropout of the weights, after the softmax.

use crate::Real;
use crate::dropout::{Key, philox};

/// The weight of key `j` for row `t` of the queries and head `h` is left out when word `j mod 4` of Philox at counter
/// `(j / 4, t·heads + h, site, step)` is below `rate·2³²`; the others are divided by `1 − rate`. Keys are numbered from the
/// first of the sequence's prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability, in `[0, 1)`.
    pub rate: f64,
    /// What else the mask depends on.
    pub key: Key,
}

impl Dropout {
    /// What the weights of the keys `first..` are multiplied by; `row` is `t·heads + h`.
    pub fn factors<F: Real>(&self, row: usize, first: usize, factors: &mut [F]) {
        let threshold = (self.rate.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
        let kept = F::of(1.0 / (1.0 - self.rate));
        let Key { seed, step, site } = self.key;
        let mut at = 0;
        while at < factors.len() {
            let (block, from) = ((first + at) / 4, (first + at) % 4);
            let words = philox([block as u32, row as u32, site, step], seed);
            let to = factors[at..].iter_mut().zip(&words[from..]);
            to.for_each(|(to, &word)| {
                *to = if u64::from(word) < threshold {
                    F::ZERO
                } else {
                    kept
                };
            });
            at += 4 - from;
        }
    }
}
