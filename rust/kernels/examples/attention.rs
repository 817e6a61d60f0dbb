//! Speed of attention beside the floor of this machine: `cargo run --release -p lmrs-kernels --example attention`.
//!
//! `peak` is the product of one panel that stays in the first caches; a decoding step is held against the bandwidth of
//! reading as many bytes.

use std::hint::black_box;
use std::time::Instant;

use lmrs_kernels::attention::{KvStore, Sequence, Spec, forward};
use lmrs_kernels::linear::{Epilogue, Packed, matmul};
use lmrs_kernels::{Rows, RowsMut, level, team};

/// The shortest of many runs: what the machine can do when nobody else has it.
fn seconds(mut work: impl FnMut()) -> f64 {
    work();
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 1.0 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}

/// GF/s of a product whose operands stay in the first caches, on each thread at once.
fn peak(threads: usize) -> f64 {
    let (m, k, n) = (96, 128, 64);
    let (x, w) = (values(m * k), values(n * k));
    let packed = Packed::new(Rows::new(&w, n, k));
    let repeats = 64;
    let t = seconds(|| {
        team::parallel(threads, |_| {
            let mut out = vec![0.0; m * n];
            for _ in 0..repeats {
                let out = RowsMut::new(&mut out, m, n);
                matmul(
                    Rows::new(black_box(&x), m, k),
                    &packed,
                    out,
                    &Epilogue::default(),
                );
            }
        });
    });
    (2 * m * k * n * repeats * threads) as f64 / t / 1e9
}

/// GB/s of summing `bytes` that are read again and again.
fn bandwidth(bytes: usize, threads: usize) -> f64 {
    let data = values(bytes / 4);
    let part = data.len() / threads;
    let t = seconds(|| {
        team::parallel(threads, |i| {
            let mut sums = [0.0_f32; 64];
            for x in black_box(&data[i * part..(i + 1) * part]).chunks_exact(64) {
                sums.iter_mut().zip(x).for_each(|(s, x)| *s += x);
            }
            black_box(sums);
        });
    });
    bytes as f64 / t / 1e9
}

fn spec(heads: usize, kv_heads: usize, head_dim: usize, causal: bool) -> Spec {
    Spec {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f64).sqrt(),
        causal,
        window: None,
        softcap: None,
        relative: None,
    }
}

fn filled(spec: &Spec, keys: usize) -> KvStore<f32> {
    let width = spec.kv_heads * spec.head_dim;
    let data = values(keys * width);
    let mut store = KvStore::new(spec.kv_heads, spec.head_dim);
    store.append(Rows::new(&data, keys, width), Rows::new(&data, keys, width));
    store
}

fn main() {
    println!("level {:?}, {} threads", level(), team::threads());
    for threads in [1, 2] {
        team::with_threads(threads, || {
            let peak = peak(threads);
            println!("{threads}T peak {peak:.0} GF/s");
            for (keys, heads, kv_heads, head_dim, causal) in [
                (128, 12, 12, 64, false),
                (512, 12, 12, 64, true),
                (512, 12, 12, 64, false),
                (1024, 12, 12, 64, true),
                (2048, 12, 12, 64, true),
                (2048, 12, 12, 64, false),
                (1024, 9, 3, 64, true),
                (128, 12, 12, 32, false),
                (1024, 8, 8, 128, true),
            ] {
                let spec = spec(heads, kv_heads, head_dim, causal);
                let width = heads * head_dim;
                let store = filled(&spec, keys);
                let q = values(keys * width);
                let mut out = vec![0.0; q.len()];
                let t = seconds(|| {
                    let sequence = Sequence {
                        rows: 0..keys,
                        store: &store,
                        first: 0,
                    };
                    let q = Rows::new(&q, keys, width);
                    let out = RowsMut::new(&mut out, keys, width);
                    forward(&spec, q, &[sequence], None, None, out, None);
                });
                let pairs = if causal {
                    keys * (keys + 1) / 2
                } else {
                    keys * keys
                };
                let rate = (4 * pairs * width) as f64 / t / 1e9;
                println!(
                    "{threads}T prefill S {keys} heads {heads}/{kv_heads} hd {head_dim} causal {causal}: {:.2} ms, {rate:.0} GF/s, {:.0} % of peak",
                    t * 1e3,
                    100.0 * rate / peak
                );
            }
            for (keys, heads, kv_heads) in [
                (512, 12, 12),
                (2048, 12, 12),
                (16384, 12, 12),
                (2048, 9, 3),
                (16384, 9, 3),
            ] {
                let spec = spec(heads, kv_heads, 64, true);
                let store = filled(&spec, keys);
                let q = values(heads * 64);
                let mut out = vec![0.0; q.len()];
                let t = seconds(|| {
                    let sequence = Sequence {
                        rows: 0..1,
                        store: &store,
                        first: keys - 1,
                    };
                    let q = Rows::new(&q, 1, heads * 64);
                    let out = RowsMut::new(&mut out, 1, heads * 64);
                    forward(&spec, q, &[sequence], None, None, out, None);
                });
                let bytes = 8 * keys * kv_heads * 64;
                println!(
                    "{threads}T decode S {keys} heads {heads}/{kv_heads}: {:.0} us, {:.0} GB/s; reading as much {:.0} GB/s",
                    t * 1e6,
                    bytes as f64 / t / 1e9,
                    bandwidth(bytes, threads)
                );
            }
        });
    }
}
