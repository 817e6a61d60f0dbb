//! How far what panels hold is from what they were given.

use lmrs_kernels::linear::Weights;
use proptest::prelude::*;

use super::reference::{byte_step, norm, turned};
use super::{NARROW, packed, read_back};
use crate::{single, values};

proptest! {
    #![proptest_config(lmrs_testing::cases(32))]

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
