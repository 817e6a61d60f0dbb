//! The formats of narrow weights: how strips of words hold them, and their products.

use super::block::Ahead;
use super::input::{Coding, GROUP};
use super::{bf16, int4, int8};
use crate::memory::with_scratch;
use crate::simd::{Dot, DotKernel, Level};
use crate::{Real, Rows};

/// How narrow weights lie in a strip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Bf16,
    Int8,
    Int4,
}

impl Format {
    /// What it takes the input as.
    pub(super) fn coding(self) -> Coding {
        match self {
            Self::Bf16 => Coding::Pairs,
            Self::Int8 => Coding::Turned,
            Self::Int4 => Coding::Grouped,
        }
    }

    /// Columns of a level's tile.
    pub(super) fn strip_width<F: Real>(self, level: Level) -> usize {
        F::dispatch_dot(level, Width(self))
    }

    /// Words of a strip.
    pub(super) fn strip_words(self, inputs: usize, width: usize) -> usize {
        match self {
            Self::Bf16 => bf16::words(inputs, width),
            Self::Int8 => int8::words(inputs, width),
            Self::Int4 => int4::words(inputs, width),
        }
    }

    /// Reads a column back.
    pub(super) fn unpack<F: Real>(self, strip: &[u32], width: usize, column: usize, row: &mut [F]) {
        match self {
            Self::Bf16 => bf16::unpack(strip, width, column, row),
            Self::Int8 => int8::unpack(strip, width, column, row),
            Self::Int4 => int4::unpack(strip, width, column, row),
        }
    }
}

struct Width(Format);

impl<F: Real> DotKernel<F> for Width {
    type Output = usize;

    #[inline(always)]
    fn run<S: Dot<F>>(self, _: S) -> usize {
        let vectors = match self.0 {
            Format::Bf16 => S::TILE_VECTORS,
            Format::Int8 => S::QUAD_TILE.1,
            Format::Int4 => S::NIBBLE_TILE.1,
        };
        S::LANES * vectors
    }
}

/// Packs rows, at most as many as the strip is wide, into a strip of zeros. It is a kernel only to be compiled for a level.
pub(super) struct Pack<'a, F> {
    pub format: Format,
    pub rows: &'a [&'a [F]],
    pub strip: &'a mut [u32],
    pub width: usize,
    pub room: Room<'a, F>,
}

/// A row in whole groups, and its bytes.
pub(super) struct Room<'a, F> {
    pub row: &'a mut [F],
    pub bytes: &'a mut [u32],
}

/// Lends room for a row.
pub(super) fn with_room<F: Real>(inputs: usize, body: impl FnOnce(Room<F>)) {
    let padded = inputs.next_multiple_of(GROUP);
    with_scratch(padded, |row| {
        with_scratch(padded / 4, |bytes| body(Room { row, bytes }));
    });
}

impl<F: Real> DotKernel<F> for Pack<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<F>>(self, s: S) {
        let Self {
            format,
            rows,
            strip,
            width,
            room,
        } = self;
        match format {
            Format::Bf16 => bf16::pack(rows, width, strip),
            Format::Int8 => int8::pack(s, rows, width, strip, room),
            Format::Int4 => int4::pack(rows, width, strip),
        }
    }
}

/// The product of narrowed rows with a strip, all its columns, into `sums` `[rows][64]`.
pub(super) struct Product<'a, F> {
    pub format: Format,
    pub x: Rows<'a, u32>,
    pub strip: &'a [u32],
    /// Of the strip; a multiple of the level's tile.
    pub width: usize,
    pub sums: *mut F,
    pub ahead: Ahead<F>,
}

impl<F: Real> DotKernel<F> for Product<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<F>>(self, s: S) {
        let Self {
            format,
            x,
            strip,
            width,
            sums,
            ahead,
        } = self;
        // SAFETY: the sums hold all rows and columns of a strip.
        unsafe {
            match format {
                Format::Bf16 => bf16::product(s, x, (strip, width), sums, ahead),
                Format::Int8 => int8::product(s, x, (strip, width), sums, ahead),
                Format::Int4 => int4::product(s, x, (strip, width), sums, ahead),
            }
        }
    }
}
