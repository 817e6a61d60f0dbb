//! Speed of scoring and of the training form beside the bare product of the head:
//! `cargo run --release -p lmrs-logprob --example scoring`.

use std::time::Instant;

use lmrs_kernels::linear::{Compute, Epilogue, Packed, Weight, matmul};
use lmrs_kernels::{Rows, RowsMut, team};
use lmrs_logprob::{Gradients, Head, Trained};

/// Nanoseconds this thread has run, or `None` where the system does not say.
fn cpu_clock() -> Option<f64> {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    line.split(' ').next()?.parse().ok()
}

/// Seconds a run takes: of one thread's CPU clock on average, else the best of several.
fn seconds(mut work: impl FnMut()) -> f64 {
    work();
    let (begin, clock) = (Instant::now(), cpu_clock());
    let (mut best, mut runs) = (f64::INFINITY, 0);
    while runs < 3 || begin.elapsed().as_secs_f64() < 2.0 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    match clock.zip(cpu_clock()) {
        Some((from, to)) if team::threads() == 1 => (to - from) / 1e9 / f64::from(runs),
        _ => best,
    }
}

fn main() {
    let (rows, width, vocabulary) = (512, 576, 49152);
    let value = |i: usize| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5;
    let x: Vec<f32> = (0..rows * width).map(value).collect();
    let w: Vec<f32> = (0..vocabulary * width).map(value).collect();
    let labels: Vec<i32> = (0..rows as i32).map(|t| t * 90).collect();
    let weight = Rows::new(&w, vocabulary, width);
    let packed = Packed::new(weight);
    let trained = Trained {
        compute: Compute::F32,
        weight: Weight::Packed(&packed),
        bias: None,
        softcap: None,
    };
    let head = Head {
        weight: &packed,
        bias: None,
        softcap: None,
    };
    let x = Rows::new(&x, rows, width);
    for threads in [1, 2] {
        team::with_threads(threads, || {
            // The product alone, a few rows at a time so that its result need not go to memory.
            let mut logits = vec![0.0; 96 * vocabulary];
            let bare = seconds(|| {
                for first in (0..rows).step_by(96) {
                    let last = rows.min(first + 96);
                    let out = RowsMut::new(&mut logits, last - first, vocabulary);
                    matmul(x.slice(first..last), &packed, out, &Epilogue::default());
                }
            });
            let mut out = vec![0.0; rows];
            let scoring = seconds(|| head.token_logprob(x, &labels, &mut out));
            let (mut dx, scale) = (vec![0.0; rows * width], vec![1.0 / rows as f32; rows]);
            let mut room = vec![0.0; trained.room(rows)];
            let training = seconds(|| {
                let mut grads = Gradients {
                    x: Some(RowsMut::new(&mut dx, rows, width)),
                    weight: None,
                    bias: None,
                };
                trained.nll_gradients(&mut room, x, &labels, &scale, &mut out, &mut grads);
            });
            let flops = (2 * rows * width * vocabulary) as f64;
            println!(
                "{threads}T bare product {:.0} GF/s, {:.0} tokens/s; scoring {:.0} tokens/s, {:.2} of bare; loss and dx {:.0} tokens/s, {:.2} of two products",
                flops / bare / 1e9,
                rows as f64 / bare,
                rows as f64 / scoring,
                bare / scoring,
                rows as f64 / training,
                2.0 * bare / training,
            );
        });
    }
}
