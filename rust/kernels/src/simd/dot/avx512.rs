//! 512-bit vectors of words: VNNI and BF16 where the CPU has them, else widened to 16-bit integers and to floats.

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the same for every block: an `Avx512` exists only on a CPU that has the features it names"
)]
#![allow(
    clippy::wildcard_imports,
    reason = "the intrinsics are the subject of this file"
)]

use std::arch::x86_64::*;

use super::Dot;
use crate::simd::avx512::Avx512;

impl<const VNNI: bool, const BF16: bool> Dot<f32> for Avx512<VNNI, BF16> {
    type W = __m512i;
    /// As they lie for VNNI; else their magnitudes, and which are negative.
    type Quad = (__m512i, __mmask64);

    #[inline(always)]
    fn splat_word(self, word: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(word as i32) }
    }

    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn integers(self, words: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(words) }
    }

    #[inline(always)]
    fn sum_words(self, words: __m512i) -> i32 {
        unsafe { _mm512_reduce_add_epi32(words) }
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    const PAIR_PASSES: usize = if BF16 { 1 } else { 2 };

    #[inline(always)]
    fn pair(self, word: __m512i, pass: usize) -> __m512i {
        unsafe {
            match pass {
                _ if BF16 => word,
                0 => _mm512_slli_epi32::<16>(word),
                _ => _mm512_and_si512(word, _mm512_set1_epi32(0xFFFF_0000_u32 as i32)),
            }
        }
    }

    #[inline(always)]
    fn dot_pair(self, x: __m512i, w: __m512i, sum: __m512) -> __m512 {
        unsafe {
            if BF16 {
                let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
                _mm512_dpbf16_ps(sum, pairs(w), pairs(x))
            } else {
                _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(w), sum)
            }
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, v: __m512) {
        unsafe {
            let rounded = if BF16 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
            } else {
                let bits = _mm512_castps_si512(v);
                let high = _mm512_srli_epi32::<16>(bits);
                let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
                let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
                let even = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
                let quiet = _mm512_set1_epi32(0x40);
                _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(even, nan, high, quiet))
            };
            _mm256_storeu_si256(to.cast(), rounded);
        }
    }

    const QUAD_TILE: (usize, usize) = (6, 2);
    const BIASED: bool = VNNI;

    #[inline(always)]
    fn quad(self, words: __m512i) -> Self::Quad {
        unsafe {
            if VNNI {
                (words, 0)
            } else {
                let signed = _mm512_xor_si512(words, _mm512_set1_epi8(-128));
                (_mm512_abs_epi8(signed), _mm512_movepi8_mask(signed))
            }
        }
    }

    #[inline(always)]
    fn dot_quad(self, x: __m512i, w: Self::Quad, sum: __m512i) -> __m512i {
        unsafe {
            let (w, negative) = w;
            if VNNI {
                _mm512_dpbusd_epi32(sum, w, x)
            } else {
                // Two products of magnitudes within 127 fit in 16 bits: the instruction cannot saturate.
                let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
                let pairs = _mm512_maddubs_epi16(w, x);
                _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            }
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, v: [__m512; 2], sums: __m512i) -> __m512i {
        unsafe {
            let (a, b) = (_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
            let halves = _mm512_packs_epi32(a, b);
            // Each quarter has four of each, twice: those of `a` first, then those of `b`.
            let bytes = _mm512_packs_epi16(halves, halves);
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
            let bytes = _mm512_permutexvar_epi32(order, bytes);
            _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(bytes));
            _mm512_add_epi32(sums, _mm512_add_epi32(a, b))
        }
    }

    const NIBBLE_TILE: (usize, usize) = (6, 2);

    #[inline(always)]
    fn nibbles(self, words: __m512i, pass: usize) -> __m512i {
        unsafe {
            let words = match pass {
                0 => words,
                _ => _mm512_srli_epi32::<4>(words),
            };
            _mm512_and_si512(words, _mm512_set1_epi8(0x0F))
        }
    }

    #[inline(always)]
    fn dot_nibbles(self, x: __m512i, w: __m512i, sum: __m512i) -> __m512i {
        unsafe {
            if VNNI {
                _mm512_dpbusd_epi32(sum, w, x)
            } else {
                let pairs = _mm512_maddubs_epi16(w, x);
                _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            }
        }
    }
}
