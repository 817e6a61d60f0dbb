//! The gradient of a weight.

use std::ops::Range;

use super::PANEL;
use super::tile::{self, From, Operands};
use crate::memory::with_scratch;
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
    let (blocks, panels) = (dy.width().div_ceil(ROWS), x.width().div_ceil(PANEL));
    let longest = TOKENS.min(dy.rows());
    let (left, right) = (blocks * longest * ROWS, panels * longest * PANEL);
    with_scratch(left + right, |room| {
        let (left, right) = room.split_at_mut(left);
        summed(dy, x, dw, from, (left, right));
    });
}

/// [`gradient`], given room for 256 tokens of `dy` and `x`.
fn summed<F: Real>(
    dy: Rows<F>,
    x: Rows<F>,
    dw: RowsMut<F>,
    from: From,
    (left, right): (&mut [F], &mut [F]),
) {
    let (outputs, inputs) = (dy.width(), x.width());
    let (dw, level) = (dw.share(), simd::current());
    let (blocks, panels) = (outputs.div_ceil(ROWS), inputs.div_ceil(PANEL));
    let mut token = 0;
    while token < dy.rows() || token == 0 {
        let tokens = TOKENS.min(dy.rows() - token);
        cut(dy.slice(token..token + tokens), ROWS, left);
        cut(x.slice(token..token + tokens), PANEL, right);
        let from = if token == 0 { from } else { From::Output };
        let (left, right) = (&*left, &*right);
        team::parallel(blocks * panels, |chunk| {
            let (block, panel) = (chunk / panels, chunk % panels);
            let work = Block {
                a: &left[block * tokens * ROWS..][..tokens * ROWS],
                b: &right[panel * tokens * PANEL..][..tokens * PANEL],
                tokens,
                dw,
                rows: block * ROWS..outputs.min((block + 1) * ROWS),
                columns: panel * PANEL..inputs.min((panel + 1) * PANEL),
                from,
            };
            F::dispatch(level, work);
        });
        token += TOKENS;
    }
}

/// Copies `[T, width]` as `[width/by][T][by]`, so that a tile walks it in order. The last part keeps what it held beyond
/// the width: it is multiplied into sums that are not used.
fn cut<F: Real>(rows: Rows<F>, by: usize, to: &mut [F]) {
    let (tokens, width) = (rows.rows(), rows.width());
    let parts = width.div_ceil(by);
    let to = RowsMut::new(to, parts * tokens, by).share();
    // Sixteen tokens of all parts: rows are read whole.
    team::parallel(tokens.div_ceil(16), |chunk| {
        for token in chunk * 16..tokens.min((chunk + 1) * 16) {
            for (part, from) in rows.row(token).chunks(by).enumerate() {
                // SAFETY: no other chunk has this token.
                unsafe { to.part(part * tokens + token, 0..from.len()) }.copy_from_slice(from);
            }
        }
    });
}

/// A block of `dw`, from one block of tokens.
struct Block<'a, F> {
    /// `[tokens][96]` of `dy`.
    a: &'a [F],
    /// `[tokens][64]` of `x`.
    b: &'a [F],
    tokens: usize,
    dw: Shared<'a, F>,
    rows: Range<usize>,
    columns: Range<usize>,
    from: From,
}

#[repr(align(64))]
struct Sums<F>([F; ROWS * PANEL]);

impl<F: Real> Kernel<F> for Block<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            a,
            b,
            tokens,
            dw,
            rows,
            columns,
            from,
        } = self;
        let mut sums = Sums([F::ZERO; ROWS * PANEL]);
        let o = Operands {
            a: a.as_ptr(),
            a_row: 1,
            a_step: ROWS,
            b: b.as_ptr(),
            b_step: PANEL,
            c: sums.0.as_mut_ptr(),
            c_row: PANEL,
        };
        // SAFETY: A holds `tokens` rows of 96, B of 64, the sums 96 of 64.
        unsafe { tile::product(s, rows.len(), columns.len(), tokens, o, From::Zero) };
        for (row, sums) in rows.zip(sums.0.chunks_exact(PANEL)) {
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
                    s.store_part(out, sum, n);
                }
                at += n;
            }
        }
    }
}
