//! Tokens that occurred are made less likely.

use std::collections::BTreeMap;

/// Keskar et al., 2019: the score of each of `tokens` is divided by `penalty` if positive, multiplied if negative; once, however
/// often it occurred.
pub fn repetition(scores: &mut [f64], tokens: &[u32], penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    for token in counts(tokens).into_keys() {
        if let Some(score) = scores.get_mut(token as usize) {
            if *score < 0.0 {
                *score *= penalty;
            } else {
                *score /= penalty;
            }
        }
    }
}

/// As `OpenAI` defines them: `score − count·frequency − [count > 0]·presence`, the count being that of a token among those `written`.
pub fn occurrence(scores: &mut [f64], written: &[u32], (presence, frequency): (f64, f64)) {
    if presence == 0.0 && frequency == 0.0 {
        return;
    }
    for (token, count) in counts(written) {
        if let Some(score) = scores.get_mut(token as usize) {
            *score -= count * frequency + presence;
        }
    }
}

fn counts(tokens: &[u32]) -> BTreeMap<u32, f64> {
    let mut counts = BTreeMap::new();
    for &token in tokens {
        *counts.entry(token).or_insert(0.0) += 1.0;
    }
    counts
}
