//! How a text begins and when it may end.

use super::{Past, forbid};

/// No end before `least` tokens are written.
pub fn forbid_ends(scores: &mut [f64], past: &Past, least: usize) {
    if past.written < least {
        for &end in past.eos {
            forbid(scores, end);
        }
    }
}

/// Leaves only the token of `begin` whose turn it is, or only ends in the last place if they are forced.
pub fn force(scores: &mut [f64], past: &Past, begin: &[u32], force_eos: bool) {
    let last = force_eos && past.written + 1 == past.max_tokens && !past.eos.is_empty();
    let only = match begin.get(past.written) {
        _ if last => past.eos,
        Some(id) => std::slice::from_ref(id),
        None => return,
    };
    scores.fill(f64::NEG_INFINITY);
    for &id in only {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = 0.0;
        }
    }
}
