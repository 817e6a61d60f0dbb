//! Rotary position embedding, rotate-half form (Su et al. 2021, as in GPT-NeoX and Llama).

use crate::{Real, Rows, RowsMut};

/// Rotates pairs `(x[p], x[p + rotary/2])` of each head by `position · frequencies[p]`; `factor` multiplies cosine and sine.
///
/// `x` is `[T, heads · head_dim]`, `frequencies` `[rotary/2]`; elements of a head from `rotary` on are copied.
pub fn rope<F: Real>(
    x: Rows<F>,
    positions: &[i32],
    frequencies: &[F],
    head_dim: usize,
    factor: F,
    out: RowsMut<F>,
) {
    rotate(x, positions, frequencies, head_dim, factor, F::ONE, out);
}

/// The gradient of [`rope`]: the opposite rotation.
pub fn rope_backward<F: Real>(
    dy: Rows<F>,
    positions: &[i32],
    frequencies: &[F],
    head_dim: usize,
    factor: F,
    dx: RowsMut<F>,
) {
    rotate(dy, positions, frequencies, head_dim, factor, -F::ONE, dx);
}

fn rotate<F: Real>(
    x: Rows<F>,
    positions: &[i32],
    frequencies: &[F],
    head_dim: usize,
    factor: F,
    direction: F,
    mut out: RowsMut<F>,
) {
    let half = frequencies.len();
    assert!(2 * half <= head_dim && x.rows() == positions.len());
    for (i, &position) in positions.iter().enumerate() {
        for (x, y) in x
            .row(i)
            .chunks_exact(head_dim)
            .zip(out.row_mut(i).chunks_exact_mut(head_dim))
        {
            for p in 0..half {
                let (sin, cos) = (F::of(f64::from(position)) * frequencies[p]).sin_cos();
                let (sin, cos) = (sin * factor * direction, cos * factor);
                y[p] = x[p] * cos - x[p + half] * sin;
                y[p + half] = x[p + half] * cos + x[p] * sin;
            }
            y[2 * half..].copy_from_slice(&x[2 * half..]);
        }
    }
}
