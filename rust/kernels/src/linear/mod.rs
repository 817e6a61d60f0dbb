//! Products with packed weights, and the gradient of a weight.
//!
//! A weight is packed once into panels ([`Packed`]) of floats or of a narrower type ([`Weights`]); [`matmul`], [`matmuls`] and
//! [`fold`] take any of them, in any mix. The input is always floats: what narrow weights take of it (bfloat16, bytes) is made
//! of each row once, before the product, and a row never depends on the rows beside it.
//!
//! ```
//! use lmrs_kernels::linear::{Decoded, Epilogue, Packed, Weights, matmul};
//! use lmrs_kernels::{Rows, RowsMut};
//!
//! // Rows are decoded while they are packed: here to 1, in an engine from a file.
//! let table = Decoded { outputs: 100, inputs: 16, decode: |_: usize, row: &mut [f32]| row.fill(1.0) };
//! let weight = Packed::pack(Weights::Bf16, &[&table]);
//! let (x, mut y) = (vec![0.5; 2 * 16], vec![0.0; 2 * 100]);
//! matmul(Rows::new(&x, 2, 16), &weight, RowsMut::new(&mut y, 2, 100), &Epilogue::default());
//! assert_eq!(y, [8.0; 200]);
//! ```

mod bf16;
mod block;
mod bytes;
mod fold;
mod format;
mod gradient;
mod input;
mod int4;
mod int8;
mod operand;
mod packed;
mod source;
mod stored;
pub(crate) mod tile;
mod turn;
mod walk;
mod weight;

pub use fold::{Tile, fold, pick};
pub use gradient::{gradient_weight, gradient_weight_add};
pub use operand::Compute;
pub use packed::{Packed, Weights};
pub use source::{Decoded, Source};
pub use stored::Lender;
pub use weight::{Weight, apply, gradient_input};

use crate::activation::Activation;
use crate::memory::with_scratch;
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, simd, team};
use block::Block;
use input::{Input, Inputs};

/// Outputs in a panel.
const PANEL: usize = 64;

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
/// Steps along a panel, in whole chains, that stay in the second cache while the rows of a block pass.
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
/// Each output is summed over the inputs in order, in chains of 256 fused multiply-adds that are added one after another, so a
/// row does not depend on the others.
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
/// fewer hand-overs and evener shares (q, k and v; gate and up). Rows that several take are narrowed once.
///
/// # Panics
/// If the shapes disagree.
pub fn matmuls<'a, F: Real>(products: impl IntoIterator<Item = Product<'a, F>>) {
    let products: Vec<Product<F>> = products.into_iter().collect();
    let inputs = Inputs::of(products.iter().map(|product| (product.x, product.weight)));
    with_scratch(inputs.words(), |words| {
        let narrowed = inputs.narrow(words);
        let mut chunks = 0;
        let parts: Vec<Part<F>> = products
            .into_iter()
            .enumerate()
            .map(|(index, product)| Part::of(product, narrowed.input(index), &mut chunks))
            .collect();
        let level = simd::current();
        team::parallel(chunks, |chunk| {
            let part = &parts[parts.partition_point(|part| part.start <= chunk) - 1];
            let (panel, split) = (
                (chunk - part.start) / part.splits,
                (chunk - part.start) % part.splits,
            );
            let (rows, blocks) = (part.input.rows(), part.blocks);
            for block in split * blocks / part.splits..(split + 1) * blocks / part.splits {
                let (first, last) = (block * ROWS, rows.min((block + 1) * ROWS));
                Block {
                    input: part.input.slice(first..last),
                    weight: part.weight,
                    panel,
                    out: part.out,
                    at: (first, panel * PANEL),
                    epilogue: &part.epilogue,
                }
                .run(level);
            }
        });
    });
}

/// A product whose chunks are `start..start + panels * splits` of the region.
struct Part<'a, F> {
    input: Input<'a, F>,
    weight: &'a Packed<F>,
    out: Shared<'a, F>,
    epilogue: Epilogue<'a, F>,
    start: usize,
    blocks: usize,
    splits: usize,
}

impl<'a, F: Real> Part<'a, F> {
    fn of(product: Product<'a, F>, input: Input<'a, F>, chunks: &mut usize) -> Self {
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
            input,
            weight,
            out: out.share(),
            epilogue,
            start,
            blocks,
            splits,
        }
    }
}
