//! What a product takes at each step along its depth: a number as it is, or two that are rounded to bfloat16.

use super::bf16::Pairs;
use super::packed::Weights;
use super::tile::{self, From, Operands};
use crate::memory::Plain;
use crate::simd::{self, Dot, DotKernel, Level, Simd};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};

/// What the operands of products are rounded to. What is summed, and what comes out, is as wide as what goes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// Nothing.
    #[default]
    F32,
    /// bfloat16, to nearest, ties to even: [`Weights::Bf16`].
    Bf16,
}

impl Compute {
    /// What panels hold for it.
    pub fn weights(self) -> Weights {
        match self {
            Self::F32 => Weights::F32,
            Self::Bf16 => Weights::Bf16,
        }
    }
}

/// What lies at one step of a row of A or a column of B.
pub(super) trait Operand<F: Real>: Plain + Send + Sync {
    /// How many numbers.
    const NUMBERS: usize;

    /// Writes rows into steps, `NUMBERS` rows each: the first is step `at.0` of `at.1` in every part of `to`
    /// `[parts][steps][by]`, and what is missing of the last is 0.
    ///
    /// # Safety
    /// Nobody else has these steps.
    unsafe fn cut(level: Level, rows: Rows<F>, to: Shared<Self>, at: (usize, usize));

    /// `C = A·B`, or what `from` says, at `level`.
    ///
    /// # Safety
    /// As for [`tile::product`].
    unsafe fn product(
        level: Level,
        size: (usize, usize),
        depth: usize,
        o: Operands<F, Self>,
        from: From,
    );
}

impl<F: Real> Operand<F> for F {
    const NUMBERS: usize = 1;

    unsafe fn cut(_: Level, rows: Rows<F>, to: Shared<F>, (first, steps): (usize, usize)) {
        for row in 0..rows.rows() {
            for (part, from) in rows.row(row).chunks(to.width()).enumerate() {
                // SAFETY: the caller's promise.
                let to = unsafe { to.part(part * steps + first + row, 0..from.len()) };
                to.copy_from_slice(from);
            }
        }
    }

    #[inline]
    unsafe fn product(
        level: Level,
        (rows, columns): (usize, usize),
        depth: usize,
        operands: Operands<F, F>,
        from: From,
    ) {
        let product = tile::Product {
            rows,
            columns,
            depth,
            operands,
            from,
        };
        F::dispatch(level, product);
    }
}

/// Two bfloat16, the first in the low half.
impl<F: Real> Operand<F> for u32 {
    const NUMBERS: usize = 2;

    unsafe fn cut(level: Level, rows: Rows<F>, to: Shared<u32>, at: (usize, usize)) {
        F::dispatch_dot(level, Join { rows, to, at });
    }

    #[inline]
    unsafe fn product(
        level: Level,
        size: (usize, usize),
        depth: usize,
        operands: Operands<F, u32>,
        from: From,
    ) {
        let product = Product {
            size,
            depth,
            operands,
            from,
        };
        F::dispatch_dot(level, product);
    }
}

struct Product<F> {
    size: (usize, usize),
    depth: usize,
    operands: Operands<F, u32>,
    from: From,
}

impl<F: Real> DotKernel<F> for Product<F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<F>>(self, s: S) {
        let (rows, columns) = self.size;
        // SAFETY: the promise of `Operand::product`'s caller.
        unsafe {
            tile::tiles::<F, S, Pairs>(s, rows, columns, self.depth, self.operands, self.from);
        }
    }
}

/// Words between rows of `inputs` numbers that [`narrow`] wrote.
pub(super) fn stride(inputs: usize) -> usize {
    inputs.next_multiple_of(16) / 2
}

/// Rows as words `[rows][stride]`, each two neighbours one, the last joined to 0 if it is alone.
pub(super) fn narrow<F: Real>(level: Level, rows: Rows<F>, to: RowsMut<u32>) {
    F::dispatch_dot(level, Narrow { rows, to });
}

/// [`narrow`], by the team.
pub(super) fn narrow_all<'a, F: Real>(rows: Rows<F>, to: &'a mut [u32]) -> Rows<'a, u32> {
    /// Rows a thread takes at a time.
    const SHARE: usize = 16;
    let (level, stride) = (simd::current(), stride(rows.width()));
    let shares = rows.rows().div_ceil(SHARE);
    let shared = RowsMut::new(&mut *to, rows.rows(), stride).share();
    team::parallel(shares, |share| {
        let some = share * SHARE..rows.rows().min((share + 1) * SHARE);
        // SAFETY: rows are narrowed once each.
        let to = unsafe { shared.slice(some.clone()) };
        narrow(level, rows.slice(some), to);
    });
    Rows::strided(to, rows.rows(), rows.width().div_ceil(2), stride)
}

struct Narrow<'a, F> {
    rows: Rows<'a, F>,
    to: RowsMut<'a, u32>,
}

impl<F: Real> DotKernel<F> for Narrow<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<F>>(self, s: S) {
        let Self { rows, mut to } = self;
        assert!(to.width() >= stride(rows.width()), "room for the words");
        for i in 0..rows.rows() {
            let (row, to) = (rows.row(i), to.row_mut(i).as_mut_ptr().cast::<u16>());
            for at in (0..row.len()).step_by(S::LANES) {
                // SAFETY: a row is read to its end; of what is written to there is a multiple of every vector.
                unsafe { s.store_bf16(to.add(at), read(s, row, at)) };
            }
        }
    }
}

/// A vector of a row, with zeros after its end.
#[inline(always)]
unsafe fn read<F: Real, S: Simd<F>>(s: S, row: &[F], at: usize) -> S::V {
    let left = row.len() - at;
    // SAFETY: so many are left.
    unsafe {
        if left >= S::LANES {
            s.load(row.as_ptr().add(at))
        } else {
            s.load_part(row.as_ptr().add(at), left)
        }
    }
}

/// [`Operand::cut`] of words: each two rows joined number by number.
struct Join<'a, F> {
    rows: Rows<'a, F>,
    to: Shared<'a, u32>,
    at: (usize, usize),
}

impl<F: Real> DotKernel<F> for Join<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<F>>(self, s: S) {
        let (rows, to, (first, steps)) = (self.rows, self.to, self.at);
        let by = to.width();
        for pair in 0..rows.rows().div_ceil(2) {
            let low = rows.row(2 * pair);
            let high = (2 * pair + 1 < rows.rows()).then(|| rows.row(2 * pair + 1));
            for (part, start) in (0..rows.width()).step_by(by).enumerate() {
                let end = rows.width().min(start + by);
                // SAFETY: nobody else has this step.
                let to = unsafe { to.part(part * steps + first + pair, 0..end - start) };
                for at in (start..end).step_by(S::LANES) {
                    let n = S::LANES.min(end - at);
                    // SAFETY: `n` numbers are left of the part, and so of both rows.
                    unsafe {
                        let zeros = s.splat(F::ZERO);
                        let low = read(s, &low[..end], at);
                        let high = high.map_or(zeros, |row| read(s, &row[..end], at));
                        let to = to.as_mut_ptr().add(at - start);
                        if n == S::LANES {
                            s.store_pairs(to, low, high);
                        } else {
                            let mut words = [0; 16];
                            s.store_pairs(words.as_mut_ptr(), low, high);
                            to.copy_from_nonoverlapping(words.as_ptr(), n);
                        }
                    }
                }
            }
        }
    }
}
