//! Products with packed weights, and the gradient of a weight.

mod fold;
mod gradient;
mod packed;
pub(crate) mod tile;

pub use fold::{Tile, fold};
pub use gradient::{gradient_weight, gradient_weight_add};
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

/// One of several products that are computed together.
#[derive(Debug)]
pub struct Product<'a, F> {
    /// The input.
    pub x: Rows<'a, F>,
    /// The weight.
    pub weight: &'a Packed<F>,
    /// The output.
    pub out: RowsMut<'a, F>,
    /// What happens before the output is written.
    pub epilogue: Epilogue<'a, F>,
}

/// `out = x·Wᵀ` `[M, outputs]` with an [`Epilogue`].
///
/// Each output is one chain of fused multiply-adds over the inputs in order, so a row does not depend on the others.
///
/// # Panics
/// If the shapes disagree.
pub fn matmul<F: Real>(x: Rows<F>, weight: &Packed<F>, out: RowsMut<F>, epilogue: &Epilogue<F>) {
    let epilogue = *epilogue;
    matmuls([Product {
        x,
        weight,
        out,
        epilogue,
    }]);
}

/// Several products, none of which reads what another writes, in one parallel region: what [`matmul`] gives for each, with
/// fewer hand-overs and evener shares (q, k and v; gate and up).
///
/// # Panics
/// If the shapes disagree.
pub fn matmuls<'a, F: Real>(products: impl IntoIterator<Item = Product<'a, F>>) {
    let mut chunks = 0;
    let parts: Vec<Part<F>> = products
        .into_iter()
        .map(|product| Part::of(product, &mut chunks))
        .collect();
    let level = simd::current();
    team::parallel(chunks, |chunk| {
        let part = &parts[parts.partition_point(|part| part.start <= chunk) - 1];
        let (panel, split) = (
            (chunk - part.start) / part.splits,
            (chunk - part.start) % part.splits,
        );
        let (rows, blocks) = (part.x.rows(), part.blocks);
        for block in split * blocks / part.splits..(split + 1) * blocks / part.splits {
            let (first, last) = (block * ROWS, rows.min((block + 1) * ROWS));
            F::dispatch(
                level,
                Block {
                    x: part.x.slice(first..last),
                    weight: part.weight,
                    panel,
                    out: part.out,
                    at: (first, panel * PANEL),
                    epilogue: &part.epilogue,
                },
            );
        }
    });
}

/// A product whose chunks are `start..start + panels * splits` of the region.
struct Part<'a, F> {
    x: Rows<'a, F>,
    weight: &'a Packed<F>,
    out: Shared<'a, F>,
    epilogue: Epilogue<'a, F>,
    start: usize,
    blocks: usize,
    splits: usize,
}

impl<'a, F: Real> Part<'a, F> {
    fn of(product: Product<'a, F>, chunks: &mut usize) -> Self {
        let Product {
            x,
            weight,
            out,
            epilogue,
        } = product;
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
        let panels = outputs.div_ceil(PANEL);
        // Whole panels when they are enough to share; else their rows are split too.
        let blocks = rows.div_ceil(ROWS);
        let splits = if panels >= 4 * team::threads() {
            1
        } else {
            blocks
        };
        let start = *chunks;
        *chunks += panels * splits;
        Self {
            x,
            weight,
            out: out.share(),
            epilogue,
            start,
            blocks,
            splits,
        }
    }
}

/// At most [`ROWS`] rows times one panel.
struct Block<'a, F> {
    x: Rows<'a, F>,
    weight: &'a Packed<F>,
    panel: usize,
    out: Shared<'a, F>,
    /// Row and column of `out` where the block goes.
    at: (usize, usize),
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
            out,
            at: (first, start),
            epilogue,
        } = self;
        let mut sums = std::mem::MaybeUninit::<Sums<F>>::uninit();
        let sums = sums.as_mut_ptr().cast::<F>();
        let (depth, columns) = (weight.inputs(), PANEL.min(weight.outputs() - panel * PANEL));
        let width = weight.strip_width();
        for strip in 0..columns.div_ceil(width) {
            let weights = weight.strip(panel * PANEL / width + strip);
            let mut k = 0;
            while k < depth || k == 0 {
                // SAFETY: A is `x.rows()` rows of `depth`, B the strip, C its part of the sums, which the first pass
                // initialises.
                unsafe {
                    let o = Operands {
                        a: x.start().add(k),
                        a_row: x.stride(),
                        a_step: 1,
                        b: weights.as_ptr().add(k * width),
                        b_step: width,
                        c: sums.add(strip * width),
                        c_row: PANEL,
                    };
                    let from = if k == 0 { From::Zero } else { From::Output };
                    let columns = width.min(columns - strip * width);
                    tile::product(s, x.rows(), columns, DEPTH.min(depth - k), o, from);
                }
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
                    let to = out.row_ptr(first + i).add(start + at);
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
