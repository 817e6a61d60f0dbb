//! Logits raised and lowered by name.

use lmrs_tensor::Result;

use super::{in_range, outside};

/// Fails for a token that is not below `vocabulary` or a bias out of its range.
pub fn check(bias: &[(u32, f64)], vocabulary: usize) -> Result<()> {
    for (id, by) in bias {
        if *id as usize >= vocabulary {
            return Err(outside("logit_bias", Some(id), vocabulary));
        }
        in_range(&format!("logit_bias[{id}]"), *by, -100.0, 100.0)?;
    }
    Ok(())
}

/// `score + bias` of each token that has one.
pub fn add(scores: &mut [f64], bias: &[(u32, f64)]) {
    for &(id, by) in bias {
        if let Some(score) = scores.get_mut(id as usize) {
            *score += by;
        }
    }
}
