//! The formats of narrow weights: how strips of words hold them, and their products.

use super::bf16::{self, Pairs};
use super::block::Outputs;
use super::input::{Coding, GROUP};
use super::int4::{self, Nibbles};
use super::int8::{self, Quads};
use super::walk::{self, Operands, Tiled};
use crate::Real;
use crate::memory::with_scratch;
use crate::simd::{Dot, DotKernel, Level};

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
            Format::Bf16 => <Pairs as Tiled<F, S>>::VECTORS,
            Format::Int8 => <Quads as Tiled<F, S>>::VECTORS,
            Format::Int4 => <Nibbles as Tiled<F, S>>::VECTORS,
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

/// Room for a row in whole groups, as it is and turned, and for its bytes.
pub(super) struct Room<'a, F> {
    pub padded: &'a mut [F],
    pub turned: &'a mut [F],
    pub bytes: &'a mut [u32],
}

/// Lends room for rows of so many inputs.
pub(super) fn with_room<F: Real>(inputs: usize, body: impl FnOnce(Room<F>)) {
    let length = inputs.next_multiple_of(GROUP);
    with_scratch(2 * length, |rows| {
        let (padded, turned) = rows.split_at_mut(length);
        with_scratch(length / 4, |bytes| {
            body(Room {
                padded,
                turned,
                bytes,
            });
        });
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

/// The product of narrowed rows with a strip, all its columns; `sums` has room for `[rows][64]`.
pub(super) struct Product<'a, F> {
    pub format: Format,
    pub operands: Operands<'a>,
    pub sums: *mut F,
    pub outputs: Outputs<'a, F>,
}

impl<F: Real> DotKernel<F> for Product<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<F>>(self, s: S) {
        let Self {
            format,
            operands,
            sums,
            outputs,
        } = self;
        // SAFETY: the sums have room for all rows and columns of a strip.
        unsafe {
            match format {
                Format::Bf16 => walk::product::<F, S, Pairs>(s, operands, sums, outputs),
                Format::Int8 => walk::product::<F, S, Quads>(s, operands, sums, outputs),
                Format::Int4 => walk::product::<F, S, Nibbles>(s, operands, sums, outputs),
            }
        }
    }
}
