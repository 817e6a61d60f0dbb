//! A draw that depends on the seed and the number of the token alone.

use lmrs_kernels::dropout::philox;

use super::Weighed;

/// The `step`-th token that is drawn with `seed`: the first with which the probabilities pass a point in [0, 1).
pub fn draw(kept: &[Weighed], seed: u64, step: u32) -> Option<u32> {
    let mut point = uniform(seed, step);
    for &(token, p) in kept {
        point -= p;
        if point < 0.0 {
            return Some(token);
        }
    }
    // The probabilities may sum to a rounding error less than the point.
    kept.last().map(|&(token, _)| token)
}

fn uniform(seed: u64, step: u32) -> f64 {
    let [high, low, ..] = philox([step, 0, 0, 0], seed);
    let bits = u64::from(high) << 21 | u64::from(low) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
