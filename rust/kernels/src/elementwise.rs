//! Sums, products, scaling, copies, and the reductions of their backward.
//!
//! A row `[d]` broadcast over many is [`Rows::broadcast`].

use crate::{Real, Rows, RowsMut};

fn zip<F: Real>(x: Rows<F>, y: Rows<F>, mut out: RowsMut<F>, f: impl Fn(F, F) -> F) {
    assert_eq!((x.rows(), x.width()), (y.rows(), y.width()));
    for i in 0..x.rows() {
        for ((o, &x), &y) in out.row_mut(i).iter_mut().zip(x.row(i)).zip(y.row(i)) {
            *o = f(x, y);
        }
    }
}

/// `out = x + y`.
pub fn add<F: Real>(x: Rows<F>, y: Rows<F>, out: RowsMut<F>) {
    zip(x, y, out, |x, y| x + y);
}

/// `out = x · y`, element by element.
pub fn mul<F: Real>(x: Rows<F>, y: Rows<F>, out: RowsMut<F>) {
    zip(x, y, out, |x, y| x * y);
}

/// `out = by · x`.
pub fn scale<F: Real>(x: Rows<F>, by: F, mut out: RowsMut<F>) {
    for i in 0..x.rows() {
        for (o, &x) in out.row_mut(i).iter_mut().zip(x.row(i)) {
            *o = x * by;
        }
    }
}

/// `out += by · x`.
pub fn add_scaled<F: Real>(x: Rows<F>, by: F, mut out: RowsMut<F>) {
    for i in 0..x.rows() {
        for (o, &x) in out.row_mut(i).iter_mut().zip(x.row(i)) {
            *o += x * by;
        }
    }
}

/// `out = x`.
pub fn copy<F: Real>(x: Rows<F>, mut out: RowsMut<F>) {
    for i in 0..x.rows() {
        out.row_mut(i).copy_from_slice(x.row(i));
    }
}

/// `out[j] = Σᵢ x[i, j]`, the gradient of a broadcast row.
pub fn sum_rows<F: Real>(x: Rows<F>, out: &mut [F]) {
    out.fill(F::ZERO);
    for i in 0..x.rows() {
        for (o, &x) in out.iter_mut().zip(x.row(i)) {
            *o += x;
        }
    }
}

/// `out[j] = Σᵢ x[i, j] · y[i, j]`, the gradient of a broadcast factor.
pub fn sum_rows_of_product<F: Real>(x: Rows<F>, y: Rows<F>, out: &mut [F]) {
    out.fill(F::ZERO);
    for i in 0..x.rows() {
        for ((o, &x), &y) in out.iter_mut().zip(x.row(i)).zip(y.row(i)) {
            *o += x * y;
        }
    }
}

/// The sum of all elements.
pub fn sum<F: Real>(x: Rows<F>) -> F {
    (0..x.rows()).fold(F::ZERO, |s, i| {
        s + x.row(i).iter().fold(F::ZERO, |s, &v| s + v)
    })
}
