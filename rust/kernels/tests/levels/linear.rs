use lmrs_kernels::activation::{Activation, activate};
use lmrs_kernels::linear::{Compute, Epilogue, Onto, Packed, Weights, gradient_weight, matmul};
use lmrs_kernels::{Rows, RowsMut, team};
use proptest::prelude::*;

use crate::{assert_close, each_level, single, values};

fn naive(x: &[f64], w: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            out[i * n + j] = (0..k).map(|l| x[i * k + l] * w[j * k + l]).sum();
        }
    }
    out
}

fn product(x: &[f32], w: &Packed<f32>, m: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * w.outputs()];
    let width = w.outputs();
    matmul(
        Rows::new(x, m, w.inputs()),
        w,
        RowsMut::new(&mut out, m, width),
        &Epilogue::default(),
    );
    out
}

/// A chain of k products rounds at most k times.
fn bound(k: usize) -> f64 {
    (k as f64 + 4.0) * f64::from(f32::EPSILON)
}

proptest! {
    #![proptest_config(lmrs_testing::cases(48))]

    #[test]
    fn matmul_is_the_product(m in 0_usize..40, k in 0_usize..150, n in 0_usize..200, seed in 0_u64..1 << 40) {
        let (x, w) = (values(m * k, seed), values(n * k, seed + 1));
        let want = naive(&x, &w, m, k, n);
        let (x32, w32) = (single(&x), single(&w));
        let transposed: Vec<f32> = (0..k * n).map(|i| w32[i % n * k + i / n]).collect();
        let mut out = vec![f64::NAN; m * n];
        let packed = Packed::new(Rows::new(&w, n, k));
        matmul(Rows::new(&x, m, k), &packed, RowsMut::new(&mut out, m, n), &Epilogue::default());
        prop_assert!(out.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-13));
        let cut = n / 3;
        each_level(|level| {
            let packed = Packed::new(Rows::new(&w32, n, k));
            let out = product(&x32, &packed, m);
            assert_close(&out, &want, bound(k), &format!("{level:?} matmul"));
            assert_eq!(out, product(&x32, &Packed::transposed(Rows::new(&transposed, k, n)), m));
            let w = Rows::new(&w32, n, k);
            assert_eq!(out, product(&x32, &Packed::pack(Weights::F32, &[&w.slice(0..cut), &w.slice(cut..n)]), m));
        });
    }

    #[test]
    fn epilogue_is_bias_activation_scale_sum(m in 1_usize..9, k in 1_usize..40, n in 1_usize..90, seed in 0_u64..1 << 40) {
        let x = single(&values(m * k, seed));
        let w = single(&values(n * k, seed + 1));
        let bias = single(&values(n, seed + 2));
        let residual = single(&values(m * (n + 3), seed + 3));
        each_level(|_| {
            let packed = Packed::new(Rows::new(&w, n, k));
            let mut want = product(&x, &packed, m);
            for row in want.chunks_exact_mut(n) {
                row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
            }
            let biased = want.clone();
            activate(Activation::Gelu, Rows::new(&biased, m, n), RowsMut::new(&mut want, m, n));
            let rows = Rows::strided(&residual, m, n, n + 3);
            let want: Vec<f64> = want
                .iter()
                .enumerate()
                .map(|(i, &y)| f64::from(y) * 0.5 + f64::from(rows.row(i / n)[i % n]))
                .collect();
            let options = |onto| Epilogue { bias: Some(&bias), activation: Some(Activation::Gelu), scale: 0.5, onto };
            let mut out = vec![f32::NAN; m * n];
            matmul(Rows::new(&x, m, k), &packed, RowsMut::new(&mut out, m, n), &options(Onto::Rows(rows)));
            assert_close(&out, &want, 1e-6, "onto rows");
            let mut into = residual.clone();
            matmul(Rows::new(&x, m, k), &packed, RowsMut::strided(&mut into, m, n, n + 3), &options(Onto::Output));
            for i in 0..m {
                assert_eq!(out[i * n..][..n], into[i * (n + 3)..][..n]);
                if i + 1 < m {
                    assert_eq!(into[i * (n + 3) + n..][..3], residual[i * (n + 3) + n..][..3]);
                }
            }
        });
    }

    #[test]
    fn a_row_does_not_depend_on_its_company(m in 1_usize..220, k in 1_usize..300, n in 1_usize..140, seed in 0_u64..1 << 40) {
        let x = single(&values(m * k, seed));
        let w = single(&values(n * k, seed + 1));
        each_level(|level| {
            let packed = Packed::new(Rows::new(&w, n, k));
            let together = product(&x, &packed, m);
            let row = seed as usize % m;
            assert_eq!(together[row * n..][..n], product(&x[row * k..][..k], &packed, 1), "{level:?} alone");
            for threads in [1, 3] {
                assert_eq!(together, team::with_threads(threads, || product(&x, &packed, m)), "{level:?} threads");
            }
        });
    }

    #[test]
    fn gradient_of_the_weight(t in 0_usize..600, o in 0_usize..120, i in 0_usize..90, seed in 0_u64..1 << 40) {
        let (dy, x) = (values(t * o, seed), values(t * i, seed + 1));
        let mut want = vec![0.0; o * i];
        for a in 0..o {
            for b in 0..i {
                want[a * i + b] = (0..t).map(|t| dy[t * o + a] * x[t * i + b]).sum();
            }
        }
        let (dy, x) = (single(&dy), single(&x));
        each_level(|level| {
            let run = || {
                let mut dw = vec![f32::NAN; o * i];
                gradient_weight(Compute::F32, Rows::new(&dy, t, o), Rows::new(&x, t, i), RowsMut::new(&mut dw, o, i));
                dw
            };
            let dw = run();
            assert_close(&dw, &want, bound(t.min(260)), &format!("{level:?} gradient"));
            for threads in [1, 3] {
                assert_eq!(dw, team::with_threads(threads, run));
            }
        });
    }
}

#[test]
fn long_inputs_are_chains_of_256_added_in_order() {
    let (m, k, n) = (7, 2500, 70);
    let (x, w) = (values(m * k, 1), values(n * k, 2));
    let want = naive(&x, &w, m, k, n);
    let (x, w) = (single(&x), single(&w));
    each_level(|level| {
        let packed = Packed::new(Rows::new(&w, n, k));
        let out = product(&x, &packed, m);
        assert_close(&out, &want, bound(256 + k / 256), &format!("{level:?}"));
        if level != lmrs_kernels::Level::Scalar {
            let (x, w) = (&x[3 * k..4 * k], &w[65 * k..66 * k]);
            let chain = |(x, w): (&[f32], &[f32])| {
                let steps = x.iter().zip(w);
                steps.fold(0.0_f32, |sum, (x, w)| x.mul_add(*w, sum))
            };
            let chains = x.chunks(256).zip(w.chunks(256)).map(chain);
            let sum = chains.reduce(|a, b| a + b);
            assert_eq!(sum, Some(out[3 * n + 65]), "{level:?}");
        }
    });
}
