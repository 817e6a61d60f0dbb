//! Rows of the input as signed bytes.

use half::bf16;

use super::input::GROUP;
use super::{int8, turn};
use crate::Real;
use crate::simd::Dot;

/// Words that [`turned`] writes for a whole group of weights of eight bits: its bytes, and what their sum takes off a product
/// whose weights are 128 too large.
pub(super) const TURNED: usize = int8::GROUP / 4 + 1;

/// Words that [`turned`] writes for a row: those of its groups, and its scale.
pub(super) fn turned_words(inputs: usize) -> usize {
    let padded = inputs.next_multiple_of(GROUP);
    padded / 4 + padded.div_ceil(int8::GROUP) + 1
}

/// Words that [`grouped`] writes for a group: its bytes, the scale, and the sum of what its bytes stand for.
pub(super) const GROUPED: usize = GROUP / 4 + 2;

/// Words that [`grouped`] writes for a row.
pub(super) fn grouped_words(inputs: usize) -> usize {
    inputs.div_ceil(GROUP) * GROUPED
}

/// Writes `row`, padded with zeros to whole groups, as bytes of one scale after a [`turn`], for which there is `room`.
#[inline(always)]
pub(super) fn turned<F: Real, S: Dot<F>>(s: S, row: &[F], room: &mut [F], to: &mut [u32]) {
    turn::forward(s, row, room);
    let extent = Extent::of(s, room);
    let (groups, last) = to.split_at_mut(to.len() - 1);
    if s.sum(extent.odd).is_nan() {
        groups.fill(0);
        last[0] = f32::NAN.to_bits();
        return;
    }
    let Scale { scale, inverse } = Scale::of(extent.largest);
    last[0] = scale.to_bits();
    for (group, to) in room.chunks(int8::GROUP).zip(groups.chunks_mut(TURNED)) {
        let (words, off) = to.split_at_mut(group.len() / 4);
        off[0] = (-128 * round(s, group, inverse, words)) as u32;
    }
}

/// Writes a group of weights, padded with zeros, as bytes; returns their scale, NaN if one is not finite. It is rounded up, so
/// that none exceeds 127.
#[inline(always)]
pub(super) fn weights<F: Real, S: Dot<F>>(s: S, group: &[F], words: &mut [u32]) -> bf16 {
    let extent = Extent::of(s, group);
    if s.sum(extent.odd).is_nan() {
        words.fill(0);
        return bf16::NAN;
    }
    let exact = Scale::of(extent.largest).scale;
    let scale = bf16::from_bits((exact.to_bits().wrapping_add(0xFFFF) >> 16) as u16);
    let inverse = F::ONE / F::of(scale.to_f64());
    round(
        s,
        group,
        if inverse.is_finite() {
            inverse
        } else {
            F::ZERO
        },
        words,
    );
    scale
}

/// Writes `row`, padded with zeros to whole groups, as bytes with a scale for each group.
#[inline(always)]
pub(super) fn grouped<F: Real, S: Dot<F>>(s: S, row: &[F], to: &mut [u32]) {
    let mut odd = s.splat(F::ZERO);
    for (row, to) in row.chunks_exact(GROUP).zip(to.chunks_exact_mut(GROUPED)) {
        let (words, facts) = to.split_at_mut(GROUP / 4);
        let extent = Extent::of(s, row);
        odd = s.add(odd, extent.odd);
        let Scale { scale, inverse } = Scale::of(extent.largest);
        let sum = round(s, row, inverse, words);
        facts.copy_from_slice(&[scale.to_bits(), (scale * sum as f32).to_bits()]);
    }
    if s.sum(odd).is_nan() {
        for to in to.chunks_exact_mut(GROUPED) {
            to.fill(0);
            to[GROUP / 4] = f32::NAN.to_bits();
        }
    }
}

/// What the scale of some numbers follows from.
struct Extent<F, V> {
    /// Magnitude, if all are finite.
    largest: F,
    /// Zeros, or a NaN if one is not finite.
    odd: V,
}

impl<F: Real, V: Copy> Extent<F, V> {
    #[inline(always)]
    fn of<S: Dot<F, V = V>>(s: S, row: &[F]) -> Self {
        debug_assert_eq!(row.len() % GROUP, 0);
        let zero = s.splat(F::ZERO);
        // Two of each, so that none waits for itself.
        let (mut most, mut least, mut odd) = ([zero; 2], [zero; 2], [zero; 2]);
        for at in (0..row.len()).step_by(2 * S::LANES) {
            for i in 0..2 {
                // SAFETY: a group is whole pairs of vectors.
                let x = unsafe { s.load(row.as_ptr().add(at + i * S::LANES)) };
                most[i] = s.max(most[i], x);
                least[i] = s.min(least[i], x);
                odd[i] = s.fma(x, zero, odd[i]);
            }
        }
        let (most, least) = (s.max(most[0], most[1]), s.min(least[0], least[1]));
        Self {
            largest: s.largest(s.max(most, s.sub(zero, least))),
            odd: s.add(odd[0], odd[1]),
        }
    }
}

/// A scale that makes the largest magnitude 127, and its inverse; both 0 if there is none to divide by.
struct Scale<F> {
    scale: f32,
    inverse: F,
}

impl<F: Real> Scale<F> {
    #[inline(always)]
    fn of(largest: F) -> Self {
        let inverse = F::of(127.0) / largest;
        // A product of 0 and an infinity would be no byte.
        if inverse.is_finite() {
            let scale = (largest / F::of(127.0)).to_f64() as f32;
            Self { scale, inverse }
        } else {
            let (scale, inverse) = (0.0, F::ZERO);
            Self { scale, inverse }
        }
    }
}

/// Rounds whole groups times `inverse` to bytes, and returns their sum.
#[inline(always)]
fn round<F: Real, S: Dot<F>>(s: S, row: &[F], inverse: F, words: &mut [u32]) -> i32 {
    debug_assert_eq!((row.len() % GROUP, row.len()), (0, 4 * words.len()));
    let inverse = s.splat(inverse);
    let mut sums = s.splat_word(0);
    for at in (0..row.len()).step_by(2 * S::LANES) {
        // SAFETY: a group is whole pairs of vectors, and the words have a byte for each number.
        unsafe {
            let vector = |i: usize| {
                let x = s.load(row.as_ptr().add(at + i * S::LANES));
                s.mul(x, inverse)
            };
            let to = words.as_mut_ptr().cast::<i8>().add(at);
            sums = s.store_i8(to, [vector(0), vector(1)], sums);
        }
    }
    s.sum_words(sums)
}
