//! Every kernel at every instruction set this CPU has, on random shapes, against plain 64-bit loops.
//!
//! Backward kernels are also checked against central differences in `f64`, and what is promised bit for bit (any rows
//! together, any number of threads) is compared with `==`.

mod activation;
mod adamw;
mod attention;
mod elementwise;
mod linear;
mod narrow;
mod norm;
mod team;
mod weight;

use lmrs_kernels::Level;
use lmrs_kernels::simd::with_level;

/// Calls `body` once for every kind of vector this CPU has.
fn each_level(mut body: impl FnMut(Level)) {
    each_dot_level(|level| {
        if level == level.vectors() {
            body(level);
        }
    });
}

/// Calls `body` once for every level this CPU can run, those that differ in products of narrow numbers too.
fn each_dot_level(mut body: impl FnMut(Level)) {
    for level in Level::ALL.into_iter().filter(|level| level.available()) {
        with_level(level, || body(level));
    }
}

/// Reproducible values in `[-1, 1)`.
fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
        .map(|v| f64::from(v as f32))
        .collect()
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// Asserts `|got − want| ≤ bound · max(1, |want|)` everywhere.
#[track_caller]
fn assert_close(got: &[f32], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs() / w.abs().max(1.0);
        assert!(
            error <= bound,
            "{what}: [{i}] is {g}, expected {w}: error {error:e} > {bound:e}"
        );
    }
}

/// Asserts that `gradient` is the derivative of `f` at `at`, by central differences.
#[track_caller]
fn assert_gradient(f: impl Fn(&[f64]) -> f64, at: &[f64], gradient: &[f64], what: &str) {
    assert_eq!(at.len(), gradient.len(), "{what}");
    let step = 1e-5;
    let mut point = at.to_vec();
    for i in 0..at.len() {
        point[i] = at[i] + step;
        let above = f(&point);
        point[i] = at[i] - step;
        let below = f(&point);
        point[i] = at[i];
        let slope = (above - below) / (2.0 * step);
        let error = (slope - gradient[i]).abs() / slope.abs().max(1.0);
        assert!(
            error <= 1e-7,
            "{what}: d[{i}] is {}, differences give {slope}",
            gradient[i]
        );
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
