//! No run of tokens twice.

/// Forbids the tokens that would end a run of `size` tokens which is in `tokens` already; none if `size` is 0.
pub fn forbid(scores: &mut [f64], tokens: &[u32], size: usize) {
    let tail = size
        .checked_sub(1)
        .and_then(|before| tokens.len().checked_sub(before))
        .and_then(|start| tokens.get(start..));
    let Some(tail) = tail else { return };
    for run in tokens.windows(size) {
        if let Some((&last, head)) = run.split_last()
            && head == tail
        {
            super::forbid(scores, last);
        }
    }
}
