//! Activation functions and gated activations, forward and backward.

use crate::{Real, Rows, RowsMut};

/// A pointwise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)`, with the error function.
    Gelu,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
    /// `x·σ(1.702·x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x·σ(x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// `σ(x) = 1/(1 + e⁻ˣ)`.
    Sigmoid,
}

impl Activation {
    /// The function at `x`.
    pub fn of<F: Real>(self, x: F) -> F {
        self.at(x).0
    }

    /// The function and its derivative at `x`.
    fn at<F: Real>(self, x: F) -> (F, F) {
        let sigmoid = |x: F| F::ONE / (F::ONE + (-x).exp());
        let half = F::of(0.5);
        match self {
            Self::Gelu => {
                let phi = half * (F::ONE + (x * F::of(std::f64::consts::FRAC_1_SQRT_2)).erf());
                let density = (-half * x * x).exp() * F::of(0.398_942_280_401_432_7);
                (x * phi, phi + x * density)
            }
            Self::GeluTanh => {
                let (a, b) = (F::of(0.797_884_560_802_865_4), F::of(0.044_715));
                let t = (a * (x + b * x * x * x)).tanh();
                let inner = a * (F::ONE + F::of(3.0) * b * x * x);
                (
                    half * x * (F::ONE + t),
                    half * (F::ONE + t) + half * x * (F::ONE - t * t) * inner,
                )
            }
            Self::QuickGelu => {
                let c = F::of(1.702);
                let s = sigmoid(c * x);
                (x * s, s + c * x * s * (F::ONE - s))
            }
            Self::Relu if x > F::ZERO => (x, F::ONE),
            Self::Relu => (if x.is_nan() { x } else { F::ZERO }, F::ZERO),
            Self::Silu => {
                let s = sigmoid(x);
                (x * s, s + x * s * (F::ONE - s))
            }
            Self::Tanh => {
                let t = x.tanh();
                (t, F::ONE - t * t)
            }
            Self::Sigmoid => {
                let s = sigmoid(x);
                (s, s * (F::ONE - s))
            }
        }
    }
}

/// `out = kind(x)`.
pub fn activate<F: Real>(kind: Activation, x: Rows<F>, mut out: RowsMut<F>) {
    for i in 0..x.rows() {
        for (y, &x) in out.row_mut(i).iter_mut().zip(x.row(i)) {
            *y = kind.at(x).0;
        }
    }
}

/// `dx = dy · kind′(x)`.
pub fn activate_backward<F: Real>(kind: Activation, x: Rows<F>, dy: Rows<F>, mut dx: RowsMut<F>) {
    for i in 0..x.rows() {
        for ((d, &x), &dy) in dx.row_mut(i).iter_mut().zip(x.row(i)).zip(dy.row(i)) {
            *d = dy * kind.at(x).1;
        }
    }
}

/// `out = kind(gate) · up`.
pub fn gated<F: Real>(kind: Activation, gate: Rows<F>, up: Rows<F>, mut out: RowsMut<F>) {
    for i in 0..gate.rows() {
        for ((y, &g), &u) in out.row_mut(i).iter_mut().zip(gate.row(i)).zip(up.row(i)) {
            *y = kind.at(g).0 * u;
        }
    }
}

/// Gradients of [`gated`]: `dgate = dy · up · kind′(gate)`, `dup = dy · kind(gate)`.
pub fn gated_backward<F: Real>(
    kind: Activation,
    gate: Rows<F>,
    up: Rows<F>,
    dy: Rows<F>,
    mut dgate: RowsMut<F>,
    mut dup: RowsMut<F>,
) {
    for i in 0..gate.rows() {
        let (dg, du) = (dgate.row_mut(i), dup.row_mut(i));
        for (j, ((&g, &u), &dy)) in gate.row(i).iter().zip(up.row(i)).zip(dy.row(i)).enumerate() {
            let (value, slope) = kind.at(g);
            dg[j] = dy * u * slope;
            du[j] = dy * value;
        }
    }
}
