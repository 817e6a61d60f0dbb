//! Vectors and instruction sets.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// The element types kernels run on: `f32`, with every instruction set, and `f64`, the reference for gradients.
pub trait Real:
    sealed::Sealed
    + Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// The nearest value to a 64-bit one.
    fn of(value: f64) -> Self;
    /// Exact for both types.
    fn to_f64(self) -> f64;
    /// √x.
    fn sqrt(self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Error function.
    fn erf(self) -> Self;
    /// Sine and cosine.
    fn sin_cos(self) -> (Self, Self);
    /// The larger of two; a NaN is kept.
    fn larger(self, other: Self) -> Self {
        if self > other || self.is_nan() {
            self
        } else {
            other
        }
    }
    /// Not a number.
    fn is_nan(self) -> bool;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;
}

macro_rules! real {
    ($f:ty, $erf:path) => {
        impl Real for $f {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = <$f>::NEG_INFINITY;
            fn of(value: f64) -> Self {
                value as $f
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn sqrt(self) -> Self {
                <$f>::sqrt(self)
            }
            fn exp(self) -> Self {
                <$f>::exp(self)
            }
            fn ln(self) -> Self {
                <$f>::ln(self)
            }
            fn tanh(self) -> Self {
                <$f>::tanh(self)
            }
            fn erf(self) -> Self {
                $erf(self)
            }
            fn sin_cos(self) -> (Self, Self) {
                <$f>::sin_cos(self)
            }
            fn is_nan(self) -> bool {
                <$f>::is_nan(self)
            }
            fn is_finite(self) -> bool {
                <$f>::is_finite(self)
            }
        }
    };
}
real!(f32, libm::erff);
real!(f64, libm::erf);
