//! Products with narrow weights, against 64-bit products of the numbers they were rounded to.

mod company;
mod reference;
mod rounding;
mod stored;

use lmrs_kernels::linear::{Epilogue, Packed, Weights, matmul};
use lmrs_kernels::{Rows, RowsMut};
use proptest::prelude::*;

use crate::{each_dot_level, single, values};
use reference::{held, narrowed, unturned};

const NARROW: [Weights; 3] = [Weights::Bf16, Weights::Int8, Weights::Int4];

fn packed(weights: Weights, w: &[f32], n: usize, k: usize) -> Packed<f32> {
    Packed::pack(weights, &[&Rows::new(w, n, k)])
}

fn product(x: Rows<f32>, w: &Packed<f32>) -> Vec<f32> {
    let (m, n) = (x.rows(), w.outputs());
    let mut out = vec![f32::NAN; m * n];
    matmul(x, w, RowsMut::new(&mut out, m, n), &Epilogue::default());
    out
}

/// The rows of a weight as its panels hold them.
fn read_back(w: &Packed<f32>) -> Vec<f32> {
    let mut rows = vec![f32::NAN; w.outputs() * w.inputs()];
    for (n, row) in rows.chunks_exact_mut(w.inputs().max(1)).enumerate() {
        w.row(n, row);
    }
    rows
}

/// `Σ x·w`, and the bound on the error of summing the products in `f32`: of four bits, those of q and of the least value
/// apart.
fn exact(weights: Weights, x: &[f32], w: &[f32]) -> (f64, f64) {
    let products = || x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
    let magnitude: f64 = products().map(f64::abs).sum();
    let terms = match weights {
        Weights::Int4 => {
            let groups = x.chunks(32).zip(w.chunks(32));
            let widest = |w: &[f32]| w.iter().fold(0.0_f32, |a, w| a.max(w.abs()));
            let sums = groups.map(|(x, w)| {
                f64::from(widest(w)) * x.iter().map(|x| f64::from(x.abs())).sum::<f64>()
            });
            (x.len() as f64 / 32.0 + 8.0) * 3.0 * sums.sum::<f64>()
        }
        _ => (x.len() as f64 + 4.0) * magnitude,
    };
    (products().sum(), f64::from(f32::EPSILON) * terms)
}

proptest! {
    #![proptest_config(lmrs_testing::cases(32))]

    #[test]
    fn narrow_matmul_is_the_product_of_what_was_rounded(
        m in 0_usize..20, k in 0_usize..150, n in 0_usize..150, gap in 0_usize..3, seed in 0_u64..1 << 40,
    ) {
        let stride = k + gap;
        let (x, w) = (single(&values(m * stride, seed)), single(&values(n * k, seed + 1)));
        let x = Rows::strided(&x, m, k, stride);
        for weights in NARROW {
            each_dot_level(|level| {
                let packed = packed(weights, &w, n, k);
                let (out, back) = (product(x, &packed), read_back(&packed));
                for i in 0..m {
                    let x = narrowed(weights, x.row(i));
                    for j in 0..n {
                        let (want, bound) = exact(weights, &x, &held(weights, &w[j * k..][..k], &back[j * k..][..k]));
                        let error = (f64::from(out[i * n + j]) - want).abs();
                        assert!(error <= bound, "{weights:?} {level:?} [{i}, {j}]: error {error:e} > {bound:e}");
                    }
                }
            });
        }
    }
}

/// What is not a number, or infinite, shows in the outputs it belongs to and in no other.
#[test]
fn not_a_number_stays_in_its_row_and_column() {
    let (m, k, n) = (9, 70, 130);
    let (mut x, mut w) = (single(&values(m * k, 1)), single(&values(n * k, 2)));
    x[3 * k + 5] = f32::NAN;
    x[7 * k + 69] = f32::INFINITY;
    w[66 * k + 1] = f32::NAN;
    w[129 * k + 69] = f32::NEG_INFINITY;
    for weights in [Weights::F32].into_iter().chain(NARROW) {
        each_dot_level(|level| {
            let out = product(Rows::new(&x, m, k), &packed(weights, &w, n, k));
            for (at, y) in out.iter().enumerate() {
                let marked = [3, 7].contains(&(at / n)) || [66, 129].contains(&(at % n));
                assert_eq!(
                    marked,
                    !y.is_finite(),
                    "{weights:?} {level:?} [{}, {}]",
                    at / n,
                    at % n
                );
            }
        });
    }
}

/// Panels packed at one level are read at any other.
#[test]
fn panels_of_any_level_serve_every_level() {
    let (m, k, n) = (13, 90, 100);
    let (x, w) = (single(&values(m * k, 1)), single(&values(n * k, 2)));
    for weights in NARROW {
        let mut all = Vec::new();
        each_dot_level(|_| all.push(packed(weights, &w, n, k)));
        each_dot_level(|level| {
            for packed in &all {
                let (out, back) = (product(Rows::new(&x, m, k), packed), read_back(packed));
                for i in 0..m {
                    let x = narrowed(weights, &x[i * k..][..k]);
                    for j in 0..n {
                        let (want, bound) = exact(
                            weights,
                            &x,
                            &held(weights, &w[j * k..][..k], &back[j * k..][..k]),
                        );
                        let error = (f64::from(out[i * n + j]) - want).abs();
                        assert!(error <= bound, "{weights:?} {level:?} [{i}, {j}]");
                    }
                }
            }
        });
    }
}

/// Sums of bytes are exact: the same bits at every level, and the very integers when the scales are 1. Rows are turned back
/// first, so that ±127 are what they are turned to.
#[test]
fn sums_of_bytes_are_exact_at_the_extremes() {
    let (m, k, n) = (7, 1024, 66);
    // ±127 in every pairing of signs, which 16-bit sums of two unsigned times signed bytes would saturate on.
    let sign = |i: usize, j: usize| {
        if (i * 31 + j * 17 + i * j / 3).is_multiple_of(2) {
            127.0
        } else {
            -127.0
        }
    };
    let mut x: Vec<f32> = (0..m * k).map(|i| sign(i / k, i % k)).collect();
    let mut w: Vec<f32> = (0..n * k).map(|i| sign(i % k, i / k)).collect();
    x[..k].fill(127.0);
    x[k..2 * k].fill(-127.0);
    w[..k].fill(127.0);
    w[k..2 * k].fill(-127.0);
    let back =
        |rows: &[f32]| -> Vec<f32> { rows.chunks(k).flat_map(|row| unturned(row, k)).collect() };
    let (from_x, from_w) = (back(&x), back(&w));
    each_dot_level(|level| {
        let out = product(
            Rows::new(&from_x, m, k),
            &packed(Weights::Int8, &from_w, n, k),
        );
        for (at, y) in out.iter().enumerate() {
            let (x, w) = (&x[at / n * k..][..k], &w[at % n * k..][..k]);
            let want: f32 = x
                .iter()
                .zip(w)
                .map(|(x, w)| x * w / 127.0 / 127.0)
                .sum::<f32>()
                * 127.0
                * 127.0;
            assert_eq!(*y, want, "{level:?} [{}, {}]", at / n, at % n);
        }
    });
}

#[test]
fn bytes_give_the_same_bits_at_every_level() {
    let (m, k, n) = (11, 777, 130);
    let (x, w) = (single(&values(m * k, 1)), single(&values(n * k, 2)));
    let mut first: Option<Vec<f32>> = None;
    each_dot_level(|level| {
        let out = product(Rows::new(&x, m, k), &packed(Weights::Int8, &w, n, k));
        assert!(
            *first.get_or_insert_with(|| out.clone()) == out,
            "{level:?}"
        );
    });
}
