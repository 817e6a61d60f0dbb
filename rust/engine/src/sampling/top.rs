//! The largest scores.

use lmrs_logprob::token_logprob;
use lmrs_tensor::{Error, Result};

/// Where the first of the largest is.
///
/// # Errors
/// [`Error::Input`] if a logit is not a number, or none is finite.
pub fn first_largest(logits: &[f32]) -> Result<usize> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let broken = logits.iter().any(|l| l.is_nan()) || !top.is_finite();
    match logits.iter().position(|&l| l == top) {
        Some(at) if !broken => Ok(at),
        _ => Err(Error::input(
            "a logit of the model",
            &"not a finite number",
            "weights and inputs that give finite logits",
        )),
    }
}

/// The `k`-th largest, counted from 1; negative infinity if there are no more than `k`.
pub fn kth(scores: &[f64], k: usize) -> f64 {
    if k >= scores.len() {
        return f64::NEG_INFINITY;
    }
    let mut order = scores.to_vec();
    *order
        .select_nth_unstable_by(k.saturating_sub(1), |a, b| b.total_cmp(a))
        .1
}

/// `score − log Σ exp score`.
pub fn log_softmax(mut scores: Vec<f64>) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
    let normal = top + sum.ln();
    for score in &mut scores {
        *score -= normal;
    }
    scores
}

/// The `count` likeliest ids and their log-probabilities; of equals the smaller id.
pub fn likeliest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    if count == 0 {
        return Vec::new();
    }
    let mut order: Vec<(u32, f32)> = (0_u32..).zip(logits.iter().copied()).collect();
    let likelier = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < order.len() {
        order.select_nth_unstable_by(count, likelier);
        order.truncate(count);
    }
    order.sort_unstable_by(likelier);
    for (id, value) in &mut order {
        *value = token_logprob(logits, *id as usize);
    }
    order
}
