//! A row does not depend on the rows beside it, on threads, nor on the products of its region.

use lmrs_kernels::linear::{
    Decoded, Epilogue, Onto, Packed, Product, Tile, Weights, fold, matmul, matmuls, pick,
};
use lmrs_kernels::{Rows, RowsMut, team};
use proptest::prelude::*;

use super::{NARROW, packed, product};
use crate::{each_dot_level, single, values};

proptest! {
    #![proptest_config(lmrs_testing::cases(32))]

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
