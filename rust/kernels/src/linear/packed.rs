//! Weights packed for products.

use std::sync::Arc;

use crate::memory::Buffer;
use crate::{Real, Rows, RowsMut, team};

/// Outputs in a panel.
pub(crate) const PANEL: usize = 64;

/// A weight `[outputs, inputs]` packed into panels `[outputs/64][inputs][64]`, the last padded with zeros.
/// A clone shares them.
#[derive(Clone, Debug)]
pub struct Packed<F> {
    panels: Arc<Buffer<F>>,
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
        Self::fill(rows.len(), inputs, |panel, first, width| {
            let rows = &rows[first..first + width];
            // Sixteen inputs at a time: a cache line of each of the 64 rows, which together stay in the first cache.
            for (block, out) in panel.chunks_mut(16 * PANEL).enumerate() {
                for (n, row) in rows.iter().enumerate() {
                    for (k, &w) in row[block * 16..].iter().take(16).enumerate() {
                        out[k * PANEL + n] = w;
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
        Self::fill(outputs, rows.len(), |panel, first, width| {
            for (row, out) in rows.iter().zip(panel.chunks_exact_mut(PANEL)) {
                out[..width].copy_from_slice(&row[first..first + width]);
            }
        })
    }

    /// Fills each panel by `fill(panel, first output, outputs in it)`.
    fn fill(outputs: usize, inputs: usize, fill: impl Fn(&mut [F], usize, usize) + Sync) -> Self {
        let count = outputs.div_ceil(PANEL);
        let mut panels = Buffer::zeroed(count * PANEL * inputs);
        if inputs > 0 {
            team::for_rows(
                RowsMut::new(&mut panels, count, PANEL * inputs),
                1,
                |panel, mut out| {
                    let first = panel * PANEL;
                    fill(out.row_mut(0), first, PANEL.min(outputs - first));
                },
            );
        }
        Self {
            panels: Arc::new(panels),
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

    /// Panel `index`, `[inputs][64]`.
    pub(crate) fn panel(&self, index: usize) -> &[F] {
        &self.panels[index * PANEL * self.inputs..][..PANEL * self.inputs]
    }
}
