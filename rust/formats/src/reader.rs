//! A cursor over untrusted bytes.

use crate::{Format, FormatError, Result};

/// Reads little-endian values off a slice; every step is checked, and what it allocates is charged to a budget.
pub(crate) struct Reader<'a> {
    format: Format,
    bytes: &'a [u8],
    position: usize,
    /// Bytes that may still be allocated on the file's word.
    budget: usize,
    limit: usize,
}

macro_rules! numbers {
    ($($name:ident),*) => {$(
        pub(crate) fn $name(&mut self, what: &str) -> Result<$name> {
            Ok($name::from_le_bytes(self.array(what)?))
        }
    )*};
}

impl<'a> Reader<'a> {
    pub(crate) fn new(format: Format, bytes: &'a [u8], budget: usize) -> Self {
        Self {
            format,
            bytes,
            position: 0,
            budget,
            limit: budget,
        }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    /// The next `n` bytes, which belong to `what`.
    pub(crate) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let end = usize::try_from(n)
            .ok()
            .and_then(|n| self.position.checked_add(n));
        let taken = end.and_then(|end| Some((end, self.bytes.get(self.position..end)?)));
        let (end, taken) = taken.ok_or_else(|| self.truncated(what, n))?;
        self.position = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let taken = self.take(N as u64, what)?.first_chunk().copied();
        taken.ok_or_else(|| self.truncated(what, N as u64))
    }

    numbers!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

    /// Checks that `n` things of at least `least` bytes each can still be in the file and that `size` bytes of
    /// memory for each are within the budget; returns `n`.
    pub(crate) fn count(&mut self, n: u64, least: u64, size: usize, what: &str) -> Result<usize> {
        let need = n.saturating_mul(least);
        if need > self.remaining() as u64 {
            return Err(self.truncated(what, need));
        }
        let bytes = n.saturating_mul(size as u64);
        let left = usize::try_from(bytes)
            .ok()
            .and_then(|b| self.budget.checked_sub(b));
        self.budget = left.ok_or_else(|| FormatError::TooLarge {
            format: self.format,
            what: what.to_owned(),
            size: bytes,
            limit: self.limit as u64,
        })?;
        Ok(n as usize)
    }

    fn truncated(&self, what: &str, need: u64) -> FormatError {
        FormatError::Truncated {
            format: self.format,
            what: what.to_owned(),
            need,
            have: self.remaining() as u64,
        }
    }
}
