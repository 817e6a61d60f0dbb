//! The gradient of a weight.

use super::packed::PANEL;
use super::tile::{self, From, Operands};
use crate::memory::Buffer;
use crate::simd::{self, Kernel, Simd};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};

/// Outputs (rows of the gradient) in a block.
const ROWS: usize = 96;
/// Tokens summed before the sum joins the gradient.
const TOKENS: usize = 256;

/// `dw = dyᵀ·x` `[outputs, inputs]` for `dy` `[T, outputs]` and `x` `[T, inputs]`: the gradient of a weight.
///
/// Tokens are summed in blocks of 256, and the blocks in order, whatever the number of threads.
///
/// # Panics
/// If the shapes disagree.
pub fn gradient_weight<F: Real>(dy: Rows<F>, x: Rows<F>, dw: RowsMut<F>) {
    gradient(dy, x, dw, From::Zero);
}

/// `dw += dyᵀ·x`, as [`gradient_weight`].
///
/// # Panics
/// If the shapes disagree.
pub fn gradient_weight_add<F: Real>(dy: Rows<F>, x: Rows<F>, dw: RowsMut<F>) {
    gradient(dy, x, dw, From::Output);
}

fn gradient<F: Real>(dy: Rows<F>, x: Rows<F>, dw: RowsMut<F>, from: From) {
    assert_eq!(dy.rows(), x.rows(), "tokens");
    assert_eq!(
        (dy.width(), x.width()),
        (dw.rows(), dw.width()),
        "shape of the gradient"
    );
    let (outputs, inputs) = (dy.width(), x.width());
    let (dw, level) = (dw.share(), simd::current());
    let (panels, blocks) = (inputs.div_ceil(PANEL), outputs.div_ceil(ROWS));
    team::parallel(panels * blocks, |chunk| {
        let (column, row) = (chunk / blocks * PANEL, chunk % blocks * ROWS);
        let (dy, x) = (
            dy.columns(row..outputs.min(row + ROWS)),
            x.columns(column..inputs.min(column + PANEL)),
        );
        F::dispatch(
            level,
            Block {
                dy,
                x,
                dw,
                row,
                column,
                from,
            },
        );
    });
}

struct Block<'a, F> {
    dy: Rows<'a, F>,
    x: Rows<'a, F>,
    dw: Shared<'a, F>,
    row: usize,
    column: usize,
    from: From,
}

impl<F: Real> Kernel<F> for Block<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            dy,
            x,
            dw,
            row,
            column,
            from,
        } = self;
        let (rows, columns) = (dy.width(), x.width());
        // Both operands are copied so that the tile walks them in order: dy as `[T][96]`, x as `[T][64]`.
        let mut a = Buffer::zeroed(TOKENS * ROWS);
        let mut b = Buffer::zeroed(TOKENS * PANEL);
        let mut sums = Buffer::zeroed(ROWS * PANEL);
        let mut token = 0;
        while token < dy.rows() || token == 0 {
            let tokens = TOKENS.min(dy.rows() - token);
            for t in 0..tokens {
                a[t * ROWS..][..rows].copy_from_slice(dy.row(token + t));
                b[t * PANEL..][..columns].copy_from_slice(x.row(token + t));
            }
            let o = Operands {
                a: a.as_ptr(),
                a_row: 1,
                a_step: ROWS,
                b: b.as_ptr(),
                b_step: PANEL,
                c: sums.as_mut_ptr(),
                c_row: PANEL,
            };
            // SAFETY: the copies hold `tokens` rows of at least `rows` and 64 elements; this chunk owns its part of `dw`.
            unsafe {
                tile::product(s, rows, columns, tokens, o, From::Zero);
                for i in 0..rows {
                    let out = dw.row_ptr(row + i).add(column);
                    let mut at = 0;
                    while at < columns {
                        let n = S::LANES.min(columns - at);
                        let mut sum = s.load_part(sums.as_ptr().add(i * PANEL + at), n);
                        if token > 0 || from == From::Output {
                            sum = s.add(s.load_part(out.add(at), n), sum);
                        }
                        s.store_part(out.add(at), sum, n);
                        at += n;
                    }
                }
            }
            token += TOKENS;
        }
    }
}
