//! Memory of blocks. Sequences come and go all the time: what one leaves is the next one's, without asking the system.

use std::fmt;
use std::marker::PhantomData;
use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use crate::Real;
use crate::memory::Buffer;

/// Bytes asked of the system at once when many blocks are in use: enough for large pages.
const SLAB: usize = 4 << 20;
/// Eight-byte words in a cache line, on which every block begins.
const LINE: usize = 8;

/// The blocks of one size. There are a few sizes to a model, and blocks are never given back to the system.
struct Size {
    words: usize,
    made: usize,
    free: Vec<&'static mut [f64]>,
}

static SIZES: Mutex<Vec<Size>> = Mutex::new(Vec::new());

/// Runs `body` with the blocks of a size.
fn with_size<R>(words: usize, body: impl FnOnce(&mut Size) -> R) -> R {
    let mut sizes = SIZES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(size) = sizes.iter_mut().find(|size| size.words == words) {
        return body(size);
    }
    let mut size = Size {
        words,
        made: 0,
        free: Vec::new(),
    };
    let result = body(&mut size);
    sizes.push(size);
    result
}

impl Size {
    fn lend(&mut self) -> &'static mut [f64] {
        if let Some(block) = self.free.pop() {
            return block;
        }
        // As many as there are, so that few sequences hold little, up to a slab.
        let most = SLAB.div_ceil(self.words * size_of::<f64>());
        let count = self.made.clamp(1, most);
        self.made += count;
        let slab = Box::leak(Box::new(Buffer::<f64>::zeroed(count * self.words)));
        // The last is lent first: neighbours in time are neighbours in memory.
        self.free.extend(slab.chunks_exact_mut(self.words).rev());
        self.free.pop().unwrap_or_default()
    }
}

/// Elements lent by the pool, holding whatever was left in them.
pub(super) struct Lent<F> {
    words: &'static mut [f64],
    length: usize,
    of: PhantomData<F>,
}

impl<F: Real> Lent<F> {
    pub(super) fn new(length: usize) -> Self {
        const { assert!(size_of::<F>() <= size_of::<f64>()) };
        let bytes = length * size_of::<F>();
        let words = bytes.div_ceil(size_of::<f64>()).next_multiple_of(LINE);
        Self {
            words: with_size(words.max(LINE), Size::lend),
            length,
            of: PhantomData,
        }
    }
}

impl<F> Drop for Lent<F> {
    fn drop(&mut self) {
        let words = take(&mut self.words);
        with_size(words.len(), |size| size.free.push(words));
    }
}

impl<F: Real> Clone for Lent<F> {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.length);
        copy.copy_from_slice(self);
        copy
    }
}

impl<F> Deref for Lent<F> {
    type Target = [F];

    fn deref(&self) -> &[F] {
        // SAFETY: the words hold `length` elements, aligned to more than any; all bits are values of `f32` and `f64`,
        // the only types `new` makes.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.length) }
    }
}

impl<F> DerefMut for Lent<F> {
    fn deref_mut(&mut self) -> &mut [F] {
        // SAFETY: as above; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.length) }
    }
}

impl<F> fmt::Debug for Lent<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({})", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::Lent;

    /// A size no model has, so that nothing else in the process takes these blocks.
    const LENGTH: usize = 12_345;

    #[test]
    fn blocks_are_lent_again_and_never_twice_at_once() {
        let addresses = |blocks: &[Lent<f32>]| -> Vec<_> {
            let mut addresses: Vec<_> = blocks.iter().map(|b| b.as_ptr() as usize).collect();
            addresses.sort_unstable();
            addresses
        };
        let lend = || -> Vec<Lent<f32>> { (0..100).map(|_| Lent::new(LENGTH)).collect() };
        let first = lend();
        let before = addresses(&first);
        assert!(before.windows(2).all(|two| two[0] + 4 * LENGTH <= two[1]));
        assert!(before.iter().all(|at| at.is_multiple_of(64)));
        drop(first);
        // More may have been made than lent, but not twice as many.
        let second = addresses(&lend());
        let again = second.iter().filter(|at| before.binary_search(at).is_ok());
        assert!(
            again.count() > 0
                && super::with_size((LENGTH * 4).div_ceil(64) * 8, |size| size.made) < 200
        );
    }
}
