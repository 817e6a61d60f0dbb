//! Weights of bfloat16: a strip is `[inputs/2][strip]` words of two inputs, the first in the low half.

use half::bf16;

use super::block::Ahead;
use super::tile::{self, From, Operands, Step};
use super::{DEPTH, PANEL};
use crate::simd::Dot;
use crate::{Real, Rows};

/// Words of a strip.
pub(super) fn words(inputs: usize, width: usize) -> usize {
    inputs.div_ceil(2) * width
}

#[inline(always)]
fn bits<F: Real>(value: F) -> u32 {
    u32::from(bf16::from_f32(value.to_f64() as f32).to_bits())
}

/// Rounds the rows to nearest, ties to even.
#[inline(always)]
pub(super) fn pack<F: Real>(rows: &[&[F]], width: usize, strip: &mut [u32]) {
    // Sixteen inputs at a time: a cache line of each of the rows, which together stay in the first cache.
    for (block, out) in strip.chunks_mut(8 * width).enumerate() {
        for (n, row) in rows.iter().enumerate() {
            for (k, pair) in row[block * 16..].chunks(2).take(8).enumerate() {
                let high = pair.get(1).map_or(0, |&w| bits(w));
                out[k * width + n] = bits(pair[0]) | high << 16;
            }
        }
    }
}

/// Reads a column back.
pub(super) fn unpack<F: Real>(strip: &[u32], width: usize, column: usize, row: &mut [F]) {
    for (pair, words) in row.chunks_mut(2).zip(strip.chunks_exact(width)) {
        let word = words[column];
        for (w, bits) in pair.iter_mut().zip([word << 16, word & 0xFFFF_0000]) {
            *w = F::of(f64::from(f32::from_bits(bits)));
        }
    }
}

/// Two numbers a step.
struct Pairs;

impl<F: Real, S: Dot<F>> Step<F, S> for Pairs {
    type A = u32;
    type B = u32;
    type X = S::W;
    type W = S::W;
    type Sum = S::V;
    const PASSES: usize = S::PAIR_PASSES;

    #[inline(always)]
    unsafe fn x(s: S, a: *const u32, pass: usize) -> S::W {
        // SAFETY: the caller's promise.
        s.pair(s.splat_word(unsafe { *a }), pass)
    }

    #[inline(always)]
    unsafe fn w(s: S, b: *const u32, pass: usize) -> S::W {
        // SAFETY: the caller's promise.
        s.pair(unsafe { s.load_words(b) }, pass)
    }

    #[inline(always)]
    fn add(s: S, x: S::W, w: S::W, sum: S::V) -> S::V {
        s.dot_pair(x, w, sum)
    }
}

/// The product of rows of pairs with a strip, into `sums` `[rows][64]`.
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
    let depth = strip.len() / width;
    let step = S::TILE_VECTORS * S::LANES;
    let mut k = 0;
    while k < depth || k == 0 {
        let from = if k == 0 { From::Zero } else { From::Sum };
        let steps = DEPTH.min(depth - k);
        for column in (0..width).step_by(step) {
            for (row, rows) in tile::heights(x.rows(), S::TILE_ROWS) {
                if column == 0 && k + steps == depth {
                    ahead.fetch(row, rows);
                }
                // SAFETY: A is these rows, B the strip from `k` and `column` on, C its part of the sums, which the first
                // pass initialises.
                unsafe {
                    let o = Operands {
                        a: x.start().wrapping_add(row * x.stride() + k),
                        a_row: x.stride(),
                        a_step: 1,
                        b: strip.as_ptr().wrapping_add(k * width + column),
                        b_step: width,
                        c: sums.add(row * PANEL + column),
                        c_row: PANEL,
                    };
                    match S::TILE_VECTORS {
                        4 => tile::rows::<F, S, Pairs, 4>(s, rows, step, steps, o, from),
                        _ => tile::rows::<F, S, Pairs, 2>(s, rows, step, steps, o, from),
                    }
                }
            }
        }
        k += DEPTH;
    }
}
