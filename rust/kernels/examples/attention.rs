//! Speed of attention beside the floor of this machine: `cargo run --release -p lmrs-kernels --example attention`.
//!
//! `peak` is the product of one panel that stays in the first caches; a decoding step is held against the bandwidth of
//! reading as many bytes.

use std::hint::black_box;
use std::time::Instant;

use lmrs_kernels::attention::{Gradients, KvStore, Saved, Sequence, Spec, backward, forward};
use lmrs_kernels::linear::{Epilogue, Packed, matmul};
use lmrs_kernels::{Rows, RowsMut, level, team};

/// The time this thread has been running, which is not the wall's when others share the machine.
fn running() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(stat.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

/// Seconds of one run: on one thread the mean of its own running time, on several the shortest time by the clock.
fn seconds(mut work: impl FnMut()) -> f64 {
    work();
    let (mut best, mut count) = (f64::INFINITY, 0);
    let (begin, before) = (Instant::now(), running());
    while begin.elapsed().as_secs_f64() < 1.0 {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
        count += 1;
    }
    match (before, running()) {
        (Some(before), Some(after)) if team::threads() == 1 => (after - before) / f64::from(count),
        _ => best,
    }
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

/// Seconds of the backward pass of `sequences` sequences of `length`.
fn gradient(spec: &Spec, sequences: usize, length: usize) -> f64 {
    let (width, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let rows = sequences * length;
    let (q, k, v, dout) = (
        values(rows * width),
        values(rows * kv),
        values(rows * kv),
        values(rows * width),
    );
    let (mut out, mut lse) = (vec![0.0; rows * width], vec![0.0; rows * spec.heads]);
    let starts: Vec<usize> = (0..=sequences).map(|i| i * length).collect();
    for at in starts.windows(2) {
        let mut store = KvStore::new(spec.kv_heads, spec.head_dim);
        let part = |x| Rows::new(x, rows, kv).slice(at[0]..at[1]);
        store.append(part(&k), part(&v));
        let sequence = Sequence {
            rows: at[0]..at[1],
            store: &store,
            first: 0,
        };
        let q = Rows::new(&q, rows, width);
        let out = RowsMut::new(&mut out, rows, width);
        forward(spec, q, &[sequence], None, None, out, Some(&mut lse));
    }
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let saved = Saved {
        q: Rows::new(&q, rows, width),
        k: Rows::new(&k, rows, kv),
        v: Rows::new(&v, rows, kv),
        queries: &starts,
        keys: &starts,
        table: None,
        prefix: None,
        out: Rows::new(&out, rows, width),
        lse: &lse,
    };
    seconds(|| {
        let mut grads = Gradients {
            q: RowsMut::new(&mut dq, rows, width),
            k: RowsMut::new(&mut dk, rows, kv),
            v: RowsMut::new(&mut dv, rows, kv),
            table: None,
            prefix: None,
        };
        backward(spec, &saved, Rows::new(&dout, rows, width), &mut grads);
    })
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
            for (sequences, length, heads, kv_heads) in [
                (4, 256, 12, 12),
                (1, 1024, 12, 12),
                (4, 256, 9, 3),
                (1, 1024, 9, 3),
            ] {
                let spec = spec(heads, kv_heads, 64, true);
                let t = gradient(&spec, sequences, length);
                let pairs = sequences * length * (length + 1) / 2;
                let rate = (10 * pairs * heads * 64) as f64 / t / 1e9;
                println!(
                    "{threads}T backward {sequences} x {length} heads {heads}/{kv_heads}: {:.2} ms, {rate:.0} GF/s, {:.0} % of peak",
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
