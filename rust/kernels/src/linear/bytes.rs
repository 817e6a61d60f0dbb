//! Rows of the input as signed bytes.

use super::input::GROUP;
use super::turn;
use crate::Real;
use crate::simd::Dot;

/// Words that [`turned`] writes for a row: its bytes, the scale, and the sum of the bytes.
pub(super) fn turned_words(inputs: usize) -> usize {
    inputs.next_multiple_of(GROUP) / 4 + 2
}

/// Words that [`grouped`] writes for a row: its bytes, then for each group the scale, and the sum of what its bytes stand for.
pub(super) fn grouped_words(inputs: usize) -> usize {
    inputs.div_ceil(GROUP) * (GROUP / 4 + 2)
}

/// A row of a product with weights of eight bits.
#[derive(Clone, Copy)]
pub(super) struct Turned {
    pub scale: f32,
    /// Of the bytes.
    pub sum: i32,
}

impl Turned {
    /// # Panics
    /// If no row is that short.
    #[inline(always)]
    pub(super) fn of(row: &[u32]) -> Self {
        Self {
            scale: f32::from_bits(row[row.len() - 2]),
            sum: row[row.len() - 1] as i32,
        }
    }
}

/// A row of a product with weights of four bits.
#[derive(Clone, Copy)]
pub(super) struct Grouped<'a> {
    scales: &'a [u32],
    sums: &'a [u32],
}

impl<'a> Grouped<'a> {
    #[inline(always)]
    pub(super) fn of(row: &'a [u32]) -> Self {
        let groups = row.len() / (GROUP / 4 + 2);
        let (scales, sums) = row[groups * (GROUP / 4)..].split_at(groups);
        Self { scales, sums }
    }

    /// The scale of a group.
    #[inline(always)]
    pub(super) fn scale<F: Real>(self, group: usize) -> F {
        F::of(f64::from(f32::from_bits(self.scales[group])))
    }

    /// The sum of a group, as rounded.
    #[inline(always)]
    pub(super) fn sum<F: Real>(self, group: usize) -> F {
        F::of(f64::from(f32::from_bits(self.sums[group])))
    }
}

/// Writes `row`, padded with zeros to whole groups, as bytes of one scale after a [`turn`].
#[inline(always)]
pub(super) fn turned<F: Real, S: Dot<F>>(s: S, row: &mut [F], to: &mut [u32]) {
    turn::forward(s, row);
    let (words, facts) = to.split_at_mut(row.len() / 4);
    facts[0] = bytes(s, row, words).to_bits();
    facts[1] = sum(words) as u32;
}

/// Writes `row`, padded with zeros to whole groups, as bytes with a scale for each group.
#[inline(always)]
pub(super) fn grouped<F: Real, S: Dot<F>>(s: S, row: &[F], to: &mut [u32]) {
    let groups = row.len() / GROUP;
    let (words, facts) = to.split_at_mut(row.len() / 4);
    let (scales, sums) = facts.split_at_mut(groups);
    if !finite(s, row) {
        words.fill(0);
        scales.fill(f32::NAN.to_bits());
        return;
    }
    let each = row
        .chunks_exact(GROUP)
        .zip(words.chunks_exact_mut(GROUP / 4));
    for ((row, words), (scale, total)) in each.zip(scales.iter_mut().zip(sums)) {
        let by = round(s, row, words);
        *scale = by.to_bits();
        *total = (by * sum(words) as f32).to_bits();
    }
}

#[inline(always)]
fn sum(words: &[u32]) -> i32 {
    // SAFETY: bytes of the words, of any value.
    let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<i8>(), 4 * words.len()) };
    bytes.iter().map(|&byte| i32::from(byte)).sum()
}

#[inline(always)]
fn finite<F: Real, S: Dot<F>>(s: S, row: &[F]) -> bool {
    let zero = s.splat(F::ZERO);
    let mut odd = zero;
    for at in (0..row.len()).step_by(S::LANES) {
        // SAFETY: whole vectors of the row.
        odd = s.fma(unsafe { s.load(row.as_ptr().add(at)) }, zero, odd);
    }
    !s.sum(odd).is_nan()
}

/// Rounds whole groups to bytes of one scale, which is returned: the largest magnitude becomes 127. It is NaN if a number is
/// not finite, and 0 if there is none to divide by.
#[inline(always)]
pub(super) fn bytes<F: Real, S: Dot<F>>(s: S, row: &[F], words: &mut [u32]) -> f32 {
    if finite(s, row) {
        round(s, row, words)
    } else {
        words.fill(0);
        f32::NAN
    }
}

/// [`bytes`] of numbers that are finite.
#[inline(always)]
fn round<F: Real, S: Dot<F>>(s: S, row: &[F], words: &mut [u32]) -> f32 {
    debug_assert_eq!((row.len() % GROUP, row.len()), (0, 4 * words.len()));
    // SAFETY: whole vectors of the row.
    let vector = |at: usize| unsafe { s.load(row.as_ptr().add(at)) };
    let zero = s.splat(F::ZERO);
    let mut largest = zero;
    for at in (0..row.len()).step_by(S::LANES) {
        let x = vector(at);
        largest = s.max(largest, s.max(x, s.sub(zero, x)));
    }
    let largest = s.largest(largest);
    let inverse = F::of(127.0) / largest;
    // A product of 0 and an infinity would be no byte.
    if !inverse.is_finite() {
        words.fill(0);
        return 0.0;
    }
    let inverse = s.splat(inverse);
    for at in (0..row.len()).step_by(S::LANES) {
        let to = words.as_mut_ptr().cast::<i8>();
        // SAFETY: the words hold whole vectors of bytes.
        unsafe { s.store_i8(to.add(at), s.mul(vector(at), inverse)) };
    }
    (largest.to_f64() / 127.0) as f32
}
