//! The loops over the tiles of a strip, the same for every narrow format.

use std::ops::Range;

use super::PANEL;
use super::block::Outputs;
use super::tile;
use crate::simd::Dot;
use crate::{Real, Rows};

/// Narrowed rows, and the strip they are multiplied with.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub x: Rows<'a, u32>,
    pub strip: &'a [u32],
    /// Columns of the strip; a multiple of the level's tile.
    pub width: usize,
}

/// How a format multiplies one tile.
pub(super) trait Tiled<F: Real, S: Dot<F>> {
    /// Rows of the largest tile, at most 6.
    const ROWS: usize;
    /// Vectors across a tile, 2 or 4.
    const VECTORS: usize;
    /// Steps along the depth that all rows pass before the next.
    const PASS: usize = usize::MAX;

    /// Steps of a strip.
    fn depth(strip: &[u32], width: usize) -> usize;

    /// `M` rows and `N` vectors from the given row and column on, over some steps: into `sums` `[M][64]` if the steps begin
    /// at 0, else added to it.
    ///
    /// # Safety
    /// The operands have those rows, columns and steps, and `sums` can be written for them.
    unsafe fn tile<const M: usize, const N: usize>(
        s: S,
        o: Operands,
        at: (usize, usize),
        steps: Range<usize>,
        sums: *mut F,
    );
}

/// Cuts a depth into passes of at most `pass` steps, which stay in the second cache while all rows pass; at least one.
#[inline(always)]
pub(super) fn passes(depth: usize, pass: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = (0..depth.max(1)).step_by(pass);
    starts.map(move |start| start..depth.min(start.saturating_add(pass)))
}

/// The product of all rows with all columns of a strip; `sums` has room for `[rows][64]`.
///
/// # Safety
/// `sums` can be written for all rows and the width of the strip.
#[inline(always)]
pub(super) unsafe fn product<F: Real, S: Dot<F>, T: Tiled<F, S>>(
    s: S,
    o: Operands,
    sums: *mut F,
    outputs: Outputs<F>,
) {
    let depth = T::depth(o.strip, o.width);
    let columns = T::VECTORS * S::LANES;
    // Loops and no closures: what is not inlined into its kernel is not compiled for the level.
    for column in (0..o.width).step_by(columns) {
        for steps in passes(depth, T::PASS) {
            for (row, m) in tile::heights(o.x.rows(), T::ROWS) {
                let last = steps.end == depth;
                if column == 0 && last {
                    outputs.fetch(row, m);
                }
                // In one pass all tiles have the same place among the sums, which so stays in the first cache.
                let kept = if T::PASS < depth { row } else { 0 };
                // SAFETY: the rows and columns are inside the operands and the sums.
                unsafe {
                    let sums = sums.add(kept * PANEL + column);
                    if const { T::VECTORS == 4 } {
                        high::<F, S, T, 4>(s, o, m, (row, column), steps.clone(), sums);
                    } else {
                        high::<F, S, T, 2>(s, o, m, (row, column), steps.clone(), sums);
                    }
                    if last {
                        outputs.write(sums, (row, m), column..column + columns);
                    }
                }
            }
        }
    }
}

/// A tile of `m` rows.
///
/// # Safety
/// As for [`Tiled::tile`].
#[inline(always)]
unsafe fn high<F: Real, S: Dot<F>, T: Tiled<F, S>, const N: usize>(
    s: S,
    o: Operands,
    m: usize,
    at: (usize, usize),
    steps: Range<usize>,
    sums: *mut F,
) {
    // SAFETY: the caller's promises.
    unsafe {
        match m {
            1 => T::tile::<1, N>(s, o, at, steps, sums),
            2 => T::tile::<2, N>(s, o, at, steps, sums),
            3 if const { T::ROWS > 2 } => T::tile::<3, N>(s, o, at, steps, sums),
            4 if const { T::ROWS > 2 } => T::tile::<4, N>(s, o, at, steps, sums),
            5 if const { T::ROWS > 4 } => T::tile::<5, N>(s, o, at, steps, sums),
            6 if const { T::ROWS > 4 } => T::tile::<6, N>(s, o, at, steps, sums),
            _ => unreachable!("tiles have at most {} rows", T::ROWS),
        }
    }
}
