//! Weights packed for products.

use std::ops::Range;
use std::sync::Arc;

use crate::memory::Buffer;
use crate::simd::{self, Kernel, Simd};
use crate::{Real, Rows, RowsMut, team};

/// Outputs in a panel.
pub(crate) const PANEL: usize = 64;

/// A weight `[outputs, inputs]` packed into panels of 64 outputs, the last padded with zeros. A clone shares them.
///
/// A panel lies in strips as wide as the tile of the level it was packed at, `[64/strip][inputs][strip]`, so that the tile
/// walks memory in order. Any level can read any strip, and the width changes no bit.
#[derive(Clone, Debug)]
pub struct Packed<F> {
    panels: Arc<Buffer<F>>,
    strip: usize,
    outputs: usize,
    inputs: usize,
}

impl<F: Real> Packed<F> {
    /// Packs a weight `[outputs, inputs]`, for `x·Wᵀ`.
    pub fn new(weight: Rows<F>) -> Self {
        Self::stacked(&[weight])
    }

    /// Packs several weights of the same number of inputs, one after another along the outputs (q, k and v in one product).
    ///
    /// # Panics
    /// If the inputs differ.
    pub fn stacked(weights: &[Rows<F>]) -> Self {
        let inputs = weights.first().map_or(0, Rows::width);
        assert!(
            weights.iter().all(|w| w.width() == inputs),
            "weights stacked along outputs have the same inputs"
        );
        let rows: Vec<&[F]> = weights
            .iter()
            .flat_map(|w| (0..w.rows()).map(|n| w.row(n)))
            .collect();
        Self::fill(rows.len(), inputs, |strip, outputs, width| {
            let rows = &rows[outputs];
            // Sixteen inputs at a time: a cache line of each of the rows, which together stay in the first cache.
            for (block, out) in strip.chunks_mut(16 * width).enumerate() {
                for (n, row) in rows.iter().enumerate() {
                    for (k, &w) in row[block * 16..].iter().take(16).enumerate() {
                        out[k * width + n] = w;
                    }
                }
            }
        })
    }

    /// Packs the transpose of `weight` `[inputs, outputs]`, for `x·W`: the gradient of the input of a linear layer.
    pub fn transposed(weight: Rows<F>) -> Self {
        Self::transposed_stacked(&[weight])
    }

    /// Packs the transposes of several weights `[inputsᵢ, outputs]`, one after another along the inputs: the gradient of the
    /// input that stacked weights share.
    ///
    /// # Panics
    /// If the outputs differ.
    pub fn transposed_stacked(weights: &[Rows<F>]) -> Self {
        let outputs = weights.first().map_or(0, Rows::width);
        assert!(
            weights.iter().all(|w| w.width() == outputs),
            "weights stacked along inputs have the same outputs"
        );
        let rows: Vec<&[F]> = weights
            .iter()
            .flat_map(|w| (0..w.rows()).map(|k| w.row(k)))
            .collect();
        Self::fill(outputs, rows.len(), |strip, outputs, width| {
            for (row, out) in rows.iter().zip(strip.chunks_exact_mut(width)) {
                out[..outputs.len()].copy_from_slice(&row[outputs.clone()]);
            }
        })
    }

    /// Fills each strip by `fill(strip, its outputs, its width)`.
    fn fill(
        outputs: usize,
        inputs: usize,
        fill: impl Fn(&mut [F], Range<usize>, usize) + Sync,
    ) -> Self {
        let strip = F::dispatch(simd::current(), StripWidth);
        let count = outputs.div_ceil(PANEL) * PANEL / strip;
        let mut panels = Buffer::zeroed(count * strip * inputs);
        if inputs > 0 {
            let rows = RowsMut::new(&mut panels, count, strip * inputs);
            team::for_rows(rows, 1, |index, mut out| {
                let edge = |index: usize| outputs.min(index * strip);
                fill(out.row_mut(0), edge(index)..edge(index + 1), strip);
            });
        }
        Self {
            panels: Arc::new(panels),
            strip,
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
        size_of_val::<[F]>(&self.panels)
    }

    /// Outputs in a strip.
    pub(crate) fn strip_width(&self) -> usize {
        self.strip
    }

    /// Strip `index`, `[inputs][strip]`.
    pub(crate) fn strip(&self, index: usize) -> &[F] {
        &self.panels[index * self.strip * self.inputs..][..self.strip * self.inputs]
    }
}

/// The width of a level's tile, at least the 16 columns that every level may read.
struct StripWidth;

impl<F: Real> Kernel<F> for StripWidth {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd<F>>(self, _: S) -> usize {
        (S::LANES * S::TILE_VECTORS).max(16)
    }
}
