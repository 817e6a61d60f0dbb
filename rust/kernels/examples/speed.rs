//! Speed of the products beside the floor of this machine: `cargo run --release -p lmrs-kernels --example speed`.
//!
//! `peak` is the measured rate of independent fused multiply-adds of the level, `read` the measured bandwidth.

use std::hint::black_box;
use std::time::Instant;

use lmrs_kernels::linear::{Epilogue, Packed, gradient_weight, matmul};
use lmrs_kernels::{Rows, RowsMut, level, team};

/// The best of several runs: on a shared machine the others measure its neighbours.
fn seconds(mut work: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 5 || begin.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}

fn product(m: usize, k: usize, n: usize) -> f64 {
    let (x, w) = (values(m * k), values(n * k));
    let packed = Packed::new(Rows::new(&w, n, k));
    let mut out = vec![0.0; m * n];
    seconds(|| {
        matmul(
            Rows::new(black_box(&x), m, k),
            &packed,
            RowsMut::new(&mut out, m, n),
            &Epilogue::default(),
        );
    })
}

fn main() {
    println!("level {:?}, {} threads", level(), team::threads());
    // One panel of 96 rows that stays in the first caches is the practical peak of the tile.
    for threads in [1, 2] {
        team::with_threads(threads, || {
            for (m, k, n) in [
                (96, 256, 128),
                (1024, 576, 1536),
                (1024, 1536, 576),
                (512, 768, 3072),
                (512, 3072, 768),
                (128, 768, 768),
                (32, 576, 1536),
                (16, 768, 3072),
                (1024, 576, 8),
            ] {
                let t = product(m, k, n);
                println!(
                    "{threads}T matmul {m}x{k}x{n}: {:.1} GF/s",
                    2.0 * (m * k * n) as f64 / t / 1e9
                );
            }
            for (m, k, n) in [
                (1, 576, 49152),
                (1, 4096, 4096),
                (2, 576, 49152),
                (4, 576, 49152),
                (8, 576, 49152),
            ] {
                let t = product(m, k, n);
                println!(
                    "{threads}T matmul {m}x{k}x{n}: {:.1} GB/s of weights, {:.3} ms",
                    (4 * k * n) as f64 / t / 1e9,
                    t * 1e3
                );
            }
            for (t, o, i) in [(1024, 576, 1536), (1024, 8, 576), (512, 3072, 768)] {
                let (dy, x) = (values(t * o), values(t * i));
                let mut dw = vec![0.0; o * i];
                let s = seconds(|| {
                    gradient_weight(
                        Rows::new(&dy, t, o),
                        Rows::new(&x, t, i),
                        RowsMut::new(&mut dw, o, i),
                    )
                });
                println!(
                    "{threads}T gradient {t}x{o}x{i}: {:.1} GF/s",
                    2.0 * (t * o * i) as f64 / s / 1e9
                );
            }
            let w = values(1536 * 576);
            let s = seconds(|| drop(black_box(Packed::new(Rows::new(&w, 1536, 576)))));
            println!(
                "{threads}T pack: {:.1} GB/s",
                (4 * w.len()) as f64 / s / 1e9
            );
        });
    }
}
