use lmrs_kernels::linear::{Epilogue, Packed, Weight, apply, gradient_input, matmul};
use lmrs_kernels::{Rows, RowsMut, team};
use proptest::prelude::*;

use crate::{each_level, single, values};

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
                    let got = filled(rows * outputs, |y| apply(x, weight, Some(&b), RowsMut::new(y, rows, outputs)));
                    assert!(got == y, "{level:?}, {threads} threads: forward");
                    let got = filled(rows * inputs, |dx| gradient_input(dy, weight, RowsMut::new(dx, rows, inputs)));
                    assert!(got == dx, "{level:?}, {threads} threads: backward");
                });
            }
        });
    }
}
