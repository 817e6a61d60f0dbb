//! Products with packed weights, and the gradient of a weight.

mod gradient;
mod packed;
pub(crate) mod tile;

pub use gradient::gradient_weight;
pub use packed::Packed;

use crate::activation::Activation;
use crate::simd::{self, Kernel, Simd};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};
use packed::PANEL;
use tile::{From, Operands};

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

/// Rows of a block: its sums, 64 columns wide, stay in the first caches.
const ROWS: usize = 96;
/// Inputs of a panel that stay in the second cache while the rows of a block pass.
const DEPTH: usize = 1024;

/// `out = x·Wᵀ` `[M, outputs]` with an [`Epilogue`].
///
/// Each output is one chain of fused multiply-adds over the inputs in order, so a row does not depend on the others.
///
/// # Panics
/// If the shapes disagree.
pub fn matmul<F: Real>(x: Rows<F>, weight: &Packed<F>, out: RowsMut<F>, epilogue: &Epilogue<F>) {
    let (rows, outputs) = (x.rows(), weight.outputs());
    assert_eq!(x.width(), weight.inputs(), "width of the input");
    assert_eq!(
        (rows, outputs),
        (out.rows(), out.width()),
        "shape of the output"
    );
    assert!(
        epilogue.bias.is_none_or(|bias| bias.len() == outputs),
        "length of the bias"
    );
    if let Onto::Rows(onto) = epilogue.onto {
        assert_eq!(
            (onto.rows(), onto.width()),
            (rows, outputs),
            "shape of the residual"
        );
    }
    let (out, level) = (out.share(), simd::current());
    let panels = outputs.div_ceil(PANEL);
    // Whole panels when they are enough to share; else their rows are split too.
    let blocks = rows.div_ceil(ROWS);
    let splits = if panels >= 4 * team::threads() {
        1
    } else {
        blocks
    };
    team::parallel(panels * splits, |chunk| {
        let (panel, split) = (chunk / splits, chunk % splits);
        for block in split * blocks / splits..(split + 1) * blocks / splits {
            let (first, last) = (block * ROWS, rows.min((block + 1) * ROWS));
            F::dispatch(
                level,
                Block {
                    x: x.slice(first..last),
                    weight,
                    panel,
                    first,
                    out,
                    epilogue,
                },
            );
        }
    });
}

struct Block<'a, F> {
    x: Rows<'a, F>,
    weight: &'a Packed<F>,
    panel: usize,
    first: usize,
    out: Shared<'a, F>,
    epilogue: &'a Epilogue<'a, F>,
}

#[repr(align(64))]
struct Sums<F>([F; ROWS * PANEL]);

impl<F: Real> Kernel<F> for Block<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            x,
            weight,
            panel,
            first,
            out,
            epilogue,
        } = self;
        let mut sums = std::mem::MaybeUninit::<Sums<F>>::uninit();
        let sums = sums.as_mut_ptr().cast::<F>();
        let (depth, columns) = (weight.inputs(), PANEL.min(weight.outputs() - panel * PANEL));
        let weights = weight.panel(panel);
        let mut k = 0;
        // SAFETY: A is `x.rows()` rows of `depth`, B the panel, C the sums, which the first pass initialises.
        unsafe {
            while k < depth || k == 0 {
                let o = Operands {
                    a: x.start().add(k),
                    a_row: x.stride(),
                    a_step: 1,
                    b: weights.as_ptr().add(k * PANEL),
                    b_step: PANEL,
                    c: sums,
                    c_row: PANEL,
                };
                let from = if k == 0 { From::Zero } else { From::Output };
                tile::product(s, x.rows(), columns, DEPTH.min(depth - k), o, from);
                k += DEPTH;
            }
        }
        for i in 0..x.rows() {
            let mut at = 0;
            while at < columns {
                let (n, column) = (S::LANES.min(columns - at), panel * PANEL + at);
                // SAFETY: `n` columns from `column` exist in the row, the bias and the residual; no other chunk has them.
                unsafe {
                    let mut y = s.load_part(sums.add(i * PANEL + at), n);
                    if let Some(bias) = epilogue.bias {
                        y = s.add(y, s.load_part(bias.as_ptr().add(column), n));
                    }
                    if let Some(kind) = epilogue.activation {
                        y = kind.lanes(s, y);
                    }
                    let to = out.row_ptr(first + i).add(column);
                    let scale = s.splat(epilogue.scale);
                    y = match epilogue.onto {
                        Onto::Zero => s.mul(scale, y),
                        Onto::Output => s.fma(scale, y, s.load_part(to, n)),
                        Onto::Rows(onto) => s.fma(
                            scale,
                            y,
                            s.load_part(onto.row(first + i).as_ptr().add(column), n),
                        ),
                    };
                    s.store_part(to, y, n);
                }
                at += n;
            }
        }
    }
}
