//! Against plain 64-bit loops and central differences, at every instruction set.

use lmrs_kernels::linear::{Compute, Packed};
use lmrs_kernels::simd::with_level;
use lmrs_kernels::{Level, Real, Rows, RowsMut, team};
use lmrs_lowrank::{Gradients, Group, LowRank, Trained, add_each, merge, svd, unmerge};
use proptest::prelude::*;

fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f64::from((state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0)
    };
    (0..n).map(|_| next()).collect()
}

fn of<F: Real>(values: &[f64]) -> Vec<F> {
    values.iter().map(|&v| F::of(v)).collect()
}

const SCALE: f64 = 0.75;

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    rank: usize,
    seed: u64,
}

fn cases(largest: usize) -> impl Strategy<Value = Case> {
    (
        0..largest,
        1..largest,
        1..largest,
        1_usize..20,
        0_u64..1 << 40,
    )
        .prop_map(|(rows, inputs, outputs, rank, seed)| Case {
            rows,
            inputs,
            outputs,
            rank,
            seed,
        })
}

impl Case {
    fn x(&self) -> Vec<f64> {
        values(self.rows * self.inputs, self.seed)
    }

    fn a(&self) -> Vec<f64> {
        values(self.rank * self.inputs, self.seed + 1)
    }

    fn b(&self) -> Vec<f64> {
        values(self.outputs * self.rank, self.seed + 2)
    }

    fn y(&self) -> Vec<f64> {
        values(self.rows * self.outputs, self.seed + 3)
    }
}

/// `y + scale·x·Aᵀ·Bᵀ`.
fn naive(case: &Case, x: &[f64], a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut y = case.y();
    for t in 0..case.rows {
        for r in 0..case.rank {
            let down: f64 = (0..case.inputs)
                .map(|k| x[t * case.inputs + k] * a[r * case.inputs + k])
                .sum();
            for o in 0..case.outputs {
                y[t * case.outputs + o] += SCALE * down * b[o * case.rank + r];
            }
        }
    }
    y
}

/// The result and `x·Aᵀ`.
fn forward<F: Real>(case: &Case) -> (Vec<F>, Vec<F>) {
    let (x, a, b, base) = (
        of(&case.x()),
        of(&case.a()),
        of(&case.b()),
        of::<F>(&case.y()),
    );
    let pair = LowRank {
        a: &Packed::new(Rows::new(&a, case.rank, case.inputs)),
        b: &Packed::new(Rows::new(&b, case.outputs, case.rank)),
        scale: F::of(SCALE),
    };
    let mut y = vec![F::of(f64::NAN); base.len()];
    let out = RowsMut::new(&mut y, case.rows, case.outputs);
    let base = Rows::new(&base, case.rows, case.outputs);
    let down = pair.add(Rows::new(&x, case.rows, case.inputs), base, out);
    (y, down)
}

fn backward<F: Real>(case: &Case, dy: &[f64]) -> [Vec<F>; 3] {
    let (x, a, b) = (of::<F>(&case.x()), of::<F>(&case.a()), of::<F>(&case.b()));
    let dy = of::<F>(dy);
    let mut grads = [&x, &a, &b].map(|part| vec![F::of(f64::NAN); part.len()]);
    let [dx, da, db] = &mut grads;
    let into = Gradients {
        x: Some(RowsMut::new(dx, case.rows, case.inputs)),
        a: Some(RowsMut::new(da, case.rank, case.inputs)),
        b: Some(RowsMut::new(db, case.outputs, case.rank)),
    };
    let pair = Trained {
        compute: Compute::F32,
        a: Rows::new(&a, case.rank, case.inputs),
        b: Rows::new(&b, case.outputs, case.rank),
        scale: F::of(SCALE),
    };
    let (x, dy) = (
        Rows::new(&x, case.rows, case.inputs),
        Rows::new(&dy, case.rows, case.outputs),
    );
    pair.gradients(x, &forward(case).1, dy, into);
    grads
}

fn assert_close<F: Real>(got: &[F], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g.to_f64() - w).abs() / w.abs().max(1.0);
        assert!(error <= bound, "{what}[{i}] is {g:?}, expected {w}");
    }
}

fn each_level(body: impl Fn(Level)) {
    for level in Level::ALL.into_iter().filter(|level| level.available()) {
        with_level(level, || body(level));
    }
}

fn try_each_level(body: impl Fn(Level) -> Result<(), TestCaseError>) -> Result<(), TestCaseError> {
    Level::ALL
        .into_iter()
        .filter(|level| level.available())
        .try_for_each(|level| with_level(level, || body(level)))
}

proptest! {
    #![proptest_config(lmrs_testing::cases(40))]

    #[test]
    fn adds_the_update(case in cases(150)) {
        let want = naive(&case, &case.x(), &case.a(), &case.b());
        assert_close(&forward::<f64>(&case).0, &want, 1e-13, "f64");
        each_level(|level| assert_close(&forward::<f32>(&case).0, &want, 2e-5, &format!("{level:?}")));
    }

    #[test]
    fn gradients_are_the_derivatives(case in cases(7)) {
        let dy = values(case.rows * case.outputs, case.seed + 4);
        let loss = |x: &[f64], a: &[f64], b: &[f64]| -> f64 {
            naive(&case, x, a, b).iter().zip(&dy).map(|(y, d)| y * d).sum()
        };
        let parts = [case.x(), case.a(), case.b()];
        for (i, gradient) in backward::<f64>(&case, &dy).iter().enumerate() {
            for j in 0..gradient.len() {
                let at = |step: f64| {
                    let mut parts = parts.clone();
                    parts[i][j] += step;
                    loss(&parts[0], &parts[1], &parts[2])
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                prop_assert!((slope - gradient[j]).abs() < 1e-8 * slope.abs().max(1.0), "{i} {j}");
            }
        }
    }

    #[test]
    fn gradients_at_every_level(case in cases(150)) {
        let dy = values(case.rows * case.outputs, case.seed + 4);
        let want = backward::<f64>(&case, &dy);
        each_level(|level| {
            for (got, want) in backward::<f32>(&case, &dy).iter().zip(&want) {
                assert_close(got, want, 5e-5, &format!("{level:?}"));
            }
        });
    }

    #[test]
    fn merged_weight_does_the_same(case in cases(60)) {
        let weight = values(case.outputs * case.inputs, case.seed + 6);
        let (a, b) = (case.a(), case.b());
        let mut want = weight.clone();
        for o in 0..case.outputs {
            for i in 0..case.inputs {
                let dot: f64 = (0..case.rank).map(|r| b[o * case.rank + r] * a[r * case.inputs + i]).sum();
                want[o * case.inputs + i] += SCALE * dot;
            }
        }
        try_each_level(|level| {
            let (a, b, weight) = (of::<f32>(&a), of::<f32>(&b), of::<f32>(&weight));
            let mut merged = vec![f32::NAN; weight.len()];
            let rows = Rows::new(&weight, case.outputs, case.inputs);
            let a = Rows::new(&a, case.rank, case.inputs);
            let b = Rows::new(&b, case.outputs, case.rank);
            let into = RowsMut::new(&mut merged, case.outputs, case.inputs);
            let report = merge(rows, a, b, SCALE as f32, into);
            assert_close(&merged, &want, 5e-6, &format!("{level:?}"));
            let mut restored = vec![f32::NAN; weight.len()];
            let into = RowsMut::new(&mut restored, case.outputs, case.inputs);
            unmerge(Rows::new(&merged, case.outputs, case.inputs), a, b, SCALE as f32, into);
            let mut worst = 0.0_f64;
            for ((&restored, &w), &m) in restored.iter().zip(&weight).zip(&merged) {
                let error = f64::from(restored - w).abs();
                // Two roundings, one each way.
                prop_assert!(error <= f64::from(f32::EPSILON * w.abs().max(m.abs())), "{restored} for {w}");
                worst = worst.max(error);
            }
            assert_eq!(report.restored, worst, "{level:?}");
            let norm = |values: Vec<f32>| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let update = merged.iter().zip(&weight).map(|(m, w)| m - w).collect();
            assert_close(&[report.update, report.weight], &[norm(update), norm(weight)], 1e-5, "norms");
            Ok(())
        })?;
    }

    #[test]
    fn a_group_in_a_batch_is_the_group_alone(
        shape in (1_usize..70, 1_usize..150, 0_u64..1 << 40),
        groups in prop::collection::vec((0_usize..9, 0_usize..4), 0..7),
    ) {
        let (inputs, outputs, seed) = shape;
        // Update 0 is none; the others differ in rank and scale.
        let ranks = [0, 1, 8, 19];
        let pairs: Vec<(Vec<f32>, Vec<f32>)> = ranks.iter().map(|&rank| {
            (of(&values(rank * inputs, seed + rank as u64)), of(&values(outputs * rank, seed + 50 + rank as u64)))
        }).collect();
        let rows: usize = groups.iter().map(|&(rows, _)| rows).sum();
        let (x, base) = (of::<f32>(&values(rows * inputs, seed + 2)), of::<f32>(&values(rows * outputs, seed + 3)));
        each_level(|level| {
            let packed: Vec<_> = ranks.iter().zip(&pairs).map(|(&rank, (a, b))| {
                (Packed::new(Rows::new(a, rank, inputs)), Packed::new(Rows::new(b, outputs, rank)))
            }).collect();
            let updates: Vec<_> = packed.iter().enumerate()
                .map(|(i, (a, b))| LowRank { a, b, scale: 0.5 * i as f32 }).collect();
            let (x, base) = (Rows::new(&x, rows, inputs), Rows::new(&base, rows, outputs));
            let mut start = 0;
            let named: Vec<Group<f32>> = groups.iter().map(|&(count, which)| {
                start += count;
                Group { rows: start - count..start, update: (which > 0).then(|| &updates[which]) }
            }).collect();
            let mut y = vec![f32::NAN; rows * outputs];
            add_each(&named, x, base, RowsMut::new(&mut y, rows, outputs));
            for group in &named {
                let range = group.rows.clone();
                let mut alone = vec![f32::NAN; range.len() * outputs];
                let out = RowsMut::new(&mut alone, range.len(), outputs);
                match group.update {
                    Some(update) => {
                        update.add(x.slice(range.clone()), base.slice(range.clone()), out);
                    }
                    None => alone.copy_from_slice(&(range.clone().flat_map(|r| base.row(r)).copied().collect::<Vec<_>>())),
                }
                assert_eq!(alone, y[range.start * outputs..range.end * outputs], "{level:?}");
            }
            let mut threads = vec![f32::NAN; y.len()];
            team::with_threads(3, || add_each(&named, x, base, RowsMut::new(&mut threads, rows, outputs)));
            assert_eq!(threads, y);
        });
    }

    #[test]
    fn a_decomposition_multiplies_back(
        m in 1_usize..40, n in 1_usize..40, rank in 1_usize..40, flat in 0_usize..3, seed in 0_u64..1 << 40,
    ) {
        let least = m.min(n);
        let mut matrix = values(m * n, seed);
        if flat == 1 {
            // Of rank one or two: most singular values are 0.
            let (a, b) = (values(m, seed + 1), values(n, seed + 2));
            let rows = matrix.chunks_exact_mut(n).zip(&a);
            rows.for_each(|(row, &a)| row.iter_mut().zip(&b).for_each(|(x, b)| *x = a * b * 3.0));
        } else if flat == 2 {
            matrix.fill(0.0);
        }
        let view = Rows::new(&matrix, m, n);
        let whole = svd(view, least);
        let norm = matrix.iter().map(|x| x * x).sum::<f64>().sqrt();
        prop_assert!(whole.s.is_sorted_by(|a, b| a >= b));
        prop_assert!((whole.s.iter().map(|s| s * s).sum::<f64>().sqrt() - norm).abs() <= 1e-13 * norm);
        for i in 0..m {
            for j in 0..n {
                let product: f64 = (0..least).map(|k| whole.u[k * m + i] * whole.s[k] * whole.v[k * n + j]).sum();
                prop_assert!((product - matrix[i * n + j]).abs() <= 1e-13 * norm, "{product}");
            }
        }
        for (vectors, length) in [(&whole.u, m), (&whole.v, n)] {
            for a in 0..least {
                for b in 0..least {
                    if whole.s[a.max(b)] > 1e-6 * whole.s[0] {
                        let dot: f64 = (0..length).map(|i| vectors[a * length + i] * vectors[b * length + i]).sum();
                        prop_assert!((dot - f64::from(u8::from(a == b))).abs() < 1e-8, "{a} {b}: {dot}");
                    }
                }
            }
        }
        let rank = rank.min(least);
        let cut = svd(view, rank);
        prop_assert_eq!(&cut.s, &whole.s[..rank]);
        prop_assert_eq!(&cut.u, &whole.u[..rank * m]);
        prop_assert_eq!(&cut.v, &whole.v[..rank * n]);
        prop_assert_eq!(&whole, &team::with_threads(3, || svd(view, least)));
    }
}
