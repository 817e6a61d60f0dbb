//! Products with narrow weights, against 64-bit products of the numbers they were rounded to.

use half::bf16;
use lmrs_kernels::linear::{
    Decoded, Epilogue, Onto, Packed, Product, Tile, Weights, fold, matmul, matmuls, pick,
};
use lmrs_kernels::{Rows, RowsMut, team};
use proptest::prelude::*;

use crate::{each_dot_level, single, values};

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

/// What the input of such weights is rounded to.
fn narrowed(weights: Weights, row: &[f32]) -> Vec<f32> {
    match weights {
        Weights::F32 => row.to_vec(),
        Weights::Bf16 => row.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        Weights::Int8 => bytes(&turned(row)),
        Weights::Int4 => row.chunks(32).flat_map(bytes).collect(),
    }
}

/// Sixteen numbers `stride` apart times the Hadamard matrix, for each of the first `stride`.
fn round(row: &mut [f32], stride: usize) {
    for first in 0..stride {
        let mut v: [f32; 16] = std::array::from_fn(|i| 0.25 * row[i * stride + first]);
        for half in [1, 2, 4, 8] {
            for i in (0..16).filter(|i| i & half == 0) {
                (v[i], v[i + half]) = (v[i] + v[i + half], v[i] - v[i + half]);
            }
        }
        (0..16).for_each(|i| row[i * stride + first] = v[i]);
    }
}

/// Where blocks of 256 start that cover a row: the last may begin inside the one before.
fn blocks(length: usize) -> Vec<usize> {
    let mut starts: Vec<usize> = (0..length / 256).map(|block| block * 256).collect();
    if length > 256 && !length.is_multiple_of(256) {
        starts.push(length - 256);
    }
    starts
}

/// The weights that `row` became, which `back` was read from: of eight bits, before they are turned back.
fn held(weights: Weights, row: &[f32], back: &[f32]) -> Vec<f32> {
    match weights {
        Weights::Int8 => turned(row).chunks(64).flat_map(byte_weights).collect(),
        _ => back.to_vec(),
    }
}

/// A row in groups of 32, turned as for eight bits.
fn turned(row: &[f32]) -> Vec<f32> {
    let mut turned = row.to_vec();
    turned.resize(row.len().next_multiple_of(32), 0.0);
    let sixteenth = turned.len() / 16;
    round(&mut turned, sixteenth);
    for start in blocks(turned.len()) {
        round(&mut turned[start..start + 256], 16);
    }
    turned
}

fn unturned(turned: &[f32], length: usize) -> Vec<f32> {
    let mut row = turned.to_vec();
    for start in blocks(row.len()).into_iter().rev() {
        round(&mut row[start..start + 256], 16);
    }
    let sixteenth = row.len() / 16;
    round(&mut row, sixteenth);
    row.truncate(length);
    row
}

fn norm(row: &[f32]) -> f64 {
    row.iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// Each number as the nearest multiple of the largest magnitude over 127.
fn bytes(row: &[f32]) -> Vec<f32> {
    let largest = row.iter().fold(0.0, |a, x| x.abs().max(a));
    let (scale, inverse) = (largest / 127.0, 127.0 / largest);
    if largest == 0.0 {
        return row.to_vec();
    }
    row.iter()
        .map(|x| (x * inverse).round_ties_even() * scale)
        .collect()
}

/// A group of weights as the nearest multiples of a scale in bfloat16, the least that makes none exceed 127.
fn byte_weights(group: &[f32]) -> Vec<f32> {
    let step = byte_step(group);
    if step == 0.0 {
        return vec![0.0; group.len()];
    }
    let inverse = 1.0 / step;
    let nearest = |w: &f32| (w * inverse).round_ties_even() * step;
    group.iter().map(nearest).collect()
}

fn byte_step(group: &[f32]) -> f32 {
    let step = group.iter().fold(0.0, |a: f32, w| a.max(w.abs())) / 127.0;
    let below = bf16::from_bits((step.to_bits() >> 16) as u16);
    if below.to_f32() == step {
        step
    } else {
        bf16::from_bits(below.to_bits() + 1).to_f32()
    }
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

    #[test]
    fn rounded_weights_are_near(k in 0_usize..150, n in 1_usize..100, scale in -20_i32..15, seed in 0_u64..1 << 40) {
        let scale = f64::from(scale).exp2();
        let w: Vec<f32> = values(n * k, seed).iter().map(|w| (w * scale) as f32).collect();
        for weights in NARROW {
            let back = read_back(&packed(weights, &w, n, k));
            for (w, back) in w.chunks(k.max(1)).zip(back.chunks(k.max(1))) {
                let off: Vec<f32> = w.iter().zip(back).map(|(w, back)| w - back).collect();
                match weights {
                    Weights::F32 => prop_assert_eq!(w, back),
                    Weights::Bf16 => prop_assert!(off.iter().zip(w).all(|(off, w)| off.abs() <= w.abs() / 256.0)),
                    // Half a step each, and turning keeps norms but for rounding.
                    Weights::Int8 => {
                        let turned = turned(w);
                        let square = |group: &[f32]| f64::from(byte_step(group)).powi(2) * group.len() as f64;
                        let steps = turned.chunks(64).map(square).sum::<f64>().sqrt();
                        let most = 0.5001 * steps + 1e-6 * norm(w);
                        prop_assert!(norm(&off) <= most, "{} > {most}", norm(&off));
                    }
                    // Half a step each of the plainest grid, if its ends were not rounded; they are multiples of 2⁻²⁴.
                    Weights::Int4 => for (off, w) in off.chunks(32).zip(w.chunks(32)) {
                        let (least, most) = w.iter().fold((f32::MAX, f32::MIN), |(a, b), &w| (a.min(w), b.max(w)));
                        let step = f64::from(most - least) / 15.0;
                        let ends = f64::from(least.abs().max(most.abs())) / 1024.0 + (-20.0_f64).exp2();
                        let most = (0.5 * step + ends) * (w.len() as f64).sqrt();
                        prop_assert!(norm(off) <= most, "{} > {most}", norm(off));
                    }
                }
            }
        }
    }

    #[test]
    fn a_narrow_row_does_not_depend_on_its_company(m in 1_usize..220, k in 1_usize..300, n in 1_usize..140, seed in 0_u64..1 << 40) {
        let x = single(&values(m * k, seed));
        let w = single(&values(n * k, seed + 1));
        let (first, rest) = (Rows::new(&w, n / 3, k), Rows::new(&w[n / 3 * k..], n - n / 3, k));
        let all = Rows::new(&w, n, k);
        let decoded = Decoded { outputs: n, inputs: k, decode: |n: usize, row: &mut [f32]| row.copy_from_slice(all.row(n)) };
        for weights in NARROW {
            each_dot_level(|level| {
                let packed = packed(weights, &w, n, k);
                let rows = Rows::new(&x, m, k);
                let together = product(rows, &packed);
                let row = seed as usize % m;
                assert_eq!(together[row * n..][..n], product(rows.slice(row..row + 1), &packed), "{weights:?} {level:?} alone");
                for threads in [1, 3] {
                    assert_eq!(together, team::with_threads(threads, || product(rows, &packed)), "{weights:?} {level:?} threads");
                }
                assert_eq!(together, product(rows, &Packed::pack(weights, &[&first, &rest])), "{weights:?} {level:?} stacked");
                assert_eq!(together, product(rows, &Packed::pack(weights, &[&decoded])), "{weights:?} {level:?} decoded");
            });
        }
    }
}

/// Every number of rows up to 512, in one product, gives the rows of the largest.
#[test]
fn any_number_of_rows_gives_the_same_rows() {
    let (most, k, n) = (512, 70, 96);
    let (x, w) = (single(&values(most * k, 1)), single(&values(n * k, 2)));
    for weights in [Weights::F32].into_iter().chain(NARROW) {
        each_dot_level(|level| {
            let packed = packed(weights, &w, n, k);
            let all = product(Rows::new(&x, most, k), &packed);
            for m in (1..most).step_by(if level == lmrs_kernels::Level::Scalar {
                37
            } else {
                1
            }) {
                let first = seed_of(m) % (most - m);
                let some = product(Rows::new(&x[first * k..], m, k), &packed);
                assert!(
                    some == all[first * n..][..m * n],
                    "{weights:?} {level:?} {m} rows"
                );
            }
            for threads in 1..=8 {
                let again =
                    team::with_threads(threads, || product(Rows::new(&x, most, k), &packed));
                assert!(again == all, "{weights:?} {level:?} {threads} threads");
            }
        });
    }
}

fn seed_of(m: usize) -> usize {
    m.wrapping_mul(2_654_435_761) >> 7
}

/// One region of products of every type, some with the same input, gives what each gives alone; so does a fold.
#[test]
fn products_of_all_types_mix() {
    let (m, k, n) = (37, 100, 150);
    let (x, other, w) = (
        single(&values(m * k, 1)),
        single(&values(m * k, 2)),
        single(&values(n * k, 3)),
    );
    let bias = single(&values(n, 4));
    each_dot_level(|level| {
        let all: Vec<Packed<f32>> = [Weights::F32]
            .into_iter()
            .chain(NARROW)
            .map(|weights| packed(weights, &w, n, k))
            .collect();
        let inputs = [
            Rows::new(&x, m, k),
            Rows::new(&other, m, k),
            Rows::new(&x, m, k),
        ];
        let epilogue = Epilogue {
            bias: Some(&bias),
            scale: 0.5,
            onto: Onto::Output,
            ..Epilogue::default()
        };
        let mut outs = vec![vec![1.0; m * n]; inputs.len() * all.len()];
        let products = outs.iter_mut().enumerate().map(|(i, out)| Product {
            x: inputs[i % inputs.len()],
            weight: &all[i / inputs.len()],
            out: RowsMut::new(out, m, n),
            epilogue,
        });
        matmuls(products);
        for (i, out) in outs.iter().enumerate() {
            let (x, weight) = (inputs[i % inputs.len()], &all[i / inputs.len()]);
            let mut alone = vec![1.0; m * n];
            matmul(x, weight, RowsMut::new(&mut alone, m, n), &epilogue);
            assert_eq!(out, &alone, "{:?} {level:?}", weight.weights());
        }
        for weight in &all {
            let mut states = vec![Vec::new(); m];
            let step = |states: &mut [Vec<f32>], tile: Tile<f32>| {
                for (i, state) in states.iter_mut().enumerate() {
                    assert_eq!(state.len(), tile.first_column);
                    state.extend_from_slice(tile.values.row(i));
                }
            };
            fold(inputs[0], weight, None, 0..n, 192, &mut states, step);
            assert_eq!(
                states.concat(),
                product(inputs[0], weight),
                "{level:?} fold"
            );
            let columns: Vec<usize> = (0..m).map(|row| row * 41 % n).collect();
            let (mut picked, whole) = (vec![0.0; m], product(inputs[0], weight));
            pick(inputs[0], weight, None, &columns, &mut picked);
            let there = columns
                .iter()
                .enumerate()
                .map(|(row, at)| whole[row * n + at]);
            assert_eq!(picked, there.collect::<Vec<_>>(), "{level:?} pick");
        }
    });
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

/// Weights that lie on a grid of four bits, as those of a file with such blocks do, are kept exactly.
#[test]
fn weights_on_a_grid_of_four_bits_are_kept() {
    let (n, k) = (70, 96);
    let noise = values(n * k, 7);
    let of = |value: f64| half::f16::from_f64(value).to_f32();
    let w: Vec<f32> = noise
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let (scale, least) = (
                of(0.01 + (i / 32 % 9) as f64 * 0.003),
                of(-0.1 * (i / 32 % 5) as f64),
            );
            let q = match i % 32 {
                5 => 0.0,
                9 => 15.0,
                _ => (v.abs() * 15.99).trunc().min(15.0),
            };
            q as f32 * scale + least
        })
        .collect();
    assert_eq!(w, read_back(&packed(Weights::Int4, &w, n, k)));
}

/// The chosen grid is never worse than that from the least to the largest.
#[test]
fn grids_of_four_bits_have_less_error_than_the_plain_one() {
    let (n, k) = (100, 320);
    let w = single(
        &values(n * k, 3)
            .chunks(4)
            .flat_map(|v| [v.iter().sum::<f64>(); 1].repeat(4))
            .collect::<Vec<_>>(),
    );
    let w: Vec<f32> = w
        .iter()
        .zip(values(n * k, 4))
        .map(|(a, b)| a + b as f32)
        .collect();
    let back = read_back(&packed(Weights::Int4, &w, n, k));
    let (mut ours, mut plain) = (0.0, 0.0);
    for (w, back) in w.chunks(32).zip(back.chunks(32)) {
        let (least, most) = w
            .iter()
            .fold((f32::MAX, f32::MIN), |(a, b), &w| (a.min(w), b.max(w)));
        let scale = half::f16::from_f32((most - least) / 15.0).to_f32();
        let least = half::f16::from_f32(least).to_f32();
        let square = |error: f32| f64::from(error).powi(2);
        let group: f64 = w.iter().zip(back).map(|(w, back)| square(w - back)).sum();
        let simple: f64 = w
            .iter()
            .map(|w| {
                square(
                    w - (((w - least) / scale).round_ties_even().clamp(0.0, 15.0) * scale + least),
                )
            })
            .sum();
        assert!(group <= simple * (1.0 + 1e-5), "{group} > {simple}");
        (ours, plain) = (ours + group, plain + simple);
    }
    assert!(ours < 0.9 * plain, "{ours} is not much less than {plain}");
}
