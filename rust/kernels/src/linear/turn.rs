//! The turn that rows and weights of eight bits are rounded after.
//!
//! A few channels of a model's activations are tens of times larger than the rest, and one scale a row then leaves those few
//! bits. So both sides of a product are multiplied by the same orthogonal matrix first, `(H·w)·(H·x) = w·x`, which spreads what
//! is large over many channels. H is two rounds of Hadamard matrices of 16, whose entries ±¼ are exact: over channels a
//! sixteenth of the row apart, then over channels 16 apart. So vectors meet whole, lane by lane, and 256 channels are mixed. The
//! idea is that of `QuaRot` (arXiv 2404.00456), here for each layer by itself, so that no model has to be rewritten.

use crate::Real;
use crate::simd::{Dot, DotKernel, Simd};

/// Of a Hadamard matrix.
const SIZE: usize = 16;

/// Where the blocks of the second round start: one after another and, if some channels are left over, a last one that ends with
/// the row. There are none in a short row.
#[inline(always)]
fn blocks(length: usize) -> impl DoubleEndedIterator<Item = usize> {
    const BLOCK: usize = SIZE * SIZE;
    let whole = length / BLOCK * BLOCK;
    let last = (0 < whole && whole < length).then(|| length - BLOCK);
    (0..whole).step_by(BLOCK).chain(last)
}

/// `to = H·row`; both have the same length, a multiple of 16.
#[inline(always)]
pub(super) fn forward<F: Real, S: Simd<F>>(s: S, row: &[F], to: &mut [F]) {
    assert_eq!(row.len(), to.len(), "a row and what it is turned to");
    let stride = row.len() / SIZE;
    assert_eq!(row.len(), SIZE * stride, "sixteen parts");
    let mut lane = 0;
    while lane < stride {
        let n = S::LANES.min(stride - lane);
        // What is left at the end goes together with lanes done before: parts of vectors cost more.
        let first = (lane + n).saturating_sub(S::LANES);
        // SAFETY: lanes from `first` on are inside each of the sixteen parts.
        unsafe {
            let (from, to) = (row.as_ptr().add(first), to.as_mut_ptr().add(first));
            sixteen(s, from, to, stride, lane + n - first);
        }
        lane += n;
    }
    for start in blocks(to.len()) {
        round(s, &mut to[start..start + SIZE * SIZE], SIZE);
    }
}

/// `Hᵀ·row`, in place: what [`forward`] was given.
pub(super) struct Backward<'a, F>(pub &'a mut [F]);

impl<F: Real> DotKernel<F> for Backward<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<F>>(self, s: S) {
        let row = self.0;
        for start in blocks(row.len()).rev() {
            round(s, &mut row[start..start + SIZE * SIZE], SIZE);
        }
        round(s, row, row.len() / SIZE);
    }
}

/// The symmetric Hadamard matrix over `row[i]`, `row[i + stride]`, … `row[i + 15·stride]` for each `i` below `stride`.
#[inline(always)]
fn round<F: Real, S: Simd<F>>(s: S, row: &mut [F], stride: usize) {
    assert_eq!(row.len(), SIZE * stride, "sixteen parts");
    for lane in (0..stride).step_by(S::LANES) {
        // SAFETY: so many lanes are left of each of the sixteen parts.
        unsafe {
            let to = row.as_mut_ptr().add(lane);
            sixteen(s, to, to, stride, S::LANES.min(stride - lane));
        }
    }
}

/// The same for `n` neighbouring `i`.
///
/// # Safety
/// Sixteen times `n` elements, `stride` apart, can be read and written.
#[inline(always)]
unsafe fn sixteen<F: Real, S: Simd<F>>(s: S, from: *const F, to: *mut F, stride: usize, n: usize) {
    let mut v = [s.splat(F::ZERO); SIZE];
    // Loops: closures given to arrays are not always inlined, and so not compiled for the level.
    // SAFETY: the caller's promise.
    unsafe {
        if n == S::LANES {
            for (i, v) in v.iter_mut().enumerate() {
                *v = s.load(from.add(i * stride));
            }
            hadamard(s, &mut v);
            for (i, v) in v.into_iter().enumerate() {
                s.store(to.add(i * stride), v);
            }
        } else {
            for (i, v) in v.iter_mut().enumerate() {
                *v = s.load_part(from.add(i * stride), n);
            }
            hadamard(s, &mut v);
            for (i, v) in v.into_iter().enumerate() {
                s.store_part(to.add(i * stride), v, n);
            }
        }
    }
}

#[inline(always)]
fn hadamard<F: Real, S: Simd<F>>(s: S, v: &mut [S::V; SIZE]) {
    let scale = s.splat(F::of(0.25));
    for v in v.iter_mut() {
        *v = s.mul(scale, *v);
    }
    butterflies::<F, S, 1>(s, v);
    butterflies::<F, S, 2>(s, v);
    butterflies::<F, S, 4>(s, v);
    butterflies::<F, S, 8>(s, v);
}

/// Sums and differences of vectors `HALF` apart; a constant, so that all stay in registers.
#[inline(always)]
fn butterflies<F: Real, S: Simd<F>, const HALF: usize>(s: S, v: &mut [S::V; SIZE]) {
    for i in 0..SIZE {
        if i & HALF == 0 {
            (v[i], v[i + HALF]) = (s.add(v[i], v[i + HALF]), s.sub(v[i], v[i + HALF]));
        }
    }
}
