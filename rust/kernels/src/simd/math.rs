//! Transcendental functions on `f32` vectors.
//!
//! Polynomials are minimax fits in the relative (or, for `erf`, absolute) error; the bounds are tested against `f64`.

#![expect(
    clippy::approx_constant,
    clippy::excessive_precision,
    reason = "coefficients of fits, written as fitted"
)]

use super::Simd;

/// What the functions need beside [`Simd`].
pub(super) trait Parts: Simd<f32> {
    /// The nearest integer, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// `v · 2ⁿ` for an integral `−151 ≤ n ≤ 129`.
    fn scale_by_power(self, v: Self::V, n: Self::V) -> Self::V;
    /// |v|.
    fn abs(self, v: Self::V) -> Self::V;
    /// `magnitude` with the sign of `sign`; `magnitude` is not negative.
    fn with_sign(self, magnitude: Self::V, sign: Self::V) -> Self::V;
}

/// Horner's rule, the highest coefficient last.
#[inline(always)]
fn polynomial<S: Simd<f32>, const N: usize>(s: S, x: S::V, coefficients: [f32; N]) -> S::V {
    let mut y = s.splat(coefficients[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        y = s.fma(y, x, s.splat(coefficients[i]));
    }
    y
}

/// `x = n·ln 2 + r`, `eˣ = 2ⁿ·(1 + (r + r²·q(r)))`.
#[inline(always)]
pub(super) fn exp<S: Parts>(s: S, x: S::V) -> S::V {
    // Beyond these the result is 0 or +∞ all the same; a NaN passes because it is the second operand.
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let q = polynomial(
        s,
        r,
        [
            0.499_999_93,
            0.166_665_2,
            0.041_668_394,
            0.008_368_78,
            0.001_381_446_5,
        ],
    );
    let p = s.add(s.splat(1.0), s.fma(s.mul(r, r), q, r));
    s.scale_by_power(p, n)
}

/// A polynomial below 0.625, `1 − 2/(e²ˣ + 1)` above.
#[inline(always)]
pub(super) fn tanh<S: Parts>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let t = s.mul(a, a);
    let p = polynomial(
        s,
        t,
        [
            -0.333_332_85,
            0.133_315_15,
            -0.053_745_145,
            0.020_655_22,
            -0.005_721_631,
        ],
    );
    let small = s.fma(s.mul(a, t), p, a);
    let e = exp(s, s.add(a, a));
    let one = s.splat(1.0);
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    s.with_sign(s.select_less(a, s.splat(0.625), small, large), x)
}

/// A polynomial below 0.92, `1 − exp(g(x))` with `g ≈ ln erfc` above; 1 from 4 on.
#[inline(always)]
pub(super) fn erf<S: Parts>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let t = s.mul(a, a);
    let small = s.mul(
        a,
        polynomial(
            s,
            t,
            [
                1.128_379_2,
                -0.376_126_34,
                0.112_836_99,
                -0.026_859_539,
                0.005_201_304_6,
                -8.145_076e-4,
                8.377_584e-5,
            ],
        ),
    );
    let g = polynomial(
        s,
        s.min(s.splat(4.0), a),
        [
            9.324_387_5e-5,
            -1.129_133_1,
            -0.634_093_3,
            -0.107_493_31,
            0.024_637_414,
            -0.003_999_803_6,
            4.018_580_3e-4,
            -1.853_456_2e-5,
        ],
    );
    let large = s.sub(s.splat(1.0), exp(s, g));
    s.with_sign(s.select_less(a, s.splat(0.92), small, large), x)
}
