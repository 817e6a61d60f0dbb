//! Weights of eight bits: `H·w = scale·q` after a [`turn`], q within ±127, a scale for [`GROUP`] inputs of an output.
//!
//! A strip is, for each group, `[16][strip]` words of four inputs, the first in the lowest byte, each `q + 128`; then `[strip]`
//! scales of bfloat16. The last group may have 8 words instead.

use std::ops::Range;

use half::bf16;

use super::format::Room;
use super::tile::{self, FETCH, Operands, Step};
use super::walk::{self, Tiled};
use super::{PANEL, bytes, input, turn};
use crate::Real;
use crate::memory::with_scratch;
use crate::simd::{self, Dot};

/// Inputs that share a scale.
pub(super) const GROUP: usize = 64;

/// Words of a strip of such a group. A call in the loop over groups would put all totals into memory.
#[inline(always)]
fn group_words(width: usize) -> usize {
    GROUP / 4 * width + width / 2
}

/// Words of a strip.
pub(super) fn words(inputs: usize, width: usize) -> usize {
    let padded = inputs.next_multiple_of(input::GROUP);
    padded / 4 * width + padded.div_ceil(GROUP) * width / 2
}

/// Turns each row and rounds each group to the multiples of its largest magnitude over 127. A group with what is not finite
/// becomes NaN.
#[inline(always)]
pub(super) fn pack<F: Real, S: Dot<F>>(
    s: S,
    rows: &[&[F]],
    width: usize,
    strip: &mut [u32],
    room: Room<F>,
) {
    let Room {
        padded,
        turned,
        bytes,
    } = room;
    for (n, row) in rows.iter().enumerate() {
        turn::forward(s, input::whole(row, padded), turned);
        let groups = strip.chunks_mut(group_words(width));
        for (group, strip) in turned.chunks(GROUP).zip(groups) {
            let (words, scales) = strip.split_at_mut(group.len() / 4 * width);
            let bytes = &mut bytes[..group.len() / 4];
            let scale = bytes::weights(s, group, bytes);
            scales[n / 2] |= u32::from(scale.to_bits()) << (16 * (n % 2));
            for (out, bytes) in words.chunks_exact_mut(width).zip(&*bytes) {
                out[n] = bytes ^ 0x8080_8080;
            }
        }
    }
}

/// Reads a column back.
pub(super) fn unpack<F: Real>(strip: &[u32], width: usize, column: usize, row: &mut [F]) {
    let padded = row.len().next_multiple_of(input::GROUP);
    with_scratch(padded, |turned: &mut [F]| {
        let groups = strip.chunks(group_words(width));
        for (group, strip) in turned.chunks_mut(GROUP).zip(groups) {
            let (words, scales) = strip.split_at(group.len() / 4 * width);
            let bits = scales[column / 2] >> (16 * (column % 2));
            let scale = bf16::from_bits(bits as u16).to_f32();
            for (quad, words) in group.chunks_exact_mut(4).zip(words.chunks_exact(width)) {
                let bytes = (words[column] ^ 0x8080_8080).to_le_bytes();
                for (w, byte) in quad.iter_mut().zip(bytes) {
                    *w = F::of(f64::from(f32::from(byte as i8) * scale));
                }
            }
        }
        F::dispatch_dot(simd::current(), turn::Backward(turned));
        row.copy_from_slice(&turned[..row.len()]);
    });
}

/// Four numbers a step.
pub(super) struct Quads;

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

/// Exact sums of a group times their scale, added in order of the groups, times the scale of the row. A product and a sum,
/// each rounded, give the same bits at every level.
impl<F: Real, S: Dot<F>> Tiled<F, S> for Quads {
    const ROWS: usize = S::QUAD_TILE.0;
    const VECTORS: usize = S::QUAD_TILE.1;

    #[inline(always)]
    fn depth(strip: &[u32], width: usize) -> usize {
        strip.len().div_ceil(group_words(width))
    }

    #[inline(always)]
    unsafe fn tile<const M: usize, const N: usize>(
        s: S,
        o: walk::Operands,
        (row, column): (usize, usize),
        steps: Range<usize>,
        sums: *mut F,
    ) {
        let (x_row, width) = (o.x.stride(), o.width);
        let mut totals = [[s.splat(F::ZERO); N]; M];
        // Of the last group, which may be shorter.
        let rest = (o.strip.len() - (steps.len().max(1) - 1) * group_words(width)) / width;
        // SAFETY: the caller's promises. Pointers, since checks of bounds for each row would cost as much as the sums.
        unsafe {
            let (mut x, mut w) = (o.x.start().add(row * x_row), o.strip.as_ptr().add(column));
            for group in steps.clone() {
                let words = if group + 1 < steps.end {
                    GROUP / 4
                } else {
                    rest
                };
                let mut exact = [[s.splat_word(0); N]; M];
                if S::BIASED {
                    for (i, exact) in exact.iter_mut().enumerate() {
                        *exact = [s.splat_word(*x.add(i * x_row + words)); N];
                    }
                }
                let operands = Operands {
                    a: x,
                    a_row: x_row,
                    a_step: 1,
                    b: w,
                    b_step: width,
                    ahead: FETCH * width,
                    c: sums,
                    c_row: PANEL,
                };
                tile::accumulate::<F, S, Self, M, N>(s, words, operands, &mut exact);
                // Sixteen bits each, from the column on.
                let scales = w.add(words * width - column).cast::<bf16>().add(column);
                let scale: [_; N] = std::array::from_fn(|j| s.load_bf16(scales.add(j * S::LANES)));
                for (totals, exact) in totals.iter_mut().zip(&exact) {
                    for j in 0..N {
                        totals[j] = s.add(totals[j], s.mul(s.integers(exact[j]), scale[j]));
                    }
                }
                x = x.wrapping_add(bytes::TURNED);
                w = w.wrapping_add(group_words(width));
            }
            for (i, totals) in totals.into_iter().enumerate() {
                let scale = o.x.row(row + i)[o.x.width() - 1];
                let scale = s.splat(F::of(f64::from(f32::from_bits(scale))));
                for (j, total) in totals.into_iter().enumerate() {
                    s.store(sums.add(i * PANEL + j * S::LANES), s.mul(total, scale));
                }
            }
        }
    }
}
