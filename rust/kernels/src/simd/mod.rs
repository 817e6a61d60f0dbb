//! Vectors and instruction sets: the only intrinsics of lmrs, and the choice between them at run time.
//!
//! A kernel is a struct of its arguments that implements [`Kernel`]; its `run` is written once over [`Simd`]. [`Real::dispatch`]
//! calls it inside a function compiled for the chosen [`Level`]. Everything between that function and the intrinsics is
//! `#[inline(always)]`, so the vector operations are compiled with the features of the level.
//!
//! VNNI and BF16 only add to 512-bit vectors the products of narrow numbers ([`Dot`], used by [`DotKernel`]s): for every other
//! kernel `avx512-vnni` and `avx512-bf16` are `avx512`, the level that [`Level::vectors`] gives for them. Each name forces
//! exactly that set, so one CPU tests the paths of its predecessors.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dot;
mod element;
// Elsewhere the scalar kernels call the library.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod math;
mod real;
mod scalar;

use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;

use half::bf16;

pub use dot::{Dot, DotKernel};
pub(crate) use element::Element;
pub use real::Real;
pub use scalar::Scalar;

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every CPU has; the only level for `f64`.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with VNNI: products of bytes.
    Avx512Vnni,
    /// AVX-512 with VNNI and BF16: products of bytes and of bfloat16.
    Avx512Bf16,
}

impl Level {
    /// Every level, the narrowest first.
    pub const ALL: [Self; 5] = [
        Self::Scalar,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
    ];

    /// The name used by `LMRS_SIMD`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// The level whose vectors it uses: itself, but AVX-512 for what only adds dot products to that.
    #[must_use]
    pub fn vectors(self) -> Self {
        self.min(Self::Avx512)
    }

    /// Whether this CPU and operating system can run it.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && !cfg!(miri)
            }
            Self::Avx512 => {
                Self::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Self::Avx512Vnni => Self::Avx512.available() && is_x86_feature_detected!("avx512vnni"),
            Self::Avx512Bf16 => {
                Self::Avx512Vnni.available() && is_x86_feature_detected!("avx512bf16")
            }
        }
    }

    /// Whether this CPU and operating system can run it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available(self) -> bool {
        self == Self::Scalar
    }

    fn choose() -> Result<Self, LevelError> {
        let best = Self::ALL
            .into_iter()
            .rev()
            .find(|level| level.available())
            .unwrap_or(Self::Scalar);
        let Some(asked) = std::env::var_os("LMRS_SIMD") else {
            return Ok(best);
        };
        match Self::ALL
            .into_iter()
            .find(|level| asked.to_str() == Some(level.name()))
        {
            Some(level) if level.available() => Ok(level),
            Some(_) => Err(LevelError {
                asked: asked.to_string_lossy().into_owned(),
                best: Some(best),
            }),
            None => Err(LevelError {
                asked: asked.to_string_lossy().into_owned(),
                best: None,
            }),
        }
    }
}

/// `LMRS_SIMD` names no level, or one this CPU cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelError {
    asked: String,
    best: Option<Level>,
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.best {
            Some(best) => write!(
                f,
                "LMRS_SIMD={}: this CPU cannot run it; its best is {}",
                self.asked,
                best.name()
            ),
            None => write!(
                f,
                "LMRS_SIMD={}: expected one of {}",
                self.asked,
                Level::ALL.map(Level::name).join(", ")
            ),
        }
    }
}

impl std::error::Error for LevelError {}

/// The level kernels use: what `LMRS_SIMD` asks for, else the best this CPU can run. Decided once a process.
pub fn level() -> Result<Level, LevelError> {
    static LEVEL: OnceLock<Result<Level, LevelError>> = OnceLock::new();
    LEVEL.get_or_init(Level::choose).clone()
}

thread_local! {
    static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
}

/// Runs `body` with kernels called from this thread at `level`: how one process tests and compares every level.
///
/// # Panics
/// If this CPU cannot run `level`.
pub fn with_level<R>(level: Level, body: impl FnOnce() -> R) -> R {
    assert!(level.available(), "this CPU cannot run {}", level.name());
    with_forced(Some(level), body)
}

/// Runs `body` under what [`forced`] was elsewhere: how a region's workers take over the level of its caller.
pub(crate) fn with_forced<R>(level: Option<Level>, body: impl FnOnce() -> R) -> R {
    struct Restore(Option<Level>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    let _restore = Restore(FORCED.replace(level));
    body()
}

/// The level that [`with_level`] set on this thread.
pub(crate) fn forced() -> Option<Level> {
    FORCED.get()
}

/// The level for a kernel entered on this thread. A wrong `LMRS_SIMD` is reported by [`level`]; here it means the scalar level.
pub(crate) fn current() -> Level {
    FORCED.get().unwrap_or_else(|| {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| level().unwrap_or(Level::Scalar))
    })
}

/// Work written once for every level.
pub trait Kernel<F: Real> {
    /// What it returns.
    type Output;
    /// Does the work with vectors of `S`. Implementations are `#[inline(always)]`.
    fn run<S: Simd<F>>(self, simd: S) -> Self::Output;
}

/// The vectors of one level over elements `F`.
///
/// A value of an implementing type is proof that the CPU has the level: they are made only by [`Real::dispatch`] after
/// detection. That is why the arithmetic is safe to call; only loads and stores, which take pointers, are not.
pub trait Simd<F: Real>: Copy + Send + Sync {
    /// A vector.
    type V: Copy;
    /// Elements in a vector.
    const LANES: usize;
    /// The level, as [`Level::vectors`] gives it.
    const LEVEL: Level;
    /// Rows of the matrix tile whose accumulators, with [`Self::TILE_VECTORS`], fill the registers.
    const TILE_ROWS: usize;
    /// Vectors across that tile.
    const TILE_VECTORS: usize;

    /// All lanes equal to `x`.
    fn splat(self, x: F) -> Self::V;
    /// Loads `LANES` elements.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load(self, from: *const F) -> Self::V;
    /// Stores `LANES` elements.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn store(self, to: *mut F, v: Self::V);
    /// Loads `n ≤ LANES` elements; the other lanes are 0.
    ///
    /// # Safety
    /// `n` elements can be read.
    unsafe fn load_part(self, from: *const F, n: usize) -> Self::V;
    /// Loads `LANES` bfloat16.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V;
    /// Loads `LANES` signed bytes.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_i8(self, from: *const i8) -> Self::V;
    /// Stores the first `n ≤ LANES` lanes.
    ///
    /// # Safety
    /// `n` elements can be written.
    unsafe fn store_part(self, to: *mut F, v: Self::V, n: usize);

    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the level has such an instruction.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// √a.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a < b ? x : y` in each lane.
    fn select_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Lanes below `n` of `v`, 0 in the others.
    fn first(self, v: Self::V, n: usize) -> Self::V;
    /// eˣ; at most 1.1 units in the last place off in `f32`; 0 at −∞, +∞ at overflow, NaN kept.
    fn exp(self, x: Self::V) -> Self::V;
    /// Hyperbolic tangent.
    fn tanh(self, x: Self::V) -> Self::V;
    /// Φ(x), how likely a standard normal is below `x`, and e^(−x²/2).
    fn normal(self, x: Self::V) -> (Self::V, Self::V);
    /// Sine and cosine; at most 1.2e-7 off in `f32` for |x| ≤ 10⁶, beyond which only the scalar level is right.
    fn sin_cos(self, x: Self::V) -> (Self::V, Self::V);
    /// The sum of the lanes, in a fixed order.
    fn sum(self, v: Self::V) -> F;
    /// The largest lane.
    fn largest(self, v: Self::V) -> F;
}

/// Asks for a cache line that will be read soon. It may lie anywhere: nothing is read if it is not memory.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which every CPU of the architecture has and which faults nowhere.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = at;
}
