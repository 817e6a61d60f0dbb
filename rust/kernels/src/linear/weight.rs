//! Both ways through a weight, packed or not.
//!
//! Where no panels of a weight lie the way a product takes them, each is made while it is used, in memory of its thread, and
//! forgotten: for hundreds of rows that costs a few hundredths of the product, and no memory. Training takes weights that
//! change with every step as they lie, and goes back through the panels of those that do not.

use std::ops::Range;

use super::packed::{Packed, Strip};
use super::tile::{self, From, Operands};
use super::{DEPTH, Epilogue, PANEL, ROWS, matmul};
use crate::memory::with_scratch;
use crate::simd::{self, Kernel, Simd};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};

/// A weight `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a, F> {
    /// In panels of floats.
    Packed(&'a Packed<F>),
    /// As it is.
    Plain(Rows<'a, F>),
    /// In panels of floats for [`apply`], as it is for [`gradient_input`].
    Both(&'a Packed<F>, Rows<'a, F>),
}

impl<F: Real> Weight<'_, F> {
    /// Width of the result of [`apply`].
    pub fn outputs(&self) -> usize {
        match self {
            Self::Packed(packed) | Self::Both(packed, _) => packed.outputs(),
            Self::Plain(rows) => rows.rows(),
        }
    }

    /// Width of the input of [`apply`].
    pub fn inputs(&self) -> usize {
        match self {
            Self::Packed(packed) | Self::Both(packed, _) => packed.inputs(),
            Self::Plain(rows) => rows.width(),
        }
    }
}

/// Of the squares in which a weight is turned.
const SIDE: usize = 16;
/// Rows for which one panel is made: their sums stay in the second cache.
const GROUP: usize = 11 * ROWS;

/// `out = x·Wᵀ + b` `[M, outputs]`, the bits of [`matmul`].
///
/// # Panics
/// If the shapes disagree.
pub fn apply<F: Real>(x: Rows<F>, weight: Weight<F>, bias: Option<&[F]>, out: RowsMut<F>) {
    match weight {
        Weight::Packed(packed) | Weight::Both(packed, _) => {
            let epilogue = Epilogue {
                bias,
                ..Epilogue::default()
            };
            matmul(x, packed, out, &epilogue);
        }
        Weight::Plain(rows) => {
            assert_eq!(x.width(), rows.width(), "width of the input");
            product(x, rows.rows(), bias, out, |depth, columns, panel| {
                across(panel, depth.len(), columns.len(), |n, at| {
                    &rows.row(columns.start + n)[depth.start + at..]
                });
            });
        }
    }
}

/// `dx = dy·W` `[M, inputs]`, the gradient of the input of a linear layer; each element is summed over the outputs in order, in
/// chains as those of [`matmul`].
///
/// # Panics
/// If the shapes disagree or the panels are not of floats.
pub fn gradient_input<F: Real>(dy: Rows<F>, weight: Weight<F>, dx: RowsMut<F>) {
    match weight {
        Weight::Plain(rows) | Weight::Both(_, rows) => {
            assert_eq!(dy.width(), rows.rows(), "width of the gradient");
            product(dy, rows.width(), None, dx, |depth, columns, panel| {
                for (k, to) in depth.zip(panel.chunks_exact_mut(PANEL)) {
                    to[..columns.len()].copy_from_slice(&rows.row(k)[columns.clone()]);
                }
            });
        }
        Weight::Packed(packed) => {
            assert_eq!(dy.width(), packed.outputs(), "width of the gradient");
            let width = packed.strip_width();
            product(dy, packed.inputs(), None, dx, |depth, columns, panel| {
                across(panel, depth.len(), columns.len(), |n, at| {
                    let k = depth.start + at;
                    let Strip::Full(strip) = packed.strip(k / width) else {
                        panic!("a gradient through narrow weights");
                    };
                    &strip[(columns.start + n) * width..][k % width..width]
                });
            });
        }
    }
}

/// Fills a panel `[depth][64]` column by column; `from(n, k)` is a part of column `n` that begins at `k`, of 16 elements at
/// least unless it ends with the column.
fn across<'a, F: Real>(
    panel: &mut [F],
    depth: usize,
    columns: usize,
    from: impl Fn(usize, usize) -> &'a [F],
) {
    for start in (0..depth).step_by(SIDE) {
        let steps = SIDE.min(depth - start);
        let to = &mut panel[start * PANEL..][..steps * PANEL];
        for first in (0..columns).step_by(SIDE) {
            // What lies beyond the columns is multiplied into sums that are not used.
            let mut square = [[F::ZERO; SIDE]; SIDE];
            for n in 0..SIDE.min(columns - first) {
                let column = &from(first + n, start)[..steps];
                for (row, &w) in square.iter_mut().zip(column) {
                    row[n] = w;
                }
            }
            for (to, row) in to.chunks_exact_mut(PANEL).zip(&square) {
                to[first..first + SIDE].copy_from_slice(row);
            }
        }
    }
}

/// `out = x·P + bias`, the panels of P filled by `fill(steps, columns, panel)`.
fn product<F: Real>(
    x: Rows<F>,
    outputs: usize,
    bias: Option<&[F]>,
    out: RowsMut<F>,
    fill: impl Fn(Range<usize>, Range<usize>, &mut [F]) + Sync,
) {
    let (rows, depth) = (x.rows(), x.width());
    assert_eq!(
        (out.rows(), out.width()),
        (rows, outputs),
        "shape of the output"
    );
    assert!(
        bias.is_none_or(|bias| bias.len() == outputs),
        "length of the bias"
    );
    let (out, level) = (out.share(), simd::current());
    let (blocks, panels) = (rows.div_ceil(ROWS), outputs.div_ceil(PANEL));
    // Enough chunks to share, of rows as many as can be.
    let shares = (4 * team::threads()).div_ceil(panels.max(1)).min(blocks);
    let groups = shares.max(rows.div_ceil(GROUP)).max(1);
    let longest = blocks.div_ceil(groups) * ROWS;
    team::parallel(panels * groups, |chunk| {
        let (panel, group) = (chunk / groups, chunk % groups);
        let block = |group: usize| rows.min(group * blocks / groups * ROWS);
        let (first, last) = (block(group), block(group + 1));
        let columns = panel * PANEL..outputs.min((panel + 1) * PANEL);
        let strip = DEPTH.min(depth) * PANEL;
        with_scratch(strip + longest.min(rows) * PANEL, |scratch| {
            let (strip, sums) = scratch.split_at_mut(strip);
            for start in (0..depth.max(1)).step_by(DEPTH) {
                let steps = start..depth.min(start + DEPTH);
                fill(steps.clone(), columns.clone(), strip);
                F::dispatch(
                    level,
                    Sum {
                        x: x.slice(first..last),
                        steps,
                        strip,
                        columns: columns.len(),
                        sums,
                    },
                );
            }
            F::dispatch(
                level,
                Finish {
                    sums,
                    bias: bias.map(|bias| &bias[columns.clone()]),
                    out,
                    rows: first..last,
                    columns,
                },
            );
        });
    });
}

/// Adds some steps of the product to the sums `[rows][64]`, or begins them.
struct Sum<'a, F> {
    x: Rows<'a, F>,
    steps: Range<usize>,
    /// `[steps][64]`.
    strip: &'a [F],
    columns: usize,
    sums: &'a mut [F],
}

impl<F: Real> Kernel<F> for Sum<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            x,
            steps,
            strip,
            columns,
            sums,
        } = self;
        let from = if steps.start == 0 {
            From::Zero
        } else {
            From::Sum
        };
        assert!(strip.len() >= steps.len() * PANEL && sums.len() >= x.rows() * PANEL);
        for row in (0..x.rows()).step_by(ROWS) {
            let rows = ROWS.min(x.rows() - row);
            // SAFETY: A is these rows from the first step on, B the strip, C the sums of these rows; the first steps
            // initialise them.
            unsafe {
                let o = Operands {
                    a: x.start().add(row * x.stride() + steps.start),
                    a_row: x.stride(),
                    a_step: 1,
                    b: strip.as_ptr(),
                    b_step: PANEL,
                    c: sums.as_mut_ptr().add(row * PANEL),
                    c_row: PANEL,
                };
                tile::product(s, rows, columns, steps.len(), o, from);
            }
        }
    }
}

/// From sums to outputs.
struct Finish<'a, F> {
    /// `[rows][64]`.
    sums: &'a [F],
    bias: Option<&'a [F]>,
    out: Shared<'a, F>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl<F: Real> Kernel<F> for Finish<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            sums,
            bias,
            out,
            rows,
            columns,
        } = self;
        for (row, sums) in rows.zip(sums.chunks_exact(PANEL)) {
            let mut at = 0;
            while at < columns.len() {
                let n = S::LANES.min(columns.len() - at);
                // SAFETY: `n` columns from here exist in the sums, the bias and the row; no other chunk has them.
                unsafe {
                    let mut y = s.load_part(sums[at..].as_ptr(), n);
                    if let Some(bias) = bias {
                        y = s.add(y, s.load_part(bias[at..].as_ptr(), n));
                    }
                    let to = out.row_ptr(row).add(columns.start + at);
                    if n == S::LANES {
                        s.store(to, y);
                    } else {
                        s.store_part(to, y, n);
                    }
                }
                at += n;
            }
        }
    }
}
