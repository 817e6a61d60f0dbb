//! Weights of four bits: `w = scale·q + least`, q from 0 to 15, a scale and a least value of 16 bits for [`GROUP`] inputs of an
//! output.
//!
//! A strip is, for each group, `[4][strip]` words of eight inputs, `[strip]` scales and `[strip]` least values. The low nibbles
//! of a word are its first four inputs, the high ones the others, so that a mask gives four bytes for the four bytes of a row.

use std::ops::Range;

use half::f16;

use super::input::GROUP;
use super::tile::{self, FETCH, Operands, Step};
use super::walk::{self, Tiled};
use super::{PANEL, bytes};
use crate::Real;
use crate::simd::Dot;

/// Words of one column of a group.
const WORDS: usize = GROUP / 8;

/// The largest magnitude of a weight: of 16 bits.
pub(super) const LARGEST: f32 = 65_504.0;

/// How much of a group's range its grid spans: what lies beyond is cut off, for finer steps.
const SPANS: [f32; 4] = [1.0, 0.93, 0.86, 0.79];

/// Words of a strip of a group. A call in the loop over groups would put all totals into memory.
#[inline(always)]
fn group_words(width: usize) -> usize {
    WORDS * width + width
}

/// Words of a strip.
pub(super) fn words(inputs: usize, width: usize) -> usize {
    inputs.div_ceil(GROUP) * group_words(width)
}

/// Rounds each group to the grid with the least squared error of those it tries. A group with what is not finite becomes NaN.
#[inline(always)]
pub(super) fn pack<F: Real>(rows: &[&[F]], width: usize, strip: &mut [u32]) {
    for (g, strip) in strip.chunks_exact_mut(group_words(width)).enumerate() {
        let (words, facts) = strip.split_at_mut(WORDS * width);
        let (scales, least) = facts.split_at_mut(width / 2);
        for (n, row) in rows.iter().enumerate() {
            let row = &row[g * GROUP..];
            // Beyond the inputs a group repeats the last, which its grid has anyway.
            let mut group = [row[row.len().min(GROUP) - 1].to_f64() as f32; GROUP];
            for (to, w) in group.iter_mut().zip(row) {
                *to = w.to_f64() as f32;
            }
            let (grid, q) = quantise(&group);
            scales[n / 2] |= u32::from(grid.scale.to_bits()) << (16 * (n % 2));
            least[n / 2] |= u32::from(grid.least.to_bits()) << (16 * (n % 2));
            for (t, q) in q.chunks_exact(8).enumerate() {
                let mut bytes = [0; 4];
                for (b, byte) in bytes.iter_mut().enumerate() {
                    *byte = q[b] | q[b + 4] << 4;
                }
                words[t * width + n] = u32::from_le_bytes(bytes);
            }
        }
    }
}

/// The values `scale·q + least`.
#[derive(Clone, Copy)]
struct Grid {
    scale: f16,
    least: f16,
}

impl Grid {
    #[inline(always)]
    fn new(scale: f32, least: f32) -> Self {
        Self {
            scale: f16::from_f32(scale),
            least: f16::from_f32(least),
        }
    }

    /// The nearest q of each value, as floats.
    #[inline(always)]
    fn nearest(self, group: &[f32; GROUP]) -> [f32; GROUP] {
        let (scale, least) = (self.scale.to_f32(), self.least.to_f32());
        let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
        group.map(|w| ((w - least) * inverse).round_ties_even().clamp(0.0, 15.0))
    }

    /// The squared error of `q`.
    #[inline(always)]
    fn error(self, group: &[f32; GROUP], q: &[f32; GROUP]) -> f32 {
        let (scale, least) = (self.scale.to_f32(), self.least.to_f32());
        let mut errors = [0.0; 8];
        for (w, q) in group.chunks_exact(8).zip(q.chunks_exact(8)) {
            for (error, (w, q)) in errors.iter_mut().zip(w.iter().zip(q)) {
                let off = w - (q * scale + least);
                *error += off * off;
            }
        }
        errors.iter().sum()
    }

    /// The grid nearest to a group that has these q.
    #[inline(always)]
    fn fitted(group: &[f32; GROUP], q: &[f32; GROUP]) -> Option<Self> {
        let count = GROUP as f32;
        let (mut w_sum, mut q_sum, mut both, mut square) = (0.0, 0.0, 0.0, 0.0);
        for (w, q) in group.iter().zip(q) {
            (w_sum, q_sum) = (w_sum + w, q_sum + q);
            (both, square) = (both + w * q, square + q * q);
        }
        let spread = count * square - q_sum * q_sum;
        let scale = (count * both - w_sum * q_sum) / spread;
        (spread > 0.0).then(|| Self::new(scale, (w_sum - scale * q_sum) / count))
    }
}

/// A grid of a group, and its nibbles: from the least to the largest, and narrower ones, each fitted to what was rounded to it.
#[inline(always)]
fn quantise(group: &[f32; GROUP]) -> (Grid, [u8; GROUP]) {
    if !group.iter().all(|w| w.is_finite()) {
        let grid = Grid {
            scale: f16::ZERO,
            least: f16::NAN,
        };
        return (grid, [0; GROUP]);
    }
    let least = group.iter().fold(f32::INFINITY, |a, &w| a.min(w));
    let most = group.iter().fold(f32::NEG_INFINITY, |a, &w| a.max(w));
    let mut best = (f32::INFINITY, Grid::new(0.0, least), [0.0; GROUP]);
    let mut consider = |grid: Grid, q: [f32; GROUP]| {
        let error = grid.error(group, &q);
        if error < best.0 {
            best = (error, grid, q);
        }
    };
    for span in SPANS {
        let cut = (1.0 - span) / 2.0 * (most - least);
        let grid = Grid::new((most - least) * span / 15.0, least + cut);
        let q = grid.nearest(group);
        consider(grid, q);
        if let Some(grid) = Grid::fitted(group, &q) {
            consider(grid, grid.nearest(group));
        }
    }
    (best.1, best.2.map(|q| q as u8))
}

/// Reads a column back.
pub(super) fn unpack<F: Real>(strip: &[u32], width: usize, column: usize, row: &mut [F]) {
    let groups = strip.chunks_exact(group_words(width));
    for (group, strip) in row.chunks_mut(GROUP).zip(groups) {
        let (words, facts) = strip.split_at(WORDS * width);
        let (scales, least) = facts.split_at(width / 2);
        let of = |words: &[u32]| {
            let bits = words[column / 2] >> (16 * (column % 2));
            f16::from_bits(bits as u16).to_f32()
        };
        let (scale, least) = (of(scales), of(least));
        for (eight, words) in group.chunks_mut(8).zip(words.chunks_exact(width)) {
            let bytes = words[column].to_le_bytes();
            let low = bytes.iter().map(|b| b & 15);
            let nibbles = low.chain(bytes.iter().map(|b| b >> 4));
            for (w, q) in eight.iter_mut().zip(nibbles) {
                *w = F::of(f64::from(f32::from(q) * scale + least));
            }
        }
    }
}

/// Eight numbers a step.
pub(super) struct Nibbles;

impl<F: Real, S: Dot<F>> Step<F, S> for Nibbles {
    type A = u32;
    type B = u32;
    type X = S::W;
    type W = S::W;
    type Sum = S::W;
    const PASSES: usize = 2;

    #[inline(always)]
    unsafe fn x(s: S, a: *const u32, pass: usize) -> S::W {
        // SAFETY: the caller's promise.
        s.splat_word(unsafe { *a.add(pass) })
    }

    #[inline(always)]
    unsafe fn w(s: S, b: *const u32, pass: usize) -> S::W {
        // SAFETY: the caller's promise.
        s.nibbles(unsafe { s.load_words(b) }, pass)
    }

    #[inline(always)]
    fn add(s: S, x: S::W, w: S::W, sum: S::W) -> S::W {
        s.dot_nibbles(x, w, sum)
    }
}

/// Exact sums of a group, times both scales, and the least value times the sum of the row, added in order of the groups.
impl<F: Real, S: Dot<F>> Tiled<F, S> for Nibbles {
    const ROWS: usize = S::NIBBLE_TILE.0;
    const VECTORS: usize = S::NIBBLE_TILE.1;

    #[inline(always)]
    fn depth(strip: &[u32], width: usize) -> usize {
        strip.len() / group_words(width)
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
        // SAFETY: the caller's promises. Pointers, since checks of bounds for each row would cost as much as the sums.
        unsafe {
            let float = |word: *const u32| s.splat(F::of(f64::from(*word.cast::<f32>())));
            let (mut x, mut w) = (o.x.start().add(row * x_row), o.strip.as_ptr().add(column));
            for _ in steps {
                let mut exact = [[s.splat_word(0); N]; M];
                let operands = Operands {
                    a: x,
                    a_row: x_row,
                    a_step: 2,
                    b: w,
                    b_step: width,
                    ahead: FETCH * width,
                    c: sums,
                    c_row: PANEL,
                };
                tile::accumulate::<F, S, Self, M, N>(s, WORDS, operands, &mut exact);
                // Sixteen bits each, from the column on.
                let scales = w.add(WORDS * width - column).cast::<u16>().add(column);
                let of = |row: usize, j: usize| s.load_f16(scales.add(row * width + j * S::LANES));
                let scale: [_; N] = std::array::from_fn(|j| of(0, j));
                let least: [_; N] = std::array::from_fn(|j| of(1, j));
                for (i, (totals, exact)) in totals.iter_mut().zip(&exact).enumerate() {
                    let facts = x.add(i * x_row + GROUP / 4);
                    let (by, sum) = (float(facts), float(facts.add(1)));
                    for j in 0..N {
                        let product = s.mul(s.integers(exact[j]), by);
                        totals[j] = s.fma(least[j], sum, s.fma(product, scale[j], totals[j]));
                    }
                }
                x = x.wrapping_add(bytes::GROUPED);
                w = w.wrapping_add(group_words(width));
            }
            for (i, totals) in totals.into_iter().enumerate() {
                for (j, total) in totals.into_iter().enumerate() {
                    s.store(sums.add(i * PANEL + j * S::LANES), total);
                }
            }
        }
    }
}
