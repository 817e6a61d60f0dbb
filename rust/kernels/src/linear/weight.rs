//! Both ways through a weight, packed or not.
//!
//! Where no panels of a weight lie the way a product takes them, each is made while it is used, in memory of its thread, and
//! forgotten: for hundreds of rows that costs a few hundredths of the product, and no memory. Training takes weights that
//! change with every step as they lie, and goes back through the panels of those that do not. Either in numbers as they are or
//! in bfloat16 ([`Compute`]).

use std::ops::Range;

use super::format::Format;
use super::operand::{Compute, Operand, narrow, narrow_all, stride};
use super::packed::{Packed, Strip};
use super::tile::{FETCH, From, Operands};
use super::{DEPTH, Epilogue, PANEL, ROWS, matmul};
use crate::memory::with_scratch;
use crate::simd::{self, Kernel, Level, Simd};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};

/// A weight `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a, F> {
    /// In panels.
    Packed(&'a Packed<F>),
    /// As it is.
    Plain(Rows<'a, F>),
    /// In panels for [`apply`], as it is for [`gradient_input`].
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

/// `out = x·Wᵀ + b` `[M, outputs]`, the bits of [`matmul`] with panels of `compute`'s weights.
///
/// # Panics
/// If the shapes disagree.
pub fn apply<F: Real>(
    compute: Compute,
    x: Rows<F>,
    weight: Weight<F>,
    bias: Option<&[F]>,
    out: RowsMut<F>,
) {
    let rows = match weight {
        Weight::Packed(packed) | Weight::Both(packed, _) => {
            let epilogue = Epilogue {
                bias,
                ..Epilogue::default()
            };
            return matmul(x, packed, out, &epilogue);
        }
        Weight::Plain(rows) => rows,
    };
    assert_eq!(x.width(), rows.width(), "width of the input");
    match compute {
        Compute::F32 => product(x, rows.rows(), bias, out, |_, depth, columns, panel| {
            for (at, some) in sides(columns) {
                across(panel, at, some.len(), depth.len(), |n, k| {
                    &rows.row(some.start + n)[depth.start + k..]
                });
            }
        }),
        Compute::Bf16 => words(x, |x| {
            product(x, rows.rows(), bias, out, |level, depth, columns, panel| {
                let inputs = 2 * depth.start..rows.width().min(2 * depth.end);
                let room = stride(inputs.len());
                with_scratch(SIDE * room, |words| {
                    for (at, some) in sides(columns) {
                        let some = rows.slice(some).columns(inputs.clone());
                        narrow(level, some, RowsMut::new(words, some.rows(), room));
                        across(panel, at, some.rows(), depth.len(), |n, k| {
                            &words[n * room + k..][..depth.len() - k]
                        });
                    }
                });
            });
        }),
    }
}

/// `dx = dy·W` `[M, inputs]`, the gradient of the input of a linear layer; each element is summed over the outputs in order, in
/// chains as those of [`matmul`].
///
/// # Panics
/// If the shapes disagree or the panels are not of `compute`'s weights.
pub fn gradient_input<F: Real>(compute: Compute, dy: Rows<F>, weight: Weight<F>, dx: RowsMut<F>) {
    assert_eq!(dy.width(), weight.outputs(), "width of the gradient");
    match (weight, compute) {
        (Weight::Plain(rows) | Weight::Both(_, rows), Compute::F32) => through(dy, rows, dx),
        (Weight::Plain(rows) | Weight::Both(_, rows), Compute::Bf16) => {
            words(dy, |dy| through(dy, rows, dx));
        }
        (Weight::Packed(packed), Compute::F32) => {
            let width = packed.strip_width();
            product(dy, packed.inputs(), None, dx, |_, depth, columns, panel| {
                for (at, some) in sides(columns) {
                    across(panel, at, some.len(), depth.len(), |n, k| {
                        let k = depth.start + k;
                        let Strip::Full(strip) = packed.strip(k / width) else {
                            panic!("a gradient in f32 through narrow weights");
                        };
                        &strip[(some.start + n) * width..][k % width..width]
                    });
                }
            });
        }
        (Weight::Packed(packed), Compute::Bf16) => words(dy, |dy| {
            product(dy, packed.inputs(), None, dx, |_, depth, columns, panel| {
                back(packed, &depth, &columns, panel);
            });
        }),
    }
}

/// `out = x·W` through the rows of W.
fn through<F: Real, E: Operand<F>>(x: Rows<E>, weight: Rows<F>, out: RowsMut<F>) {
    product(
        x,
        weight.width(),
        None,
        out,
        |level, depth, columns, panel| {
            let some = E::NUMBERS * depth.start..weight.rows().min(E::NUMBERS * depth.end);
            let some = weight.slice(some).columns(columns);
            let (panel, steps) = (RowsMut::new(panel, depth.len(), PANEL).share(), depth.len());
            // SAFETY: the panel is this thread's.
            unsafe { E::cut(level, some, panel, (0, steps)) };
        },
    );
}

/// Lends the rows as words.
fn words<F: Real>(rows: Rows<F>, body: impl FnOnce(Rows<u32>)) {
    with_scratch(rows.rows() * stride(rows.width()), |words| {
        body(narrow_all(rows, words));
    });
}

/// Sixteen columns at a time: where they stand among `columns`, and which they are.
fn sides(columns: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let of = move |at: usize| columns.start + at..columns.end.min(columns.start + at + SIDE);
    (0..columns.len()).step_by(SIDE).map(move |at| (at, of(at)))
}

/// Fills up to sixteen columns, from `first` on, of a panel `[depth][64]`; `from(n, k)` is a part of the `n`-th that begins at
/// `k`, of 16 elements at least unless it ends with the column.
fn across<'a, E: Copy + Default + 'a>(
    panel: &mut [E],
    first: usize,
    columns: usize,
    depth: usize,
    from: impl Fn(usize, usize) -> &'a [E],
) {
    for start in (0..depth).step_by(SIDE) {
        let steps = SIDE.min(depth - start);
        // What lies beyond the columns is multiplied into sums that are not used.
        let mut square = [[E::default(); SIDE]; SIDE];
        for n in 0..columns {
            let column = &from(n, start)[..steps];
            for (row, &w) in square.iter_mut().zip(column) {
                row[n] = w;
            }
        }
        let to = &mut panel[start * PANEL..][..steps * PANEL];
        for (to, row) in to.chunks_exact_mut(PANEL).zip(&square) {
            to[first..first + SIDE].copy_from_slice(row);
        }
    }
}

/// Fills a panel `[depth][64]` with pairs of outputs, from pairs of inputs.
fn back<F: Real>(
    packed: &Packed<F>,
    depth: &Range<usize>,
    columns: &Range<usize>,
    panel: &mut [u32],
) {
    let width = packed.strip_width();
    let mut pair = depth.start;
    while pair < depth.end {
        let (strip, at) = (2 * pair / width, 2 * pair % width);
        let Strip::Narrow(Format::Bf16, words) = packed.strip(strip) else {
            panic!("a gradient in bfloat16 through other weights");
        };
        let pairs = ((width - at) / 2).min(depth.end - pair);
        let to = &mut panel[(pair - depth.start) * PANEL..][..pairs * PANEL];
        for two in 0..columns.len().div_ceil(2) {
            let from = &words[(columns.start / 2 + two) * width + at..][..2 * pairs];
            for (to, from) in to.chunks_exact_mut(PANEL).zip(from.chunks_exact(2)) {
                to[2 * two] = from[0] & 0xFFFF | from[1] << 16;
                to[2 * two + 1] = from[0] >> 16 | from[1] & 0xFFFF_0000;
            }
        }
        pair += pairs;
    }
}

/// `out = x·P + bias`, the panels of P filled by `fill(level, steps, columns, panel)`.
fn product<F: Real, E: Operand<F>>(
    x: Rows<E>,
    outputs: usize,
    bias: Option<&[F]>,
    out: RowsMut<F>,
    fill: impl Fn(Level, Range<usize>, Range<usize>, &mut [E]) + Sync,
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
        with_scratch(DEPTH.min(depth) * PANEL, |strip| {
            with_scratch(longest.min(rows) * PANEL, |sums| {
                for start in (0..depth.max(1)).step_by(DEPTH) {
                    let steps = start..depth.min(start + DEPTH);
                    fill(level, steps.clone(), columns.clone(), strip);
                    add(
                        level,
                        x.slice(first..last),
                        &steps,
                        strip,
                        columns.len(),
                        sums,
                    );
                }
                let finish = Finish {
                    sums,
                    bias: bias.map(|bias| &bias[columns.clone()]),
                    out,
                    rows: first..last,
                    columns,
                };
                F::dispatch(level, finish);
            });
        });
    });
}

/// Adds some steps of the product with a panel `[steps][64]` to the sums `[rows][64]`, or begins them.
fn add<F: Real, E: Operand<F>>(
    level: Level,
    x: Rows<E>,
    steps: &Range<usize>,
    panel: &[E],
    columns: usize,
    sums: &mut [F],
) {
    let from = From::pass(steps);
    assert!(panel.len() >= steps.len() * PANEL && sums.len() >= x.rows() * PANEL);
    for row in (0..x.rows()).step_by(ROWS) {
        let rows = ROWS.min(x.rows() - row);
        // SAFETY: A is these rows from the first step on, B the panel, C the sums of these rows; the first steps overwrite C.
        unsafe {
            let o = Operands {
                a: x.start().add(row * x.stride() + steps.start),
                a_row: x.stride(),
                a_step: 1,
                b: panel.as_ptr(),
                b_step: PANEL,
                ahead: FETCH * PANEL,
                c: sums.as_mut_ptr().add(row * PANEL),
                c_row: PANEL,
            };
            E::product(level, (rows, columns), steps.len(), o, from);
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
