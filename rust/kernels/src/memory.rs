//! Aligned storage for what kernels read most: packed weights, keys and values, scratch.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::team;

const LINE: usize = 64;
const HUGE: usize = 2 << 20;
#[cfg(all(target_os = "linux", not(miri)))]
const PAGE: usize = 4096;

/// What buffers hold.
///
/// # Safety
/// Any bits are a value, all bits zero is 0, and it needs no more than eight bytes.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: a number.
unsafe impl Plain for u32 {}
// SAFETY: a number.
unsafe impl Plain for i8 {}
// SAFETY: a number.
unsafe impl Plain for half::bf16 {}
// SAFETY: a number.
unsafe impl<F: crate::Real> Plain for F {}

/// A fixed number of elements on a cache-line boundary; large ones on 2 MiB pages where the system has them.
pub(crate) struct Buffer<F> {
    start: NonNull<F>,
    length: usize,
}

// SAFETY: a buffer owns its elements like a `Box<[F]>`.
unsafe impl<F: Send> Send for Buffer<F> {}
// SAFETY: as above.
unsafe impl<F: Sync> Sync for Buffer<F> {}

fn layout<F>(length: usize) -> Layout {
    let bytes = length
        .checked_mul(size_of::<F>())
        .expect("size of a buffer fits in usize");
    let align = if bytes >= 2 * HUGE { HUGE } else { LINE };
    Layout::from_size_align(bytes, align).expect("size of a buffer fits in isize")
}

impl<F: Plain> Buffer<F> {
    pub(crate) fn zeroed(length: usize) -> Self {
        if length == 0 {
            return Self {
                start: NonNull::dangling(),
                length,
            };
        }
        let layout = layout::<F>(length);
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }.cast::<F>()) else {
            handle_alloc_error(layout)
        };
        advise(start.as_ptr().cast(), layout);
        let memory = Fresh(start.as_ptr().cast());
        // The system clears a page when it is first touched, which costs more than all else in packing a model: the team
        // does it together.
        team::parallel(layout.size().div_ceil(2 * HUGE), |chunk| {
            let at = chunk * 2 * HUGE;
            // SAFETY: chunks are disjoint parts of what was just allocated; all bits zero is 0.
            unsafe {
                memory
                    .at(at)
                    .write_bytes(0, (layout.size() - at).min(2 * HUGE));
            }
        });
        Self { start, length }
    }
}

impl<F> Buffer<F> {
    /// Gives the memory back to the system, not to the allocator, which may keep what was freed.
    pub(crate) fn discard(self) {
        #[cfg(all(target_os = "linux", not(miri)))]
        {
            const MADV_DONTNEED: i32 = 4;
            let bytes = self.length * size_of::<F>();
            let start = self.start.as_ptr().cast::<u8>();
            let skip = start.align_offset(PAGE).min(bytes);
            // SAFETY: whole pages inside the allocation, whose contents nobody will read again.
            unsafe { madvise(start.add(skip), (bytes - skip) / PAGE * PAGE, MADV_DONTNEED) };
        }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
unsafe extern "C" {
    fn madvise(start: *mut u8, length: usize, advice: i32) -> i32;
}

/// Memory that nobody else knows of yet.
#[derive(Clone, Copy)]
struct Fresh(*mut u8);

// SAFETY: the threads that share it write disjoint parts.
unsafe impl Sync for Fresh {}

impl Fresh {
    /// # Safety
    /// `offset` lies in it.
    unsafe fn at(self, offset: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// Asks for huge pages. It must come before the first touch, which is why `alloc_zeroed` will not do.
#[cfg(all(target_os = "linux", not(miri)))]
fn advise(start: *mut u8, layout: Layout) {
    const MADV_HUGEPAGE: i32 = 14;
    if layout.align() == HUGE {
        // SAFETY: the range was just allocated; the call changes no contents, and its failure does not matter.
        unsafe { madvise(start, layout.size() / HUGE * HUGE, MADV_HUGEPAGE) };
    }
}

#[cfg(any(not(target_os = "linux"), miri))]
fn advise(_: *mut u8, _: Layout) {}

impl<F> Drop for Buffer<F> {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout::<F>(self.length)) };
        }
    }
}

impl<F> Deref for Buffer<F> {
    type Target = [F];

    fn deref(&self) -> &[F] {
        // SAFETY: `length` initialised elements, or none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<F> DerefMut for Buffer<F> {
    fn deref_mut(&mut self) -> &mut [F] {
        // SAFETY: `length` initialised elements, or none; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl<F> fmt::Debug for Buffer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({})", self.length)
    }
}

impl<F: Plain> Clone for Buffer<F> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.length);
        copy.copy_from_slice(self);
        copy
    }
}

thread_local! {
    /// The next to lend is the last.
    static SCRATCH: RefCell<Vec<Buffer<f64>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `body` memory that the thread keeps from call to call: `length` elements, whatever they hold.
pub(crate) fn with_scratch<F: Plain, R>(length: usize, body: impl FnOnce(&mut [F]) -> R) -> R {
    const { assert!(size_of::<F>() <= size_of::<f64>()) };
    // Taken out, so that a body that asks again gets memory of its own, the same one every time.
    let kept = SCRATCH.with_borrow_mut(Vec::pop);
    let mut kept = kept.unwrap_or_else(|| Buffer::zeroed(0));
    let words = (length * size_of::<F>()).div_ceil(size_of::<f64>());
    if kept.len() < words {
        // Not both at once.
        drop(std::mem::replace(&mut kept, Buffer::zeroed(0)));
        kept = Buffer::zeroed(words);
    }
    // SAFETY: at least `length` elements of at most eight bytes, aligned to a cache line; all bits are values of either type.
    let result = body(unsafe { std::slice::from_raw_parts_mut(kept.as_mut_ptr().cast(), length) });
    SCRATCH.with_borrow_mut(|all| all.push(kept));
    result
}
