//! What rows and weights are rounded to, in plain loops.

use half::bf16;
use lmrs_kernels::linear::Weights;

/// What the input of such weights is rounded to.
pub fn narrowed(weights: Weights, row: &[f32]) -> Vec<f32> {
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
pub fn held(weights: Weights, row: &[f32], back: &[f32]) -> Vec<f32> {
    match weights {
        Weights::Int8 => turned(row).chunks(64).flat_map(byte_weights).collect(),
        _ => back.to_vec(),
    }
}

/// A row in groups of 32, turned as for eight bits.
pub fn turned(row: &[f32]) -> Vec<f32> {
    let mut turned = row.to_vec();
    turned.resize(row.len().next_multiple_of(32), 0.0);
    let sixteenth = turned.len() / 16;
    round(&mut turned, sixteenth);
    for start in blocks(turned.len()) {
        round(&mut turned[start..start + 256], 16);
    }
    turned
}

pub fn unturned(turned: &[f32], length: usize) -> Vec<f32> {
    let mut row = turned.to_vec();
    for start in blocks(row.len()).into_iter().rev() {
        round(&mut row[start..start + 256], 16);
    }
    let sixteenth = row.len() / 16;
    round(&mut row, sixteenth);
    row.truncate(length);
    row
}

pub fn norm(row: &[f32]) -> f64 {
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

pub fn byte_step(group: &[f32]) -> f32 {
    let step = group.iter().fold(0.0, |a: f32, w| a.max(w.abs())) / 127.0;
    let below = bf16::from_bits((step.to_bits() >> 16) as u16);
    if below.to_f32() == step {
        step
    } else {
        bf16::from_bits(below.to_bits() + 1).to_f32()
    }
}
