//! Dropout whose mask is a function of (seed, step, site, element), so nothing is stored and nothing depends on order.

pub use lmrs_philox::philox;

use crate::{Real, Rows, RowsMut, team};

/// What the mask depends on besides the element's index in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The run.
    pub seed: u64,
    /// The training step.
    pub step: u32,
    /// The place in the model.
    pub site: u32,
}

/// `out = x / (1 − rate)` where kept, else 0. Element `e = row · width + column` is kept when word `e mod 4` of
/// Philox at counter `(e/4 mod 2³², e/4 / 2³², site, step)` is at least `rate · 2³²`.
///
/// The same call on the gradient is the backward.
///
/// # Panics
/// If the shapes differ.
pub fn dropout<F: Real>(x: Rows<F>, rate: f64, key: Key, out: RowsMut<F>) {
    assert_eq!((x.rows(), x.width()), (out.rows(), out.width()));
    let threshold = (rate.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
    let keep = F::of(1.0 / (1.0 - rate));
    team::for_rows(out, team::rows_for::<F>(x.width()), |first, mut out| {
        for i in 0..out.rows() {
            let start = ((first + i) * x.width()) as u64;
            let mut block = None;
            let mut words = [0; 4];
            for (j, (y, &x)) in out.row_mut(i).iter_mut().zip(x.row(first + i)).enumerate() {
                let element = start + j as u64;
                if block != Some(element / 4) {
                    let at = element / 4;
                    words = philox([at as u32, (at >> 32) as u32, key.site, key.step], key.seed);
                    block = Some(at);
                }
                let kept = u64::from(words[(element % 4) as usize]) >= threshold;
                *y = if kept { x * keep } else { F::ZERO };
            }
        }
    });
}
