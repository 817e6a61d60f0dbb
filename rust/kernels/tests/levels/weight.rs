use half::bf16;
use lmrs_kernels::linear::{
    Compute, Epilogue, Packed, Weight, Weights, apply, gradient_input, gradient_weight,
    gradient_weight_add, matmul,
};
use lmrs_kernels::{Rows, RowsMut, team};
use proptest::prelude::*;

use crate::{each_dot_level, each_level, single, values};

/// Bits, so that NaN equals itself.
fn filled(n: usize, fill: impl Fn(&mut [f32])) -> Vec<u32> {
    let mut out = vec![f32::NAN; n];
    fill(&mut out);
    out.into_iter().map(f32::to_bits).collect()
}

proptest! {
    /// A weight as it lies and its panels, whichever way they were made, give the same bits both ways, on any number of threads.
    #[test]
    fn as_the_panels_made_for_a_product(
        rows in 0_usize..230, inputs in 0_usize..1100, outputs in 0_usize..200, seed in 0_u64..1 << 40,
    ) {
        let (x, dy) = (single(&values(rows * inputs, seed)), single(&values(rows * outputs, seed + 1)));
        let (w, b) = (single(&values(outputs * inputs, seed + 2)), single(&values(outputs, seed + 3)));
        let (x, dy) = (Rows::new(&x, rows, inputs), Rows::new(&dy, rows, outputs));
        let plain = Rows::new(&w, outputs, inputs);
        each_level(|level| {
            let (packed, transposed) = (Packed::new(plain), Packed::transposed(plain));
            let epilogue = Epilogue { bias: Some(&b), ..Epilogue::default() };
            let y = filled(rows * outputs, |y| matmul(x, &packed, RowsMut::new(y, rows, outputs), &epilogue));
            let dx = filled(rows * inputs, |dx| {
                matmul(dy, &transposed, RowsMut::new(dx, rows, inputs), &Epilogue::default());
            });
            for (threads, weight) in [(1, Weight::Plain(plain)), (3, Weight::Plain(plain)), (1, Weight::Packed(&packed)), (3, Weight::Packed(&packed))] {
                team::with_threads(threads, || {
                    let got = filled(rows * outputs, |y| apply(Compute::F32, x, weight, Some(&b), RowsMut::new(y, rows, outputs)));
                    assert!(got == y, "{level:?}, {threads} threads: forward");
                    let got = filled(rows * inputs, |dx| gradient_input(Compute::F32, dy, weight, RowsMut::new(dx, rows, inputs)));
                    assert!(got == dx, "{level:?}, {threads} threads: backward");
                });
            }
        });
    }
}

/// `a·b` in 64 bits for `a` `[m, k]` and `b` `[k, n]` by their elements, and for each sum that of its magnitudes.
fn exact(
    (m, k, n): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<(f64, f64)> {
    let cell = |at: usize| {
        let terms = (0..k).map(|k| f64::from(a(at / n, k)) * f64::from(b(k, at % n)));
        terms.fold((0.0, 0.0), |(sum, size), term| {
            (sum + term, size + term.abs())
        })
    };
    (0..m * n).map(cell).collect()
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect()
}

#[track_caller]
fn assert_within(got: &[u32], want: &[(f64, f64)], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, (want, size))) in got.iter().zip(want).enumerate() {
        let got = f64::from(f32::from_bits(got));
        let error = (got - want).abs();
        assert!(
            error <= bound * size,
            "{what}: [{i}] is {got}, expected {want} within {:e}",
            bound * size
        );
    }
}

proptest! {
    #![proptest_config(lmrs_testing::cases(24))]

    /// In bfloat16 a product is that of the rounded numbers but for the order of its sums (2⁻¹⁶ of the magnitudes), and so within
    /// 2⁻⁷ of that of the numbers themselves. A weight as it lies and its panels give the same bits, for a row whatever its
    /// company, on any number of threads.
    #[test]
    fn products_in_bfloat16(
        rows in 0_usize..130, inputs in 0_usize..90, outputs in 0_usize..90, long in 0_usize..4, at in 0_usize..3, seed in 0_u64..1 << 40,
    ) {
        // One side is longer than a chain, and than a panel is deep.
        let stretched = |side: usize, n: usize| if side == at && long == 0 { n + 2070 } else { n };
        let (rows, inputs, outputs) = (stretched(0, rows), stretched(1, inputs), stretched(2, outputs));
        let (x, dy) = (single(&values(rows * inputs, seed)), single(&values(rows * outputs, seed + 1)));
        let (w, before) = (single(&values(outputs * inputs, seed + 2)), single(&values(outputs * inputs, seed + 3)));
        let products = |x: &[f32], w: &[f32], dy: &[f32]| [
            exact((rows, inputs, outputs), |t, i| x[t * inputs + i], |i, o| w[o * inputs + i]),
            exact((rows, outputs, inputs), |t, o| dy[t * outputs + o], |o, i| w[o * inputs + i]),
            exact((outputs, rows, inputs), |o, t| dy[t * outputs + o], |t, i| x[t * inputs + i]),
        ];
        let wanted = products(&x, &w, &dy);
        let of_rounded = products(&rounded(&x), &rounded(&w), &rounded(&dy));
        let (x, dy, plain) = (Rows::new(&x, rows, inputs), Rows::new(&dy, rows, outputs), Rows::new(&w, outputs, inputs));
        let compute = Compute::Bf16;
        each_dot_level(|level| {
            let packed = Packed::pack(Weights::Bf16, &[&plain]);
            let forward = |weight: Weight<f32>, x: Rows<f32>| {
                filled(x.rows() * outputs, |y| apply(compute, x, weight, None, RowsMut::new(y, x.rows(), outputs)))
            };
            let back = |weight: Weight<f32>| {
                filled(rows * inputs, |dx| gradient_input(compute, dy, weight, RowsMut::new(dx, rows, inputs)))
            };
            let of_weight = || {
                filled(outputs * inputs, |dw| gradient_weight(compute, dy, x, RowsMut::new(dw, outputs, inputs)))
            };
            let all = || [forward(Weight::Plain(plain), x), back(Weight::Plain(plain)), of_weight()];
            let got = all();
            for (got, (wanted, of_rounded)) in got.iter().zip(wanted.iter().zip(&of_rounded)) {
                assert_within(got, of_rounded, 2.0_f64.powi(-16), &format!("{level:?}, rounded"));
                assert_within(got, wanted, 1.01 * 2.0_f64.powi(-7), &format!("{level:?}"));
            }
            team::with_threads(3, || assert!(all() == got, "{level:?}: three threads"));
            assert!(forward(Weight::Packed(&packed), x) == got[0], "{level:?}: panels");
            assert!(back(Weight::Packed(&packed)) == got[1], "{level:?}: back through panels");
            if rows > 0 {
                let row = seed as usize % rows;
                let alone = forward(Weight::Plain(plain), x.slice(row..row + 1));
                assert!(alone == got[0][row * outputs..][..outputs], "{level:?}: a row alone");
            }
            let mut sum = before.clone();
            gradient_weight_add(compute, dy, x, RowsMut::new(&mut sum, outputs, inputs));
            if rows <= 1024 {
                let added = before.iter().zip(&got[2]).map(|(before, &dw)| before + f32::from_bits(dw));
                assert!(added.eq(sum), "{level:?}: added");
            }
        });
    }
}
