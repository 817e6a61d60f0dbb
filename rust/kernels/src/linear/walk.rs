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

/// Calls `tile(rows, steps, kept)` for tiles of at most `most` rows, over all of them in passes of at most `pass` steps, which
/// stay in the second cache meanwhile. `kept` is the row of the sums that a tile has: its own if there are several passes, else
/// the first, which so stays in the first cache.
#[inline(always)]
pub(super) fn passes(
    rows: usize,
    depth: usize,
    (most, pass): (usize, usize),
    mut tile: impl FnMut(Range<usize>, Range<usize>, usize),
) {
    let mut first = 0_usize;
    loop {
        let last = depth.min(first.saturating_add(pass));
        for (row, m) in tile::heights(rows, most) {
            let kept = if pass < depth { row } else { 0 };
            tile(row..row + m, first..last, kept);
        }
        first = last;
        if first == depth {
            return;
        }
    }
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
    for column in (0..o.width).step_by(columns) {
        passes(
            o.x.rows(),
            depth,
            (T::ROWS, T::PASS),
            |rows, steps, kept| {
                let (row, m, last) = (rows.start, rows.len(), steps.end == depth);
                if column == 0 && last {
                    outputs.fetch(row, m);
                }
                // SAFETY: the rows and columns are inside the operands and the sums.
                unsafe {
                    let sums = sums.add(kept * PANEL + column);
                    if const { T::VECTORS == 4 } {
                        high::<F, S, T, 4>(s, o, m, (row, column), steps, sums);
                    } else {
                        high::<F, S, T, 2>(s, o, m, (row, column), steps, sums);
                    }
                    if last {
                        outputs.write(sums, (row, m), column..column + columns);
                    }
                }
            },
        );
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
