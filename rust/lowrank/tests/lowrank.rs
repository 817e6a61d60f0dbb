//! Against plain 64-bit loops and central differences, at every instruction set.

use lmrs_kernels::linear::Packed;
use lmrs_kernels::simd::with_level;
use lmrs_kernels::{Level, Real, Rows, RowsMut};
use lmrs_lowrank::{Gradients, LowRank, Transposed, merge};
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
    let pair = Transposed {
        a: &Packed::transposed(Rows::new(&a, case.rank, case.inputs)),
        b: &Packed::transposed(Rows::new(&b, case.outputs, case.rank)),
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

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
        each_level(|level| {
            let (a, b, weight) = (of::<f32>(&a), of::<f32>(&b), of::<f32>(&weight));
            let mut merged = vec![f32::NAN; weight.len()];
            let rows = Rows::new(&weight, case.outputs, case.inputs);
            let a = Rows::new(&a, case.rank, case.inputs);
            let b = Rows::new(&b, case.outputs, case.rank);
            let into = RowsMut::new(&mut merged, case.outputs, case.inputs);
            merge(rows, a, b, SCALE as f32, into);
            assert_close(&merged, &want, 5e-6, &format!("{level:?}"));
        });
    }
}
