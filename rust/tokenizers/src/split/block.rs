//! Sixty-four bytes of a text at once: a set of them is the bits of a word, and where words begin is told of all together.
//!
//! Only ASCII is judged here; what lies beyond it, and a word that does not end in the block, is left to who asks.

use wide::i8x16;

/// So many bytes are looked at together.
pub(crate) const BYTES: usize = 64;

/// Bytes of a text, zeros after its end. Bit `i` of a set stands for byte `i`.
pub(crate) struct Block([i8x16; 4]);

/// `low..=high`, all ASCII.
type Range = (u8, u8);

impl Block {
    /// The bytes from `at`, if there are as many.
    #[inline(always)]
    pub(crate) fn at(text: &[u8], at: usize) -> Option<Self> {
        let bytes = text.get(at..)?.first_chunk::<BYTES>()?;
        Some(Self(bytemuck::cast(*bytes)))
    }

    #[inline(always)]
    fn set(&self, holds: impl Fn(i8x16) -> i8x16) -> u64 {
        let [a, b, c, d] = self.0.map(|bytes| u64::from(holds(bytes).to_bitmask()));
        a | b << 16 | c << 32 | d << 48
    }

    /// The bytes beyond ASCII.
    #[inline(always)]
    pub(crate) fn beyond(&self) -> u64 {
        self.set(|bytes| bytes)
    }

    #[inline(always)]
    pub(crate) fn equal(&self, byte: u8) -> u64 {
        self.set(|bytes| bytes.simd_eq(i8x16::splat(byte as i8)))
    }

    #[inline(always)]
    pub(crate) fn within(&self, (low, high): Range) -> u64 {
        self.set(|bytes| within(bytes, (low, high)))
    }

    /// ASCII letters.
    #[inline(always)]
    pub(crate) fn letters(&self) -> u64 {
        self.set(|bytes| within(bytes | i8x16::splat(0x20), (b'a', b'z')))
    }

    /// ASCII white space.
    #[inline(always)]
    pub(crate) fn spaces(&self) -> u64 {
        let space = i8x16::splat(b' ' as i8);
        self.set(|bytes| bytes.simd_eq(space) | within(bytes, (b'\t', b'\r')))
    }
}

#[inline(always)]
fn within(bytes: i8x16, (low, high): Range) -> i8x16 {
    // Bytes beyond ASCII are negative.
    bytes.simd_gt(i8x16::splat(low as i8 - 1)) & bytes.simd_lt(i8x16::splat(high as i8 + 1))
}

/// Those whose predecessor is in the set.
#[inline(always)]
pub(crate) const fn after(set: u64) -> u64 {
    set << 1
}

/// Those whose successor is in the set.
#[inline(always)]
pub(crate) const fn before(set: u64) -> u64 {
    set >> 1
}

/// The members of `set` that are in `seeds`, or reached from there to the right through members alone.
#[inline(always)]
pub(crate) const fn reached(set: u64, seeds: u64) -> u64 {
    // The sum carries from a seed to the end of its run.
    set & (!set.wrapping_add(seeds) | seeds)
}

/// As `reached`, to the left.
#[inline(always)]
pub(crate) const fn reached_back(set: u64, seeds: u64) -> u64 {
    reached(set.reverse_bits(), seeds.reverse_bits()).reverse_bits()
}

/// The lowest bits, so many.
#[inline(always)]
pub(crate) const fn lowest(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The members of `set` reached by a walk of one step at a time.
    fn walked(set: u64, seeds: u64) -> u64 {
        let mut all = set & seeds;
        while all | all << 1 & set != all {
            all |= all << 1 & set;
        }
        all
    }

    #[test]
    fn sums_reach_as_far_as_walks() {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
            state ^ state >> 29
        };
        for _ in 0..10_000 {
            let set = next() | next();
            let seeds = set & next() & next() & next();
            assert_eq!(reached(set, seeds), walked(set, seeds), "{set:b} {seeds:b}");
            let back = walked(set.reverse_bits(), seeds.reverse_bits()).reverse_bits();
            assert_eq!(reached_back(set, seeds), back, "{set:b} {seeds:b}");
        }
    }

    #[test]
    fn a_block_tells_bytes_as_one_by_one() {
        for first in [0, 64, 128, 192] {
            let bytes: Vec<u8> = (0..64).map(|at| first + at).collect();
            let set = |holds: fn(u8) -> bool| {
                let bits = bytes.iter().enumerate();
                bits.map(|(at, &byte)| u64::from(holds(byte)) << at)
                    .fold(0, |all, bit| all | bit)
            };
            let block = Block::at(&bytes, 0).unwrap();
            assert_eq!(block.beyond(), set(|byte| !byte.is_ascii()));
            assert_eq!(block.letters(), set(|byte| byte.is_ascii_alphabetic()));
            assert_eq!(
                block.spaces(),
                set(|byte| byte.is_ascii() && (byte as char).is_whitespace())
            );
            assert_eq!(
                block.within((b'0', b'9')),
                set(|byte| byte.is_ascii_digit())
            );
            assert_eq!(
                block.within((0x21, 0x7e)),
                set(|byte| byte.is_ascii_graphic())
            );
            assert_eq!(block.equal(b'\''), set(|byte| byte == b'\''));
        }
        assert!(Block::at(&[0; 63], 0).is_none());
    }
}
