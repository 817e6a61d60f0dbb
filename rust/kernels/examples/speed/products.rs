//! Products: of all types of weights, of few rows and of many, the head's, and gradients.

use std::hint::black_box;

use lmrs_kernels::linear::{
    Compute, Epilogue, Packed, Weight, Weights, apply, fold, gradient_input, gradient_weight,
    matmul,
};
use lmrs_kernels::softmax::{CHUNK, ExpSum};
use lmrs_kernels::{Rows, RowsMut};

use crate::{Report, values};

const ALL: [Weights; 4] = [Weights::F32, Weights::Bf16, Weights::Int8, Weights::Int4];

pub fn report(report: &Report) {
    matmuls(report);
    decode(report);
    head(report);
    weights(report);
}

/// Products with each type of weights, their input's rounding and quantising included.
fn matmuls(report: &Report) {
    let plain = Epilogue::default();
    let shapes = [
        (96, 256, 128),
        (1024, 1024, 1024),
        (1024, 576, 1536),
        (1024, 1536, 576),
        (1024, 576, 576),
        (512, 768, 3072),
        (512, 3072, 768),
        (128, 768, 3072),
        (128, 768, 768),
        (128, 384, 1536),
        (32, 576, 1536),
        (16, 768, 3072),
    ];
    for (m, k, n) in shapes {
        let (x, w, mut out) = (values(m * k), values(n * k), vec![0.0; m * n]);
        for weights in ALL {
            let name = format!("matmul {weights:?} {m}x{k}x{n}");
            if !report.wants(&name) {
                continue;
            }
            let packed = Packed::pack(weights, &[&Rows::new(&w, n, k)]);
            let floor = report.peak(weights);
            report.line(&name, (2 * m * k * n) as f64, "GF/s", floor, || {
                let to = RowsMut::new(&mut out, m, n);
                matmul(Rows::new(&x, m, k), &packed, to, &plain);
            });
        }
    }
    for (m, k, n) in [(1024, 576, 8), (1024, 8, 576)] {
        let (x, w, mut out) = (values(m * k), values(n * k), vec![0.0; m * n]);
        let packed = Packed::new(Rows::new(&w, n, k));
        report.flops(&format!("matmul {m}x{k}x{n}"), 2 * m * k * n, || {
            let to = RowsMut::new(&mut out, m, n);
            matmul(Rows::new(&x, m, k), &packed, to, &plain);
        });
    }
}

/// Few rows with more weights than the caches hold, whatever the type.
fn decode(report: &Report) {
    let plain = Epilogue::default();
    let (k, n) = (1024, 1 << 17);
    let w = values(n * k);
    for weights in ALL {
        let name = |m: usize| format!("decode {weights:?} {m}x{k}x{n}");
        let wanted = [1, 2, 4, 8].into_iter().filter(|&m| report.wants(&name(m)));
        let mut packed = None;
        for m in wanted {
            let packed =
                packed.get_or_insert_with(|| Packed::pack(weights, &[&Rows::new(&w, n, k)]));
            let (x, mut out) = (values(m * k), vec![0.0; m * n]);
            report.bytes(&name(m), packed.bytes(), || {
                let to = RowsMut::new(&mut out, m, n);
                matmul(Rows::new(&x, m, k), packed, to, &plain);
            });
        }
    }
}

/// The log-sum-exp of logits that are not stored.
fn head(report: &Report) {
    let (k, n) = (576, 49152);
    let w = values(n * k);
    let packed = Packed::new(Rows::new(&w, n, k));
    for m in [32, 512] {
        let x = values(m * k);
        let mut states = vec![ExpSum::default(); n.div_ceil(CHUNK) * m];
        report.flops(&format!("head log-prob {m}x{k}x{n}"), 2 * m * k * n, || {
            fold(
                Rows::new(&x, m, k),
                &packed,
                None,
                0..n,
                CHUNK,
                &mut states,
                |states, tile| {
                    states
                        .iter_mut()
                        .enumerate()
                        .for_each(|(i, state)| state.add(tile.values.row(i)));
                },
            );
        });
    }
}

/// The three products of a weight in training, which take it as it lies, and packing it.
fn weights(report: &Report) {
    for (t, o, i) in [
        (1024, 576, 1536),
        (1024, 8, 576),
        (1024, 3072, 768),
        (256, 50257, 768),
    ] {
        let (dy, x, w) = (values(t * o), values(t * i), values(o * i));
        let (mut y, mut dx, mut dw) = (vec![0.0; t * o], vec![0.0; t * i], vec![0.0; o * i]);
        let (dy, x) = (Rows::new(&dy, t, o), Rows::new(&x, t, i));
        let weight = Weight::Plain(Rows::new(&w, o, i));
        for (compute, weights) in [(Compute::F32, Weights::F32), (Compute::Bf16, Weights::Bf16)] {
            let product = |what: &str, run: &mut dyn FnMut()| {
                let name = format!("{what} {t}x{o}x{i} {compute:?}");
                let peak = report.peak(weights);
                report.line(&name, (2 * t * o * i) as f64, "GF/s", peak, run);
            };
            product("through a weight", &mut || {
                apply(compute, x, weight, None, RowsMut::new(&mut y, t, o));
            });
            product("back through it", &mut || {
                gradient_input(compute, dy, weight, RowsMut::new(&mut dx, t, i));
            });
            product("weight gradient", &mut || {
                gradient_weight(compute, dy, x, RowsMut::new(&mut dw, o, i));
            });
        }
    }
    let (o, i) = (1536, 576);
    let w = values(o * i);
    for weights in ALL {
        report.bytes(&format!("pack {weights:?}"), 4 * o * i, || {
            drop(black_box(Packed::pack(weights, &[&Rows::new(&w, o, i)])));
        });
    }
    report.bytes("pack transposed", 4 * o * i, || {
        drop(black_box(Packed::transposed(Rows::new(&w, o, i))));
    });
}
