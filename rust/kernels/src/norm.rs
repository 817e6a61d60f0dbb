//! Layer norm and root-mean-square norm, forward and backward.
//!
//! Backward computes the statistics again from `x`, which costs less than keeping them.

use crate::lanewise::{Term, column_sums};
use crate::simd::{self, Kernel, Simd};
use crate::{Real, Rows, RowsMut, team};

/// `y = (x − mean) / √(var + eps) · weight + bias` for each row, `var` the biased variance (Ba et al. 2016).
///
/// # Panics
/// If `weight` or `bias` is not as wide as the rows.
pub fn layer_norm<F: Real>(x: Rows<F>, weight: &[F], bias: Option<&[F]>, eps: F, out: RowsMut<F>) {
    assert_eq!(weight.len(), x.width());
    forward::<F, true>(x, weight, bias, eps, out);
}

/// `y = x / √(mean(x²) + eps) · weight` for each run of `weight.len()` elements of a row (Zhang & Sennrich 2019).
///
/// A weight shorter than the row norms each head by itself (q and k norms).
///
/// # Panics
/// If `weight.len()` does not divide the width.
pub fn rms_norm<F: Real>(x: Rows<F>, weight: &[F], eps: F, out: RowsMut<F>) {
    forward::<F, false>(x, weight, None, eps, out);
}

/// Gradients of [`layer_norm`].
///
/// # Panics
/// If the shapes disagree.
pub fn layer_norm_backward<F: Real>(
    x: Rows<F>,
    weight: &[F],
    eps: F,
    dy: Rows<F>,
    dx: RowsMut<F>,
    dweight: Option<&mut [F]>,
    dbias: Option<&mut [F]>,
) {
    assert_eq!(weight.len(), x.width());
    backward::<F, true>(x, weight, eps, dy, dx, dweight);
    if let Some(dbias) = dbias {
        crate::elementwise::sum_rows(dy, dbias);
    }
}

/// Gradients of [`rms_norm`].
///
/// # Panics
/// If the shapes disagree.
pub fn rms_norm_backward<F: Real>(
    x: Rows<F>,
    weight: &[F],
    eps: F,
    dy: Rows<F>,
    dx: RowsMut<F>,
    dweight: Option<&mut [F]>,
) {
    backward::<F, false>(x, weight, eps, dy, dx, dweight);
}

/// Mean (0 without `CENTRE`) and inverse deviation of `n` elements.
///
/// # Safety
/// `n` elements can be read.
#[inline(always)]
unsafe fn statistics<F: Real, S: Simd<F>, const CENTRE: bool>(
    s: S,
    x: *const F,
    n: usize,
    eps: F,
) -> (F, F) {
    let count = F::of(n as f64);
    let mut mean = F::ZERO;
    // SAFETY: loads stay inside the `n` elements.
    unsafe {
        if CENTRE {
            let mut sum = s.splat(F::ZERO);
            let mut at = 0;
            while at < n {
                sum = s.add(sum, s.load_part(x.add(at), S::LANES.min(n - at)));
                at += S::LANES;
            }
            mean = s.sum(sum) / count;
        }
        let mut squares = [s.splat(F::ZERO); 2];
        let mut at = 0;
        while at < n {
            let lanes = S::LANES.min(n - at);
            let mut d = s.load_part(x.add(at), lanes);
            if CENTRE {
                d = s.first(s.sub(d, s.splat(mean)), lanes);
            }
            squares = [squares[1], s.fma(d, d, squares[0])];
            at += S::LANES;
        }
        let variance = s.sum(s.add(squares[0], squares[1])) / count;
        (mean, F::ONE / (variance + eps).sqrt())
    }
}

struct Forward<'a, F, const CENTRE: bool> {
    x: &'a [F],
    weight: &'a [F],
    bias: Option<&'a [F]>,
    eps: F,
    out: &'a mut [F],
}

impl<F: Real, const CENTRE: bool> Kernel<F> for Forward<'_, F, CENTRE> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let n = self.weight.len();
        for (x, y) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            let (x, y) = (x.as_ptr(), y.as_mut_ptr());
            // SAFETY: `x`, `y`, the weight and the bias hold `n` elements.
            unsafe {
                let (mean, inverse) = statistics::<F, S, CENTRE>(s, x, n, self.eps);
                let (mean, inverse) = (s.splat(mean), s.splat(inverse));
                let mut at = 0;
                while at < n {
                    let lanes = S::LANES.min(n - at);
                    let mut unit = s.load_part(x.add(at), lanes);
                    if CENTRE {
                        unit = s.sub(unit, mean);
                    }
                    let mut v = s.mul(
                        s.mul(unit, inverse),
                        s.load_part(self.weight.as_ptr().add(at), lanes),
                    );
                    if let Some(bias) = self.bias {
                        v = s.add(v, s.load_part(bias.as_ptr().add(at), lanes));
                    }
                    s.store_part(y.add(at), v, lanes);
                    at += S::LANES;
                }
            }
        }
    }
}

fn forward<F: Real, const CENTRE: bool>(
    x: Rows<F>,
    weight: &[F],
    bias: Option<&[F]>,
    eps: F,
    out: RowsMut<F>,
) {
    let n = weight.len();
    assert_eq!((x.rows(), x.width()), (out.rows(), out.width()));
    assert!(
        n > 0 && x.width().is_multiple_of(n),
        "a weight of {n} does not divide rows of {}",
        x.width()
    );
    assert!(
        bias.is_none_or(|bias| bias.len() == n),
        "length of the bias"
    );
    let level = simd::current();
    team::for_rows(out, team::rows_for::<F>(x.width()), |first, mut out| {
        for i in 0..out.rows() {
            let (x, out) = (x.row(first + i), out.row_mut(i));
            F::dispatch(
                level,
                Forward::<F, CENTRE> {
                    x,
                    weight,
                    bias,
                    eps,
                    out,
                },
            );
        }
    });
}

struct Backward<'a, F, const CENTRE: bool> {
    x: &'a [F],
    weight: &'a [F],
    eps: F,
    dy: &'a [F],
    dx: &'a mut [F],
    /// Mean and inverse deviation of each run.
    statistics: &'a mut [F],
}

impl<F: Real, const CENTRE: bool> Kernel<F> for Backward<'_, F, CENTRE> {
    type Output = ();

    /// With `u` the normalised row and `g = dy · weight`: `dx = (g − mean(g) − u · mean(g · u)) / deviation`.
    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let n = self.weight.len();
        let weight = self.weight.as_ptr();
        let runs = self
            .x
            .chunks_exact(n)
            .zip(self.dy.chunks_exact(n))
            .zip(self.dx.chunks_exact_mut(n));
        for (((x, dy), dx), kept) in runs.zip(self.statistics.chunks_exact_mut(2)) {
            let (x, dy, dx) = (x.as_ptr(), dy.as_ptr(), dx.as_mut_ptr());
            // SAFETY: `x`, `dy`, `dx` and the weight hold `n` elements.
            unsafe {
                let (mean, inverse) = statistics::<F, S, CENTRE>(s, x, n, self.eps);
                kept.copy_from_slice(&[mean, inverse]);
                let (mean, inverse) = (s.splat(mean), s.splat(inverse));
                let (mut sum, mut dot) = (s.splat(F::ZERO), s.splat(F::ZERO));
                let mut at = 0;
                while at < n {
                    let lanes = S::LANES.min(n - at);
                    let g = s.mul(
                        s.load_part(dy.add(at), lanes),
                        s.load_part(weight.add(at), lanes),
                    );
                    if CENTRE {
                        sum = s.add(sum, g);
                    }
                    dot = s.fma(g, unit(s, x.add(at), lanes, mean, inverse), dot);
                    at += S::LANES;
                }
                let count = F::of(n as f64);
                let (sum, dot) = (s.splat(s.sum(sum) / count), s.splat(s.sum(dot) / count));
                at = 0;
                while at < n {
                    let lanes = S::LANES.min(n - at);
                    let mut g = s.mul(
                        s.load_part(dy.add(at), lanes),
                        s.load_part(weight.add(at), lanes),
                    );
                    if CENTRE {
                        g = s.sub(g, sum);
                    }
                    let v = s.sub(g, s.mul(unit(s, x.add(at), lanes, mean, inverse), dot));
                    s.store_part(dx.add(at), s.mul(v, inverse), lanes);
                    at += S::LANES;
                }
            }
        }
    }
}

/// `(x − mean) / deviation`.
///
/// # Safety
/// `lanes` elements can be read.
#[inline(always)]
unsafe fn unit<F: Real, S: Simd<F>>(
    s: S,
    x: *const F,
    lanes: usize,
    mean: S::V,
    inverse: S::V,
) -> S::V {
    // SAFETY: the caller's promise.
    s.mul(s.sub(unsafe { s.load_part(x, lanes) }, mean), inverse)
}

/// `dy · (x − mean) / deviation`, the gradient of the weight from one run.
#[derive(Clone, Copy)]
struct Unit<'a, F> {
    statistics: &'a [F],
    runs: usize,
    run: usize,
}

impl<F: Real> Term<F> for Unit<'_, F> {
    #[inline(always)]
    fn at<S: Simd<F>>(self, s: S, row: usize, x: S::V, dy: S::V) -> S::V {
        let at = 2 * (row * self.runs + self.run);
        let (mean, inverse) = (
            s.splat(self.statistics[at]),
            s.splat(self.statistics[at + 1]),
        );
        s.mul(dy, s.mul(s.sub(x, mean), inverse))
    }
}

fn backward<F: Real, const CENTRE: bool>(
    x: Rows<F>,
    weight: &[F],
    eps: F,
    dy: Rows<F>,
    dx: RowsMut<F>,
    dweight: Option<&mut [F]>,
) {
    let n = weight.len();
    assert_eq!((x.rows(), x.width()), (dy.rows(), dy.width()));
    assert_eq!((x.rows(), x.width()), (dx.rows(), dx.width()));
    assert!(
        n > 0 && x.width().is_multiple_of(n),
        "a weight of {n} does not divide rows of {}",
        x.width()
    );
    let (level, runs) = (simd::current(), x.width() / n);
    let mut statistics = vec![F::ZERO; x.rows() * runs * 2];
    let kept = RowsMut::new(&mut statistics, x.rows(), runs * 2).share();
    team::for_rows(dx, team::rows_for::<F>(x.width()), |first, mut dx| {
        for i in 0..dx.rows() {
            // SAFETY: each row is visited by one chunk.
            let statistics = unsafe { kept.row(first + i) };
            let (x, dy, dx) = (x.row(first + i), dy.row(first + i), dx.row_mut(i));
            F::dispatch(
                level,
                Backward::<F, CENTRE> {
                    x,
                    weight,
                    eps,
                    dy,
                    dx,
                    statistics,
                },
            );
        }
    });
    let Some(dweight) = dweight else { return };
    let mut part = vec![F::ZERO; n];
    for run in 0..runs {
        let columns = run * n..(run + 1) * n;
        let term = Unit {
            statistics: &statistics,
            runs,
            run,
        };
        let out = if run == 0 {
            &mut *dweight
        } else {
            &mut part[..]
        };
        column_sums(term, x.columns(columns.clone()), dy.columns(columns), out);
        if run > 0 {
            dweight.iter_mut().zip(&part).for_each(|(d, &p)| *d += p);
        }
    }
}
