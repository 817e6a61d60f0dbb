//! Panels as a file holds them: the elements one after another, little endian, used where they lie.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::PANEL;
use super::format::Format;
use super::packed::{Packed, Panels, Weights};
use crate::memory::{Buffer, Plain};
use crate::simd::{self, Level};

/// Bytes that stay where they are as long as somebody holds them: those of a mapped file.
pub type Lender = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Elements of our own, or lent ones.
pub(super) enum Held<E> {
    Owned(Buffer<E>),
    Lent(Lent<E>),
}

impl<E> Deref for Held<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        match self {
            Self::Owned(buffer) => buffer,
            // SAFETY: `Lent::new` checked the bounds and the alignment, and the lender is held.
            Self::Lent(lent) => unsafe { std::slice::from_raw_parts(lent.start, lent.length) },
        }
    }
}

impl<E> fmt::Debug for Held<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Lent(_)) {
            "lent"
        } else {
            "owned"
        };
        write!(f, "{kind} panels of {}", self.len())
    }
}

pub(super) struct Lent<E> {
    start: *const E,
    length: usize,
    _lender: Lender,
}

// SAFETY: it only reads what the lender, which may be shared, holds.
unsafe impl<E: Sync> Send for Lent<E> {}
// SAFETY: as above.
unsafe impl<E: Sync> Sync for Lent<E> {}

impl<E: Plain> Lent<E> {
    /// `None` if the range is not inside the bytes, not of whole elements, or not on a cache line's half as panels are.
    fn new(lender: &Lender, range: Range<usize>) -> Option<Self> {
        let bytes = (**lender).as_ref().get(range)?;
        let fits = bytes.len().is_multiple_of(size_of::<E>());
        let aligned = bytes.as_ptr().align_offset(32) == 0;
        (fits && aligned).then(|| Self {
            start: bytes.as_ptr().cast(),
            length: bytes.len() / size_of::<E>(),
            _lender: Arc::clone(lender),
        })
    }
}

impl Packed<f32> {
    /// The bytes of the panels, which [`Self::lent`] takes on a machine of any level.
    pub fn bytes_of_panels(&self) -> &[u8] {
        let (start, bytes) = match self.panels() {
            Panels::Full(panels) => (panels.as_ptr().cast::<u8>(), size_of_val::<[f32]>(panels)),
            Panels::Narrow(_, panels) => (panels.as_ptr().cast(), size_of_val::<[u32]>(panels)),
        };
        // SAFETY: initialised elements without padding, borrowed from `self`.
        unsafe { std::slice::from_raw_parts(start, bytes) }
    }

    /// The panels of a weight `[outputs, inputs]` that lie in the bytes `range` of `lender`, strips `strip` wide: what
    /// [`Self::bytes_of_panels`] and [`Self::strip_width`] gave. They are not copied. `None` if no panels of that shape do.
    pub fn lent(
        weights: Weights,
        [outputs, inputs]: [usize; 2],
        strip: usize,
        lender: &Lender,
        range: Range<usize>,
    ) -> Option<Self> {
        let format = weights.format();
        // A tile of floats may read 16 columns at every level.
        let least = if format.is_some() { 8 } else { 16 };
        if !strip.is_power_of_two() || !(least..=PANEL).contains(&strip) {
            return None;
        }
        // The words of a strip are about as many as its elements at most, so that this does not overflow either.
        let count = outputs.checked_next_multiple_of(PANEL)? / strip;
        inputs
            .checked_add(PANEL)?
            .checked_mul(strip)?
            .checked_mul(2)?;
        let words = format.map_or(inputs * strip, |format| format.strip_words(inputs, strip));
        if count.checked_mul(words)?.checked_mul(size_of::<u32>())? != range.len() {
            return None;
        }
        let walks = |level: &&Level| level.available() && **level <= simd::current();
        let level = match format {
            None => simd::current(),
            Some(format) => {
                let fits =
                    |level: &&Level| strip.is_multiple_of(format.strip_width::<f32>(**level));
                *Level::ALL.iter().rev().filter(walks).find(fits)?
            }
        };
        let panels = match format {
            None => Panels::Full(Held::Lent(Lent::new(lender, range)?)),
            Some(format) => Panels::Narrow(format, Held::Lent(Lent::new(lender, range)?)),
        };
        Some(Self::of_panels(panels, level, strip, [outputs, inputs]))
    }
}

impl Weights {
    /// The format of narrow weights.
    pub(super) fn format(self) -> Option<Format> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(Format::Bf16),
            Self::Int8 => Some(Format::Int8),
            Self::Int4 => Some(Format::Int4),
        }
    }

    /// Its name: `f32`, `bf16`, `int8` or `int4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::F32, Self::Bf16, Self::Int8, Self::Int4];
        all.into_iter().find(|weights| weights.name() == name)
    }
}
