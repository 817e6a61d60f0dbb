//! Weights of bfloat16: a strip is `[inputs/2][strip]` words of two inputs, the first in the low half.

use std::ops::Range;

use half::bf16;

use super::tile::{self, FETCH, From, Operands, Step};
use super::walk::{self, Tiled};
use super::{DEPTH, PANEL};
use crate::Real;
use crate::simd::Dot;

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
pub(super) struct Pairs;

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

impl<F: Real, S: Dot<F>> Tiled<F, S> for Pairs {
    const ROWS: usize = S::TILE_ROWS;
    const VECTORS: usize = S::TILE_VECTORS;
    const PASS: usize = DEPTH;

    #[inline(always)]
    fn depth(strip: &[u32], width: usize) -> usize {
        strip.len() / width
    }

    #[inline(always)]
    unsafe fn tile<const M: usize, const N: usize>(
        s: S,
        o: walk::Operands,
        (row, column): (usize, usize),
        steps: Range<usize>,
        sums: *mut F,
    ) {
        let from = From::pass(&steps);
        let operands = Operands {
            a: o.x.start().wrapping_add(row * o.x.stride() + steps.start),
            a_row: o.x.stride(),
            a_step: 1,
            b: o.strip
                .as_ptr()
                .wrapping_add(steps.start * o.width + column),
            b_step: o.width,
            ahead: FETCH * o.width,
            c: sums,
            c_row: PANEL,
        };
        // SAFETY: the caller's promises.
        unsafe { tile::tile::<F, S, Self, M, N>(s, N * S::LANES, steps.len(), operands, from) };
    }
}
