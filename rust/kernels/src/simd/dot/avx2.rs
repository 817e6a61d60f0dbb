//! 256-bit vectors of words, widened to 16-bit integers and to floats.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the same for every block: an `Avx2` exists only on a CPU that has the features"
)]
#![allow(
    clippy::wildcard_imports,
    reason = "the intrinsics are the subject of this file"
)]

use std::arch::x86_64::*;

use super::Dot;
use crate::simd::avx2::Avx2;

impl Dot<f32> for Avx2 {
    type W = __m256i;
    /// Their magnitudes, and themselves for the signs.
    type Quad = (__m256i, __m256i);

    #[inline(always)]
    fn splat_word(self, word: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(word as i32) }
    }

    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn integers(self, words: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(words) }
    }

    #[inline(always)]
    fn sum_words(self, words: __m256i) -> i32 {
        unsafe {
            let high = _mm256_extracti128_si256::<1>(words);
            let four = _mm_add_epi32(_mm256_castsi256_si128(words), high);
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    const PAIR_PASSES: usize = 2;

    #[inline(always)]
    fn pair(self, word: __m256i, pass: usize) -> __m256i {
        unsafe {
            match pass {
                0 => _mm256_slli_epi32::<16>(word),
                _ => _mm256_and_si256(word, _mm256_set1_epi32(0xFFFF_0000_u32 as i32)),
            }
        }
    }

    #[inline(always)]
    fn dot_pair(self, x: __m256i, w: __m256i, sum: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(_mm256_castsi256_ps(x), _mm256_castsi256_ps(w), sum) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, v: __m256) {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let high = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
            let even = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
            let words = _mm256_blendv_epi8(even, quiet, nan);
            let halves = _mm256_packus_epi32(words, words);
            let whole = _mm256_permute4x64_epi64::<0b1000>(halves);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(whole));
        }
    }

    const QUAD_TILE: (usize, usize) = (2, 2);
    const BIASED: bool = false;

    #[inline(always)]
    fn quad(self, words: __m256i) -> Self::Quad {
        unsafe {
            let signed = _mm256_xor_si256(words, _mm256_set1_epi8(-128));
            (_mm256_abs_epi8(signed), signed)
        }
    }

    #[inline(always)]
    fn dot_quad(self, x: __m256i, (magnitude, w): Self::Quad, sum: __m256i) -> __m256i {
        unsafe {
            // Two products of magnitudes within 127 fit in 16 bits: the instruction cannot saturate.
            let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, v: [__m256; 2], sums: __m256i) -> __m256i {
        unsafe {
            let (a, b) = (_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let halves = _mm256_packs_epi32(a, b);
            // Four of each, and again: the first and second four of `a`, then those of `b`.
            let bytes = _mm256_packs_epi16(halves, halves);
            let order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
            let bytes = _mm256_permutevar8x32_epi32(bytes, order);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(bytes));
            _mm256_add_epi32(sums, _mm256_add_epi32(a, b))
        }
    }

    const NIBBLE_TILE: (usize, usize) = (2, 2);

    #[inline(always)]
    fn nibbles(self, words: __m256i, pass: usize) -> __m256i {
        unsafe {
            let words = match pass {
                0 => words,
                _ => _mm256_srli_epi32::<4>(words),
            };
            _mm256_and_si256(words, _mm256_set1_epi8(0x0F))
        }
    }

    #[inline(always)]
    fn dot_nibbles(self, x: __m256i, w: __m256i, sum: __m256i) -> __m256i {
        unsafe {
            let pairs = _mm256_maddubs_epi16(w, x);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}
