//! Sums, products, scaling, copies, and the reductions of their backward.
//!
//! A row `[d]` broadcast over many is [`Rows::broadcast`].

use crate::lanewise::{self, Lanewise, Term};
use crate::simd::Simd;
use crate::{Real, Rows, RowsMut, team};

#[derive(Clone, Copy)]
struct Add;

impl<F: Real> Lanewise<F, 2, 1> for Add {
    #[inline(always)]
    fn at<S: Simd<F>>(self, s: S, [x, y]: [S::V; 2]) -> [S::V; 1] {
        [s.add(x, y)]
    }
}

#[derive(Clone, Copy)]
struct Mul;

impl<F: Real> Lanewise<F, 2, 1> for Mul {
    #[inline(always)]
    fn at<S: Simd<F>>(self, s: S, [x, y]: [S::V; 2]) -> [S::V; 1] {
        [s.mul(x, y)]
    }
}

#[derive(Clone, Copy)]
struct Scale<F>(F);

impl<F: Real> Lanewise<F, 1, 1> for Scale<F> {
    #[inline(always)]
    fn at<S: Simd<F>>(self, s: S, [x]: [S::V; 1]) -> [S::V; 1] {
        [s.mul(x, s.splat(self.0))]
    }
}

#[derive(Clone, Copy)]
struct AddScaled<F>(F);

impl<F: Real> Lanewise<F, 2, 1> for AddScaled<F> {
    #[inline(always)]
    fn at<S: Simd<F>>(self, s: S, [x, y]: [S::V; 2]) -> [S::V; 1] {
        [s.fma(x, s.splat(self.0), y)]
    }
}

/// `out = x + y`.
pub fn add<F: Real>(x: Rows<F>, y: Rows<F>, out: RowsMut<F>) {
    lanewise::map(Add, [x, y], [out]);
}

/// `out = x · y`, element by element.
pub fn mul<F: Real>(x: Rows<F>, y: Rows<F>, out: RowsMut<F>) {
    lanewise::map(Mul, [x, y], [out]);
}

/// `out = by · x`.
pub fn scale<F: Real>(x: Rows<F>, by: F, out: RowsMut<F>) {
    lanewise::map(Scale(by), [x], [out]);
}

/// `out += by · x`.
pub fn add_scaled<F: Real>(x: Rows<F>, by: F, out: RowsMut<F>) {
    lanewise::update(AddScaled(by), [x], [out]);
}

/// `out = x`.
///
/// # Panics
/// If the shapes differ.
pub fn copy<F: Real>(x: Rows<F>, out: RowsMut<F>) {
    assert_eq!((x.rows(), x.width()), (out.rows(), out.width()));
    team::for_rows(out, team::rows_for::<F>(x.width()), |first, mut out| {
        for i in 0..out.rows() {
            out.row_mut(i).copy_from_slice(x.row(first + i));
        }
    });
}

#[derive(Clone, Copy)]
struct First;

impl<F: Real> Term<F> for First {
    #[inline(always)]
    fn at<S: Simd<F>>(self, _: S, _: usize, x: S::V, _: S::V) -> S::V {
        x
    }
}

impl<F: Real> Term<F> for Mul {
    #[inline(always)]
    fn at<S: Simd<F>>(self, s: S, _: usize, x: S::V, y: S::V) -> S::V {
        s.mul(x, y)
    }
}

/// `out[j] = Σᵢ x[i, j]`, the gradient of a broadcast row.
pub fn sum_rows<F: Real>(x: Rows<F>, out: &mut [F]) {
    lanewise::column_sums(First, x, x, out);
}

/// `out[j] = Σᵢ x[i, j] · y[i, j]`, the gradient of a broadcast factor.
pub fn sum_rows_of_product<F: Real>(x: Rows<F>, y: Rows<F>, out: &mut [F]) {
    lanewise::column_sums(Mul, x, y, out);
}

/// The sum of all elements, carried in 64 bits.
pub fn sum<F: Real>(x: Rows<F>) -> F {
    F::of(
        (0..x.rows())
            .map(|i| x.row(i).iter().map(|v| v.to_f64()).sum::<f64>())
            .sum(),
    )
}
