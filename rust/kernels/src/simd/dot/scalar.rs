//! Words taken apart one by one.

use std::array::from_fn;

use half::{bf16, f16};

use super::Dot;
use crate::simd::{Real, Scalar, Simd};

const LANES: usize = 4;

/// The product of the signed bytes of `x` with the bytes of `w`.
fn dot(x: u32, w: [i32; 4]) -> i32 {
    x.to_le_bytes()
        .iter()
        .zip(w)
        .map(|(&x, w)| i32::from(x as i8) * w)
        .sum()
}

impl<F: Real> Dot<F> for Scalar {
    type W = [u32; LANES];
    type Quad = [u32; LANES];

    #[inline(always)]
    fn splat_word(self, word: u32) -> Self::W {
        [word; LANES]
    }

    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> Self::W {
        // SAFETY: the caller's promise; an array is as aligned as its element.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    fn integers(self, words: Self::W) -> [F; LANES] {
        words.map(|word| F::of(f64::from(word as i32)))
    }

    #[inline(always)]
    fn sum_words(self, words: Self::W) -> i32 {
        let add = |sum: i32, &word: &u32| sum.wrapping_add(word as i32);
        words.iter().fold(0, add)
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> [F; LANES] {
        // SAFETY: the caller's promise.
        from_fn(|i| F::of(f64::from(unsafe { *from.add(i) })))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> [F; LANES] {
        // SAFETY: the caller's promise.
        from_fn(|i| F::of(f16::from_bits(unsafe { *from.add(i) }).to_f64()))
    }

    const PAIR_PASSES: usize = 2;

    #[inline(always)]
    fn pair(self, word: Self::W, pass: usize) -> Self::W {
        word.map(|w| if pass == 0 { w << 16 } else { w & 0xFFFF_0000 })
    }

    #[inline(always)]
    fn dot_pair(self, x: Self::W, w: Self::W, sum: [F; LANES]) -> [F; LANES] {
        let float = |word: Self::W| word.map(|word| F::of(f64::from(f32::from_bits(word))));
        self.fma(float(x), float(w), sum)
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, v: [F; LANES]) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *to.add(i) = bf16::from_f32(v.to_f64() as f32).to_bits() };
        }
    }

    const QUAD_TILE: (usize, usize) = (2, 2);
    const BIASED: bool = false;

    #[inline(always)]
    fn quad(self, words: Self::W) -> Self::Quad {
        words.map(|word| word ^ 0x8080_8080)
    }

    #[inline(always)]
    fn dot_quad(self, x: Self::W, w: Self::Quad, sum: Self::W) -> Self::W {
        let signed = |w: u32| w.to_le_bytes().map(|w| i32::from(w as i8));
        from_fn(|i| sum[i].wrapping_add(dot(x[i], signed(w[i])) as u32))
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, v: [[F; LANES]; 2], mut sums: Self::W) -> Self::W {
        for (i, v) in v.into_iter().flatten().enumerate() {
            let byte = v.to_f64().round_ties_even() as i8;
            // SAFETY: the caller's promise.
            unsafe { *to.add(i) = byte };
            sums[i % LANES] = sums[i % LANES].wrapping_add(i32::from(byte) as u32);
        }
        sums
    }

    const NIBBLE_TILE: (usize, usize) = (2, 2);

    #[inline(always)]
    fn nibbles(self, words: Self::W, pass: usize) -> Self::W {
        words.map(|word| word >> (4 * pass) & 0x0F0F_0F0F)
    }

    #[inline(always)]
    fn dot_nibbles(self, x: Self::W, w: Self::W, sum: Self::W) -> Self::W {
        from_fn(|i| sum[i].wrapping_add(dot(x[i], w[i].to_le_bytes().map(i32::from)) as u32))
    }
}
