use lmrs_kernels::dropout::{Key, dropout};
use lmrs_kernels::pool::{Pool, pool, pool_backward};
use lmrs_kernels::rope::{rope, rope_backward};
use lmrs_kernels::{Real, Rows, RowsMut, elementwise, embed, team};
use proptest::prelude::*;

use crate::{assert_close, assert_gradient, dot, each_level, single, values};

proptest! {
    #![proptest_config(lmrs_testing::cases(64))]

    #[test]
    fn sums_products_and_reductions(rows in 0_usize..150, width in 0_usize..90, seed in 0_u64..1 << 40) {
        let (x, y) = (values(rows * width, seed), values(rows * width, seed + 1));
        let row = values(width, seed + 2);
        let (x32, y32, row32) = (single(&x), single(&y), single(&row));
        let zip = |f: fn(f64, f64) -> f64| -> Vec<f64> { x.iter().zip(&y).map(|(&x, &y)| f(x, y)).collect() };
        let column = |f: fn(f64, f64) -> f64| -> Vec<f64> {
            (0..width).map(|j| (0..rows).map(|i| f(x[i * width + j], y[i * width + j])).sum()).collect()
        };
        each_level(|level| {
            let what = format!("{level:?}");
            let (a, b) = (Rows::new(&x32, rows, width), Rows::new(&y32, rows, width));
            let mut out = vec![0.0; rows * width];
            elementwise::add(a, b, RowsMut::new(&mut out, rows, width));
            assert_close(&out, &zip(|x, y| x + y), 1e-7, &what);
            elementwise::mul(a, b, RowsMut::new(&mut out, rows, width));
            assert_close(&out, &zip(|x, y| x * y), 1e-7, &what);
            elementwise::scale(a, 3.0, RowsMut::new(&mut out, rows, width));
            assert_close(&out, &zip(|x, _| 3.0 * x), 1e-7, &what);
            elementwise::copy(b, RowsMut::new(&mut out, rows, width));
            elementwise::add_scaled(a, -2.0, RowsMut::new(&mut out, rows, width));
            assert_close(&out, &zip(|x, y| y - 2.0 * x), 2e-7, &what);
            elementwise::add(a, Rows::broadcast(&row32, rows), RowsMut::new(&mut out, rows, width));
            let want: Vec<f64> = x.iter().enumerate().map(|(i, x)| x + row[i % width]).collect();
            assert_close(&out, &want, 1e-7, &what);
            let mut sums = vec![0.0; width];
            elementwise::sum_rows(a, &mut sums);
            assert_close(&sums, &column(|x, _| x), 1e-5, &what);
            elementwise::sum_rows_of_product(a, b, &mut sums);
            assert_close(&sums, &column(|x, y| x * y), 1e-5, &what);
            assert_close(&[elementwise::sum(a)], &[x.iter().sum()], 1e-6, &what);
        });
    }

    #[test]
    fn strided_rows_leave_their_neighbours(rows in 1_usize..20, width in 1_usize..70, gap in 1_usize..9, seed in 0_u64..1 << 40) {
        let stride = width + gap;
        let x = single(&values(rows * stride, seed));
        each_level(|_| {
            let mut out = vec![7.0; rows * stride];
            elementwise::scale(Rows::strided(&x, rows, width, stride), 2.0, RowsMut::strided(&mut out, rows, width, stride));
            for (i, (&y, &x)) in out.iter().zip(&x).enumerate() {
                assert_eq!(y, if i % stride < width { 2.0 * x } else { 7.0 });
            }
        });
    }

    #[test]
    fn embedding(vocabulary in 1_usize..12, width in 0_usize..80, ids in prop::collection::vec(0_i32..1000, 0..30), seed in 0_u64..1 << 40) {
        let ids: Vec<i32> = ids.iter().map(|id| id % vocabulary as i32).collect();
        let table = single(&values(vocabulary * width, seed));
        let mut out = vec![0.0; ids.len() * width];
        embed::gather(Rows::new(&table, vocabulary, width), &ids, RowsMut::new(&mut out, ids.len(), width));
        let want: Vec<f32> = ids.iter().flat_map(|&id| table[id as usize * width..][..width].to_vec()).collect();
        assert_eq!(out, want);
        let mut gradient = table.clone();
        for (i, &id) in ids.iter().enumerate() {
            (0..width).for_each(|j| gradient[id as usize * width + j] += out[i * width + j]);
        }
        for threads in [1, 3] {
            let mut got = table.clone();
            team::with_threads(threads, || {
                embed::scatter_add(Rows::new(&out, ids.len(), width), &ids, RowsMut::new(&mut got, vocabulary, width));
            });
            assert_eq!(got, gradient);
        }
    }

    #[test]
    fn rotation(rows in 0_usize..6, heads in 1_usize..4, half in 0_usize..20, rest in 0_usize..5, seed in 0_u64..1 << 40) {
        let head_dim = (2 * half + rest).max(1);
        let width = heads * head_dim;
        let x = values(rows * width, seed);
        let positions: Vec<i32> = (0..rows).map(|i| (seed % 1000) as i32 + 3 * i as i32).collect();
        let frequencies: Vec<f64> = (0..half).map(|p| f64::from(10000_f32.powf(-(p as f32) / half as f32))).collect();
        let mut want = x.clone();
        for (i, &position) in positions.iter().enumerate() {
            for h in 0..heads {
                for (p, &frequency) in frequencies.iter().enumerate() {
                    let (a, b) = (i * width + h * head_dim + p, i * width + h * head_dim + p + half);
                    let (sin, cos) = (f64::from(position as f32 * frequency as f32)).sin_cos();
                    want[a] = 1.5 * (x[a] * cos - x[b] * sin);
                    want[b] = 1.5 * (x[b] * cos + x[a] * sin);
                }
            }
        }
        each_level(|level| {
            let mut out = vec![0.0; rows * width];
            rope(Rows::new(&single(&x), rows, width), &positions, &single(&frequencies), head_dim, 1.5, RowsMut::new(&mut out, rows, width));
            assert_close(&out, &want, 5e-7, &format!("{level:?}"));
        });
        let forward = |x: &[f64]| {
            let mut out = vec![0.0; rows * width];
            rope(Rows::new(x, rows, width), &positions, &frequencies, head_dim, 1.5, RowsMut::new(&mut out, rows, width));
            out
        };
        let dy = values(rows * width, seed + 1);
        let mut dx = vec![0.0; rows * width];
        rope_backward(Rows::new(&dy, rows, width), &positions, &frequencies, head_dim, 1.5, RowsMut::new(&mut dx, rows, width));
        assert_gradient(|x| dot(&forward(x), &dy), &x, &dx, "rope");
    }

    #[test]
    fn pooling(lengths in prop::collection::vec(0_usize..5, 0..6), width in 0_usize..9, seed in 0_u64..1 << 40) {
        let starts: Vec<usize> = std::iter::once(0).chain(lengths.iter().scan(0, |s, l| { *s += l; Some(*s) })).collect();
        let rows = starts[lengths.len()];
        let x = values(rows * width, seed);
        let dy = values(lengths.len() * width, seed + 1);
        for kind in [Pool::Mean, Pool::First, Pool::Last, Pool::Max] {
            let forward = |x: &[f64]| {
                let mut out = vec![f64::NAN; lengths.len() * width];
                pool(kind, Rows::new(x, rows, width), &starts, RowsMut::new(&mut out, lengths.len(), width));
                out
            };
            let out = forward(&x);
            for (s, bounds) in starts.windows(2).enumerate() {
                for j in 0..width {
                    let column: Vec<f64> = (bounds[0]..bounds[1]).map(|i| x[i * width + j]).collect();
                    let want = match kind {
                        _ if column.is_empty() => 0.0,
                        Pool::Mean => column.iter().sum::<f64>() / column.len() as f64,
                        Pool::First => column[0],
                        Pool::Last => column[column.len() - 1],
                        Pool::Max => column.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    };
                    assert!((out[s * width + j] - want).abs() < 1e-15);
                }
            }
            let mut dx = vec![f64::NAN; rows * width];
            pool_backward(kind, Rows::new(&x, rows, width), &starts, Rows::new(&dy, lengths.len(), width), RowsMut::new(&mut dx, rows, width));
            assert_gradient(|x| dot(&forward(x), &dy), &x, &dx, &format!("{kind:?}"));
        }
    }
}

#[test]
fn dropout_keeps_the_expected_share_and_scales_it() {
    let (rows, width) = (100, 1003);
    let x = vec![1.0_f32; rows * width];
    let key = Key {
        seed: 3,
        step: 5,
        site: 7,
    };
    let run = |x: &[f32], rows: usize, key| {
        let mut out = vec![0.0; x.len()];
        dropout(
            Rows::new(x, rows, width),
            0.25,
            key,
            RowsMut::new(&mut out, rows, width),
        );
        out
    };
    let out = run(&x, rows, key);
    assert!(out.iter().all(|&y| y == 0.0 || y == f32::of(1.0 / 0.75)));
    let kept = out.iter().filter(|&&y| y != 0.0).count() as f64 / out.len() as f64;
    assert!((kept - 0.75).abs() < 0.005, "{kept}");
    assert_eq!(out, team::with_threads(3, || run(&x, rows, key)));
    for other in [
        Key { seed: 4, ..key },
        Key { step: 6, ..key },
        Key { site: 8, ..key },
    ] {
        assert_ne!(out, run(&x, rows, other));
    }
}
