//! Products of narrow numbers, which panels and rows hold packed into words of 32 bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use super::{Real, Simd};

/// Work written once for every level, with products of narrow numbers.
pub trait DotKernel<F: Real> {
    /// What it returns.
    type Output;
    /// Does the work with vectors of `S`. Implementations are `#[inline(always)]`.
    fn run<S: Dot<F>>(self, simd: S) -> Self::Output;
}

/// What a level does with words of two bfloat16, four bytes or eight nibbles, the first in the lowest bits.
///
/// A lane is a column of a product. A step takes the word of a row, the same in every lane, and a vector of weights. Levels
/// that have no instruction for a product split the words into floats or shorter sums, in several passes if need be; sums of
/// integers are the same at every level.
pub trait Dot<F: Real>: Simd<F> {
    /// `LANES` words.
    type W: Copy;
    /// Weights of bytes, ready for [`Self::dot_quad`].
    type Quad: Copy;

    /// All lanes equal to `word`.
    fn splat_word(self, word: u32) -> Self::W;
    /// Loads `LANES` words.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_words(self, from: *const u32) -> Self::W;
    /// Each word as a signed integer, rounded to the nearest.
    fn integers(self, words: Self::W) -> Self::V;
    /// The sum of all lanes, signed.
    fn sum_words(self, words: Self::W) -> i32;
    /// Loads `LANES` floats of 32 bits.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_f32(self, from: *const f32) -> Self::V;
    /// Loads `LANES` floats of 16 bits.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_f16(self, from: *const u16) -> Self::V;

    /// Passes over a word of two bfloat16.
    const PAIR_PASSES: usize;
    /// What `pass` takes of a word, of a row or of weights.
    fn pair(self, word: Self::W, pass: usize) -> Self::W;
    /// `sum + Σ x·w` over what a pass takes.
    fn dot_pair(self, x: Self::W, w: Self::W, sum: Self::V) -> Self::V;
    /// Stores `LANES` values rounded to the nearest bfloat16, ties to even.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn store_bf16(self, to: *mut u16, v: Self::V);
    /// Stores `LANES` words, each of a value of `low` and one of `high`, both rounded as [`Self::store_bf16`] does.
    ///
    /// # Safety
    /// They can be written.
    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut u32, low: Self::V, high: Self::V) {
        let mut halves = [[0_u16; 16]; 2];
        // SAFETY: no vector has more than sixteen lanes; the words by the caller's promise.
        unsafe {
            self.store_bf16(halves[0].as_mut_ptr(), low);
            self.store_bf16(halves[1].as_mut_ptr(), high);
            let halves = halves[0].iter().zip(&halves[1]).take(Self::LANES);
            for (i, (&low, &high)) in halves.enumerate() {
                *to.add(i) = u32::from(low) | u32::from(high) << 16;
            }
        }
    }

    /// Rows and vectors of the tile for bytes.
    const QUAD_TILE: (usize, usize);
    /// Whether [`Self::dot_quad`] takes each weight as 128 too large: then sums start at `-128 · Σ x`.
    const BIASED: bool;
    /// Weights as they lie in panels, each a byte `w + 128`.
    fn quad(self, words: Self::W) -> Self::Quad;
    /// `sum + Σ x·w`, with `w + 128` if [`Self::BIASED`], over four signed bytes, both within ±127; exact.
    fn dot_quad(self, x: Self::W, w: Self::Quad, sum: Self::W) -> Self::W;
    /// Stores two times `LANES` values within ±127 as signed bytes, rounded to the nearest, ties to even. What is returned has,
    /// over all its lanes, the sum of the bytes more than `sums`.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn store_i8(self, to: *mut i8, v: [Self::V; 2], sums: Self::W) -> Self::W;

    /// Rows and vectors of the tile for nibbles.
    const NIBBLE_TILE: (usize, usize);
    /// The low (pass 0) or high (pass 1) nibble of each byte.
    fn nibbles(self, words: Self::W, pass: usize) -> Self::W;
    /// `sum + Σ x·w` over four signed bytes of `x` within ±127 and bytes of `w` below 16; exact.
    fn dot_nibbles(self, x: Self::W, w: Self::W, sum: Self::W) -> Self::W;
}
