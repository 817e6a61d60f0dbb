//! The matrix tile: `C (+)= A·B` with the accumulators in registers.
//!
//! Lanes lie along the columns of B and C, and each element of C is a chain of fused multiply-adds over the depth in order;
//! every [`CHAIN`] steps a new one begins, which is added to those before. How a product is cut into tiles changes no bit,
//! nor does it whether the depth is walked in one call or in several of whole chains.

use std::marker::PhantomData;
use std::ops::Range;

use crate::Real;
use crate::simd::{self, Element, Kernel, Simd};

/// Where the operands of a product lie.
#[derive(Clone, Copy)]
pub(crate) struct Operands<F, A = F, B = A> {
    /// A, `[rows, depth]`.
    pub a: *const A,
    /// Elements between rows of A.
    pub a_row: usize,
    /// Elements between columns of A.
    pub a_step: usize,
    /// B, `[depth, columns]`, each row readable up to the next multiple of 16 columns.
    pub b: *const B,
    /// Elements between rows of B.
    pub b_step: usize,
    /// Elements that B is fetched ahead of its use; [`FETCH`] rows, unless what follows lies elsewhere.
    pub ahead: usize,
    /// C, `[rows, columns]`.
    pub c: *mut F,
    /// Elements between rows of C.
    pub c_row: usize,
}

/// What becomes of what C holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// It is overwritten.
    Zero,
    /// It is where the first chain begins.
    Output,
    /// The chains are added to it.
    Sum,
}

impl From {
    /// In one of several passes along the depth.
    #[inline(always)]
    pub(crate) fn pass(steps: &Range<usize>) -> Self {
        if steps.start == 0 {
            Self::Zero
        } else {
            Self::Sum
        }
    }
}

/// What one step along the depth takes of A and of B.
pub(crate) trait Step<F: Real, S: Simd<F>> {
    /// An element of A.
    type A: Copy;
    /// An element of B.
    type B: Copy;
    /// One element of A in all lanes.
    type X: Copy;
    /// A vector of B.
    type W: Copy;
    /// The sums of a vector of columns.
    type Sum: Copy;
    /// In how many passes a step is made.
    const PASSES: usize;
    /// What `pass` takes of A, which has `PASSES` elements a step if they differ from pass to pass.
    ///
    /// # Safety
    /// The elements of the step can be read.
    unsafe fn x(s: S, a: *const Self::A, pass: usize) -> Self::X;
    /// What `pass` takes of `LANES` columns of B.
    ///
    /// # Safety
    /// The elements can be read.
    unsafe fn w(s: S, b: *const Self::B, pass: usize) -> Self::W;
    /// `sum + x·w`.
    fn add(s: S, x: Self::X, w: Self::W, sum: Self::Sum) -> Self::Sum;
}

/// One number a step; those of B lie as `E`.
struct Single<E>(PhantomData<E>);

impl<F: Real, S: Simd<F>, E: Element<F>> Step<F, S> for Single<E> {
    type A = F;
    type B = E;
    type X = S::V;
    type W = S::V;
    type Sum = S::V;
    const PASSES: usize = 1;

    #[inline(always)]
    unsafe fn x(s: S, a: *const F, _: usize) -> S::V {
        // SAFETY: the caller's promise.
        s.splat(unsafe { *a })
    }

    #[inline(always)]
    unsafe fn w(s: S, b: *const E, _: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { E::load(s, b) }
    }

    #[inline(always)]
    fn add(s: S, x: S::V, w: S::V, sum: S::V) -> S::V {
        s.fma(x, w, sum)
    }
}

/// Steps summed in one chain. What a sum loses grows with the longest run of additions: one chain of 576 or 1536 steps lost
/// twice as much as these do.
const CHAIN: usize = 256;

/// Steps along the depth that B is fetched ahead of its use.
pub(crate) const FETCH: usize = 8;

/// `sums += A·B` for `M` rows and `N` vectors of columns.
///
/// # Safety
/// A and B can be read for `M` rows, `depth` and `N` whole vectors.
#[inline(always)]
pub(crate) unsafe fn accumulate<
    F: Real,
    S: Simd<F>,
    T: Step<F, S>,
    const M: usize,
    const N: usize,
>(
    s: S,
    depth: usize,
    o: Operands<F, T::A, T::B>,
    sums: &mut [[T::Sum; N]; M],
) {
    let (mut a, mut b) = (o.a, o.b);
    for _ in 0..depth {
        for j in 0..N {
            if (j * S::LANES * size_of::<T::B>()).is_multiple_of(64) {
                simd::prefetch(b.wrapping_add(o.ahead + j * S::LANES));
            }
        }
        for pass in 0..T::PASSES {
            // SAFETY: inside the operands, as the caller promises.
            unsafe {
                let w: [T::W; N] = std::array::from_fn(|j| T::w(s, b.add(j * S::LANES), pass));
                for (i, row) in sums.iter_mut().enumerate() {
                    let x = T::x(s, a.add(i * o.a_row), pass);
                    for (sum, w) in row.iter_mut().zip(w) {
                        *sum = T::add(s, x, w, *sum);
                    }
                }
            }
        }
        a = a.wrapping_add(o.a_step);
        b = b.wrapping_add(o.b_step);
    }
}

/// One tile of `M` rows and `N` vectors.
///
/// # Safety
/// The operands are valid for `M` rows, `depth` and `columns ≤ N · LANES`.
#[inline(always)]
pub(crate) unsafe fn tile<F: Real, S: Simd<F>, T, const M: usize, const N: usize>(
    s: S,
    columns: usize,
    depth: usize,
    o: Operands<F, T::A, T::B>,
    from: From,
) where
    T: Step<F, S, Sum = S::V>,
{
    let lanes = |j: usize| columns.saturating_sub(j * S::LANES).min(S::LANES);
    let whole = columns == N * S::LANES;
    let mut k = 0;
    // SAFETY: every access is inside the operands, as the caller promises.
    unsafe {
        let place = |i: usize, j: usize| o.c.add(i * o.c_row + j * S::LANES);
        let load = |i: usize, j: usize| {
            if whole {
                s.load(place(i, j))
            } else {
                s.load_part(place(i, j), lanes(j))
            }
        };
        loop {
            let mut sums = [[s.splat(F::ZERO); N]; M];
            if from == From::Output && k == 0 {
                for (i, row) in sums.iter_mut().enumerate() {
                    for (j, sum) in row.iter_mut().enumerate() {
                        *sum = load(i, j);
                    }
                }
            }
            let chain = Operands {
                a: o.a.wrapping_add(k * o.a_step),
                b: o.b.wrapping_add(k * o.b_step),
                ..o
            };
            accumulate::<F, S, T, M, N>(s, CHAIN.min(depth - k), chain, &mut sums);
            let onto = from == From::Sum || k > 0;
            for (i, row) in sums.into_iter().enumerate() {
                for (j, mut sum) in row.into_iter().enumerate() {
                    if onto {
                        sum = s.add(load(i, j), sum);
                    }
                    if whole {
                        s.store(place(i, j), sum);
                    } else {
                        s.store_part(place(i, j), sum, lanes(j));
                    }
                }
            }
            k += CHAIN;
            if k >= depth {
                break;
            }
        }
    }
}

/// Cuts rows into as few tiles as there must be, of even heights: the first row and the height of each.
#[inline(always)]
pub(crate) fn heights(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = rows.div_ceil(most);
    (0..tiles).map(move |tile| {
        let (first, last) = (tile * rows / tiles, (tile + 1) * rows / tiles);
        (first, last - first)
    })
}

/// At most `TILE_ROWS` rows for `N` vectors of columns.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn rows<F: Real, S: Simd<F>, T, const N: usize>(
    s: S,
    rows: usize,
    columns: usize,
    depth: usize,
    o: Operands<F, T::A, T::B>,
    from: From,
) where
    T: Step<F, S, Sum = S::V>,
{
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => tile::<F, S, T, 1, N>(s, columns, depth, o, from),
            2 => tile::<F, S, T, 2, N>(s, columns, depth, o, from),
            3 => tile::<F, S, T, 3, N>(s, columns, depth, o, from),
            4 => tile::<F, S, T, 4, N>(s, columns, depth, o, from),
            5 => tile::<F, S, T, 5, N>(s, columns, depth, o, from),
            _ => tile::<F, S, T, 6, N>(s, columns, depth, o, from),
        }
    }
}

/// All rows for `N` vectors of columns.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn strip<F: Real, S: Simd<F>, T, const N: usize>(
    s: S,
    all: usize,
    columns: usize,
    depth: usize,
    o: Operands<F, T::A, T::B>,
    from: From,
) where
    T: Step<F, S, Sum = S::V>,
{
    for (row, m) in heights(all, S::TILE_ROWS) {
        // SAFETY: these rows are inside the operands.
        unsafe {
            let o = Operands {
                a: o.a.add(row * o.a_row),
                c: o.c.add(row * o.c_row),
                ..o
            };
            rows::<F, S, T, N>(s, m, columns, depth, o, from);
        }
    }
}

/// All rows and columns, tile by tile.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn tiles<F: Real, S: Simd<F>, T>(
    s: S,
    rows: usize,
    columns: usize,
    depth: usize,
    o: Operands<F, T::A, T::B>,
    from: From,
) where
    T: Step<F, S, Sum = S::V>,
{
    let mut column = 0;
    while column < columns {
        let left = (columns - column).div_ceil(S::LANES);
        let width = |vectors: usize| (vectors * S::LANES).min(columns - column);
        let mut vectors = S::TILE_VECTORS.min(left);
        // SAFETY: the caller promises the operands; columns from `column` on are inside them.
        unsafe {
            let o = Operands {
                b: o.b.add(column),
                c: o.c.add(column),
                ..o
            };
            // One row alone has registers for a wide strip, which then reads the panel once, in order, and sums that do not wait
            // for each other.
            if rows == 1 && S::TILE_VECTORS < 4 && left >= 8 {
                vectors = 8;
                tile::<F, S, T, 1, 8>(s, width(8), depth, o, from);
            } else if rows == 1 && S::TILE_VECTORS < 4 && left >= 4 {
                vectors = 4;
                tile::<F, S, T, 1, 4>(s, width(4), depth, o, from);
            } else {
                match vectors {
                    1 => strip::<F, S, T, 1>(s, rows, width(1), depth, o, from),
                    3 if S::TILE_VECTORS > 2 => {
                        strip::<F, S, T, 3>(s, rows, width(3), depth, o, from);
                    }
                    4 if S::TILE_VECTORS > 2 => {
                        strip::<F, S, T, 4>(s, rows, width(4), depth, o, from);
                    }
                    _ => strip::<F, S, T, 2>(s, rows, width(2), depth, o, from),
                }
            }
        }
        column += vectors * S::LANES;
    }
}

/// `C = A·B`, or `C += A·B`, for any number of rows and columns.
///
/// It is compiled once a level, not into each kernel that calls it.
///
/// # Safety
/// The operands are valid for `rows`, `depth` and `columns`, and C overlaps neither A nor B.
#[inline(always)]
pub(crate) unsafe fn product<F: Real, S: Simd<F>, E: Element<F>>(
    _: S,
    rows: usize,
    columns: usize,
    depth: usize,
    operands: Operands<F, F, E>,
    from: From,
) {
    F::dispatch(
        S::LEVEL,
        Product {
            rows,
            columns,
            depth,
            operands,
            from,
        },
    );
}

pub(super) struct Product<F, E> {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub operands: Operands<F, F, E>,
    pub from: From,
}

impl<F: Real, E: Element<F>> Kernel<F> for Product<F, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            rows,
            columns,
            depth,
            operands: o,
            from,
        } = self;
        // SAFETY: whoever made it promises the operands.
        unsafe { tiles::<F, S, Single<E>>(s, rows, columns, depth, o, from) };
    }
}
