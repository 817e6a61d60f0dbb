//! Weights of eight bits: `H·w = scale·q` after a [`turn`], q within ±127, one scale an output.
//!
//! A strip is `[inputs/4][strip]` words of four inputs, padded to whole groups, the first in the lowest byte, each `q + 128`;
//! then `[strip]` scales.

use super::block::Ahead;
use super::bytes::{self, Turned};
use super::format::Room;
use super::input::GROUP;
use super::tile::{self, Operands, Step};
use super::{PANEL, turn};
use crate::memory::with_scratch;
use crate::simd::{self, Dot};
use crate::{Real, Rows};

/// Inputs at most: their products surely fit in 32 bits.
pub(super) const MOST: usize = 1 << 17;

/// Words of a strip.
pub(super) fn words(inputs: usize, width: usize) -> usize {
    (inputs.next_multiple_of(GROUP) / 4 + 1) * width
}

/// Turns each row and rounds it to the multiples of its largest magnitude over 127; a row with what is not finite becomes NaN.
#[inline(always)]
pub(super) fn pack<F: Real, S: Dot<F>>(
    s: S,
    rows: &[&[F]],
    width: usize,
    strip: &mut [u32],
    room: Room<F>,
) {
    let (words, scales) = strip.split_at_mut(strip.len() - width);
    let Room { row: room, bytes } = room;
    for (n, row) in rows.iter().enumerate() {
        room[..row.len()].copy_from_slice(row);
        room[row.len()..].fill(F::ZERO);
        turn::forward(s, room);
        scales[n] = bytes::bytes(s, room, bytes).to_bits();
        for (out, bytes) in words.chunks_exact_mut(width).zip(&*bytes) {
            out[n] = bytes ^ 0x8080_8080;
        }
    }
}

/// Reads a column back.
pub(super) fn unpack<F: Real>(strip: &[u32], width: usize, column: usize, row: &mut [F]) {
    let (words, scales) = strip.split_at(strip.len() - width);
    let scale = f32::from_bits(scales[column]);
    with_scratch(row.len().next_multiple_of(GROUP), |turned: &mut [F]| {
        for (quad, words) in turned.chunks_exact_mut(4).zip(words.chunks_exact(width)) {
            let bytes = (words[column] ^ 0x8080_8080).to_le_bytes();
            for (w, byte) in quad.iter_mut().zip(bytes) {
                *w = F::of(f64::from(f32::from(byte as i8) * scale));
            }
        }
        F::dispatch_dot(simd::current(), turn::Backward(turned));
        row.copy_from_slice(&turned[..row.len()]);
    });
}

/// Four numbers a step.
struct Quads;

impl<F: Real, S: Dot<F>> Step<F, S> for Quads {
    type A = u32;
    type B = u32;
    type X = S::W;
    type W = S::Quad;
    type Sum = S::W;
    const PASSES: usize = 1;

    #[inline(always)]
    unsafe fn x(s: S, a: *const u32, _: usize) -> S::W {
        // SAFETY: the caller's promise.
        s.splat_word(unsafe { *a })
    }

    #[inline(always)]
    unsafe fn w(s: S, b: *const u32, _: usize) -> S::Quad {
        // SAFETY: the caller's promise.
        s.quad(unsafe { s.load_words(b) })
    }

    #[inline(always)]
    fn add(s: S, x: S::W, w: S::Quad, sum: S::W) -> S::W {
        s.dot_quad(x, w, sum)
    }
}

/// The product of rows of bytes with a strip, into `sums` `[rows][64]`: whole sums of integers, times both scales.
///
/// # Safety
/// `sums` can be written for all rows and the width of the strip, a multiple of the level's tile.
#[inline(always)]
pub(super) unsafe fn product<F: Real, S: Dot<F>>(
    s: S,
    x: Rows<u32>,
    (strip, width): (&[u32], usize),
    sums: *mut F,
    ahead: Ahead<F>,
) {
    let (most, vectors) = S::QUAD_TILE;
    for column in (0..width).step_by(vectors * S::LANES) {
        for (row, m) in tile::heights(x.rows(), most) {
            if column == 0 {
                ahead.fetch(row, m);
            }
            let x = x.slice(row..row + m);
            // SAFETY: the rows and columns are inside the sums.
            unsafe {
                let sums = sums.add(row * PANEL + column);
                match (m, vectors) {
                    (1, 4) => tile::<F, S, 1, 4>(s, x, strip, width, column, sums),
                    (2, 4) => tile::<F, S, 2, 4>(s, x, strip, width, column, sums),
                    (3, 4) => tile::<F, S, 3, 4>(s, x, strip, width, column, sums),
                    (4, 4) => tile::<F, S, 4, 4>(s, x, strip, width, column, sums),
                    (5, 4) => tile::<F, S, 5, 4>(s, x, strip, width, column, sums),
                    (_, 4) => tile::<F, S, 6, 4>(s, x, strip, width, column, sums),
                    (1, _) => tile::<F, S, 1, 2>(s, x, strip, width, column, sums),
                    (2, _) => tile::<F, S, 2, 2>(s, x, strip, width, column, sums),
                    (3, _) => tile::<F, S, 3, 2>(s, x, strip, width, column, sums),
                    _ => tile::<F, S, 4, 2>(s, x, strip, width, column, sums),
                }
            }
        }
    }
}

/// `M` rows and `N` vectors from `column` on.
///
/// # Safety
/// The strip has those columns, `x` has `M` rows, and `sums` can be written for both.
#[inline(always)]
unsafe fn tile<F: Real, S: Dot<F>, const M: usize, const N: usize>(
    s: S,
    x: Rows<u32>,
    strip: &[u32],
    width: usize,
    column: usize,
    sums: *mut F,
) {
    let (words, scales) = strip.split_at(strip.len() - width);
    let rows: [Turned; M] = std::array::from_fn(|i| Turned::of(x.row(i)));
    let mut totals =
        rows.map(|row| [s.splat_word((-S::QUAD_OFFSET).wrapping_mul(row.sum) as u32); N]);
    // SAFETY: the caller's promises; rows hold as many words as the strip has steps, or more.
    unsafe {
        let o = Operands {
            a: x.start(),
            a_row: x.stride(),
            a_step: 1,
            b: words.as_ptr().add(column),
            b_step: width,
            c: sums,
            c_row: PANEL,
        };
        tile::accumulate::<F, S, Quads, M, N>(s, words.len() / width, o, &mut totals);
        for j in 0..N {
            let at = j * S::LANES;
            let w = s.load_f32(scales.as_ptr().add(column + at).cast());
            for (i, totals) in totals.iter().enumerate() {
                let x = s.splat(F::of(f64::from(rows[i].scale)));
                let y = s.mul(s.mul(s.integers(totals[j]), w), x);
                s.store(sums.add(i * PANEL + at), y);
            }
        }
    }
}
