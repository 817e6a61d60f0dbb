//! The gradient of a weight.

use std::ops::Range;

use super::PANEL;
use super::operand::{Compute, Operand};
use super::tile::{FETCH, From, Operands};
use crate::memory::with_scratch;
use crate::simd::{self, Kernel, Level, Simd};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};

/// Outputs (rows of the gradient) in a block.
const ROWS: usize = 96;
/// Steps, of one token or of two, that are summed before the sum joins the gradient: a block of both sides stays in the second
/// cache.
const STEPS: usize = 512;
/// Steps whose tokens a thread takes apart at a time.
const SHARE: usize = 16;

/// `dw = dyᵀ·x` `[outputs, inputs]` for `dy` `[T, outputs]` and `x` `[T, inputs]`: the gradient of a weight.
///
/// Tokens are summed in order, in chains of 256 (in bfloat16 of 512) that are added one after another, whatever the number of
/// threads.
///
/// # Panics
/// If the shapes disagree.
pub fn gradient_weight<F: Real>(compute: Compute, dy: Rows<F>, x: Rows<F>, dw: RowsMut<F>) {
    gradient(compute, dy, x, dw, From::Zero);
}

/// `dw += dyᵀ·x`: what [`gradient_weight`] gives for 512 tokens (in bfloat16 for 1024), then for those after them.
///
/// # Panics
/// If the shapes disagree.
pub fn gradient_weight_add<F: Real>(compute: Compute, dy: Rows<F>, x: Rows<F>, dw: RowsMut<F>) {
    gradient(compute, dy, x, dw, From::Output);
}

fn gradient<F: Real>(compute: Compute, dy: Rows<F>, x: Rows<F>, dw: RowsMut<F>, from: From) {
    assert_eq!(dy.rows(), x.rows(), "tokens");
    assert_eq!(
        (dy.width(), x.width()),
        (dw.rows(), dw.width()),
        "shape of the gradient"
    );
    match compute {
        Compute::F32 => summed::<F, F>(dy, x, dw, from),
        Compute::Bf16 => summed::<F, u32>(dy, x, dw, from),
    }
}

fn summed<F: Real, E: Operand<F>>(dy: Rows<F>, x: Rows<F>, dw: RowsMut<F>, from: From) {
    let (tokens, outputs, inputs) = (dy.rows(), dy.width(), x.width());
    let (dw, level) = (dw.share(), simd::current());
    let (blocks, panels) = (outputs.div_ceil(ROWS), inputs.div_ceil(PANEL));
    let longest = STEPS.min(tokens.div_ceil(E::NUMBERS));
    let (left, right) = (blocks * longest * ROWS, panels * longest * PANEL);
    with_scratch(left + right, |room: &mut [E]| {
        let (left, right) = room.split_at_mut(left);
        for first in (0..tokens.max(1)).step_by(STEPS * E::NUMBERS) {
            let some = first..tokens.min(first + STEPS * E::NUMBERS);
            let steps = some.len().div_ceil(E::NUMBERS);
            cut(level, dy.slice(some.clone()), ROWS, left);
            cut(level, x.slice(some), PANEL, right);
            let from = if first == 0 { from } else { From::Output };
            let (left, right) = (&*left, &*right);
            team::parallel(blocks * panels, |chunk| {
                let (block, panel) = (chunk / panels, chunk % panels);
                let work = Block::<F, E> {
                    a: &left[block * steps * ROWS..][..steps * ROWS],
                    b: &right[panel * steps * PANEL..][..steps * PANEL],
                    steps,
                    dw,
                    rows: block * ROWS..outputs.min((block + 1) * ROWS),
                    columns: panel * PANEL..inputs.min((panel + 1) * PANEL),
                    from,
                };
                work.run(level);
            });
        }
    });
}

/// Writes `[T, width]` as `[width/by][steps][by]`, so that a tile walks it in order. The last part keeps what it held beyond
/// the width: it is multiplied into sums that are not used.
fn cut<F: Real, E: Operand<F>>(level: Level, rows: Rows<F>, by: usize, to: &mut [E]) {
    let steps = rows.rows().div_ceil(E::NUMBERS);
    let to = RowsMut::new(to, rows.width().div_ceil(by) * steps, by).share();
    team::parallel(steps.div_ceil(SHARE), |share| {
        let first = share * SHARE;
        let some = first * E::NUMBERS..rows.rows().min((first + SHARE) * E::NUMBERS);
        // SAFETY: no other share has these steps.
        unsafe { E::cut(level, rows.slice(some), to, (first, steps)) };
    });
}

/// A block of `dw`, from some of the tokens.
struct Block<'a, F, E> {
    /// `[steps][96]` of `dy`.
    a: &'a [E],
    /// `[steps][64]` of `x`.
    b: &'a [E],
    steps: usize,
    dw: Shared<'a, F>,
    rows: Range<usize>,
    columns: Range<usize>,
    from: From,
}

#[repr(align(64))]
struct Sums<F>([F; ROWS * PANEL]);

impl<F: Real, E: Operand<F>> Block<'_, F, E> {
    fn run(self, level: Level) {
        let mut sums = Sums([F::ZERO; ROWS * PANEL]);
        let o = Operands {
            a: self.a.as_ptr(),
            a_row: 1,
            a_step: ROWS,
            b: self.b.as_ptr(),
            b_step: PANEL,
            ahead: FETCH * PANEL,
            c: sums.0.as_mut_ptr(),
            c_row: PANEL,
        };
        let size = (self.rows.len(), self.columns.len());
        // SAFETY: A holds `steps` rows of 96, B of 64, the sums 96 of 64.
        unsafe { E::product(level, size, self.steps, o, From::Zero) };
        let finish = Finish {
            sums: &sums.0,
            dw: self.dw,
            rows: self.rows,
            columns: self.columns,
            from: self.from,
        };
        F::dispatch(level, finish);
    }
}

/// From sums to the gradient.
struct Finish<'a, F> {
    sums: &'a [F],
    dw: Shared<'a, F>,
    rows: Range<usize>,
    columns: Range<usize>,
    from: From,
}

impl<F: Real> Kernel<F> for Finish<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            sums,
            dw,
            rows,
            columns,
            from,
        } = self;
        for (row, sums) in rows.zip(sums.chunks_exact(PANEL)) {
            let mut at = 0;
            while at < columns.len() {
                let n = S::LANES.min(columns.len() - at);
                // SAFETY: this chunk alone has these columns of the row; `n` of them are left.
                unsafe {
                    let out = dw.row_ptr(row).add(columns.start + at);
                    let mut sum = s.load_part(sums[at..].as_ptr(), n);
                    if from == From::Output {
                        sum = s.add(s.load_part(out, n), sum);
                    }
                    if n == S::LANES {
                        s.store(out, sum);
                    } else {
                        s.store_part(out, sum, n);
                    }
                }
                at += n;
            }
        }
    }
}
