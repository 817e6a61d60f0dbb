//! Products with packed weights.

use crate::activation::Activation;
use crate::{Real, Rows, RowsMut};

/// Outputs in a panel.
pub const PANEL: usize = 64;

/// A weight `[outputs, inputs]` packed into panels `[outputs/64][inputs][64]`, the last padded with zeros.
#[derive(Clone, Debug)]
pub struct Packed<F> {
    panels: Vec<F>,
    outputs: usize,
    inputs: usize,
}

impl<F: Real> Packed<F> {
    /// Packs a weight `[outputs, inputs]`, for `x·Wᵀ`.
    pub fn new(weight: Rows<F>) -> Self {
        Self::stacked(&[weight])
    }

    /// Packs the transpose of `weight` `[inputs, outputs]`, for `x·W`: the gradient of the input of a linear layer.
    pub fn transposed(weight: Rows<F>) -> Self {
        let (inputs, outputs) = (weight.rows(), weight.width());
        let mut panels = vec![F::ZERO; outputs.div_ceil(PANEL) * PANEL * inputs];
        for k in 0..inputs {
            for (n, &w) in weight.row(k).iter().enumerate() {
                panels[(n / PANEL * inputs + k) * PANEL + n % PANEL] = w;
            }
        }
        Self {
            panels,
            outputs,
            inputs,
        }
    }

    /// Packs several weights of the same number of inputs, one after another along the outputs (q, k and v in one product).
    ///
    /// # Panics
    /// If the inputs differ.
    pub fn stacked(weights: &[Rows<F>]) -> Self {
        let inputs = weights.first().map_or(0, Rows::width);
        let outputs = weights.iter().map(Rows::rows).sum::<usize>();
        let mut panels = vec![F::ZERO; outputs.div_ceil(PANEL) * PANEL * inputs];
        let mut n = 0;
        for weight in weights {
            assert_eq!(
                weight.width(),
                inputs,
                "weights stacked along outputs have the same inputs"
            );
            for row in 0..weight.rows() {
                for (k, &w) in weight.row(row).iter().enumerate() {
                    panels[(n / PANEL * inputs + k) * PANEL + n % PANEL] = w;
                }
                n += 1;
            }
        }
        Self {
            panels,
            outputs,
            inputs,
        }
    }

    /// Width of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        size_of_val(self.panels.as_slice())
    }
}

/// What a product is added to.
#[derive(Clone, Copy, Debug, Default)]
pub enum Onto<'a, F> {
    /// Nothing: the output is overwritten.
    #[default]
    Zero,
    /// What the output holds.
    Output,
    /// A residual of the shape of the output.
    Rows(Rows<'a, F>),
}

/// What happens to `y = x·Wᵀ` before it is written: `onto + scale · activation(y + bias)`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a, F> {
    /// `[outputs]`.
    pub bias: Option<&'a [F]>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// Applied after the activation.
    pub scale: F,
    /// Added last.
    pub onto: Onto<'a, F>,
}

impl<F: Real> Default for Epilogue<'_, F> {
    fn default() -> Self {
        Self {
            bias: None,
            activation: None,
            scale: F::ONE,
            onto: Onto::Zero,
        }
    }
}

/// `out = x·Wᵀ` `[M, outputs]` with an [`Epilogue`].
///
/// Each output is one chain of fused multiply-adds over the inputs in order, so a row does not depend on the others.
///
/// # Panics
/// If the shapes disagree.
pub fn matmul<F: Real>(
    x: Rows<F>,
    weight: &Packed<F>,
    mut out: RowsMut<F>,
    epilogue: &Epilogue<F>,
) {
    assert_eq!(x.width(), weight.inputs);
    assert_eq!((x.rows(), weight.outputs), (out.rows(), out.width()));
    for i in 0..x.rows() {
        let row = x.row(i);
        for n in 0..weight.outputs {
            let mut sum = F::ZERO;
            for (k, &x) in row.iter().enumerate() {
                sum += x * weight.panels[(n / PANEL * weight.inputs + k) * PANEL + n % PANEL];
            }
            if let Some(bias) = epilogue.bias {
                sum += bias[n];
            }
            if let Some(kind) = epilogue.activation {
                sum = kind.of(sum);
            }
            sum = sum * epilogue.scale;
            let out = &mut out.row_mut(i)[n];
            *out = match epilogue.onto {
                Onto::Zero => sum,
                Onto::Output => *out + sum,
                Onto::Rows(rows) => rows.row(i)[n] + sum,
            };
        }
    }
}

/// `dw = dyᵀ·x` `[outputs, inputs]` for `dy` `[T, outputs]` and `x` `[T, inputs]`: the gradient of a weight.
pub fn gradient_weight<F: Real>(dy: Rows<F>, x: Rows<F>, mut dw: RowsMut<F>) {
    assert_eq!(dy.rows(), x.rows());
    assert_eq!((dy.width(), x.width()), (dw.rows(), dw.width()));
    for o in 0..dy.width() {
        let row = dw.row_mut(o);
        row.fill(F::ZERO);
        for t in 0..dy.rows() {
            let d = dy.row(t)[o];
            row.iter_mut().zip(x.row(t)).for_each(|(w, &x)| *w += d * x);
        }
    }
}
