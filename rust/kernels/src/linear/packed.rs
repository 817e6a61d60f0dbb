//! Weights packed for products.

use std::ops::Range;
use std::sync::Arc;

use super::PANEL;
use super::format::{self, Format};
use super::int4;
use super::source::Source;
use super::stored::Held;
use crate::memory::{Buffer, Plain, with_scratch};
use crate::simd::{self, Kernel, Level, Simd};
use crate::{Real, Rows, RowsMut, team};

/// How panels hold a weight, and with that how its products are computed. Sums are `f32` or exact at every choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Weights {
    /// As it is: `f32`, and `f64` in the reference.
    #[default]
    F32,
    /// bfloat16; the input is rounded to it too (nearest, ties to even), and products are summed in `f32`, in order, in
    /// chains of 512 inputs.
    /// Level `avx512-bf16` takes subnormal numbers as 0.
    Bf16,
    /// Eight bits with a scale of 16 bits for each 64 inputs of an output: `H·w = scale·q`, q within ±127, where H is an
    /// orthogonal matrix that spreads what is large in a row. Each row of the input is turned too and takes bytes of one scale;
    /// sums of a group are exact and added in `f32`, groups in order, and all levels give the same bits before the epilogue. A
    /// row that holds NaN or an infinity gives NaN.
    Int8,
    /// Four bits with a scale and a least value of 16 bits for each 32 inputs of an output: `w = scale·q + least`, q from 0 to
    /// 15, five bits a weight; a small squared error is searched for, and what lies on such a grid stays as it is. The input
    /// takes bytes, with a scale for each 32 of them; sums of a group are exact and added in `f32`, groups in order. A row that
    /// holds NaN or an infinity gives NaN, and so does a weight beyond [`Self::largest`].
    Int4,
}

impl Weights {
    /// The largest magnitude of a weight that it can hold.
    pub fn largest(self) -> f32 {
        match self {
            Self::F32 | Self::Bf16 | Self::Int8 => f32::MAX,
            Self::Int4 => int4::LARGEST,
        }
    }
}

/// A weight `[outputs, inputs]` packed into panels of 64 outputs, the last padded with zeros. A clone shares them.
///
/// A panel lies in strips as wide as the tile of the level it was packed at, `[64/strip][inputs][strip]`, so that the tile
/// walks memory in order. Higher levels walk strips of lower ones as those do, and no width changes a bit.
#[derive(Clone, Debug)]
pub struct Packed<F> {
    panels: Arc<Panels<F>>,
    level: Level,
    /// Outputs in a strip.
    strip: usize,
    outputs: usize,
    inputs: usize,
}

#[derive(Debug)]
pub(super) enum Panels<F> {
    Full(Held<F>),
    Narrow(Format, Held<u32>),
}

/// A strip of panels.
#[derive(Clone, Copy)]
pub(super) enum Strip<'a, F> {
    Full(&'a [F]),
    Narrow(Format, &'a [u32]),
}

impl<F: Real> Packed<F> {
    /// Packs a weight `[outputs, inputs]` as it is, for `x·Wᵀ`.
    pub fn new(weight: Rows<F>) -> Self {
        Self::pack(Weights::F32, &[&weight])
    }

    /// Packs several weights of the same number of inputs, one after another along the outputs (q, k and v in one product).
    ///
    /// # Panics
    /// If the inputs differ.
    pub fn pack(weights: Weights, sources: &[&dyn Source<F>]) -> Self {
        let inputs = sources.first().map_or(0, |source| source.inputs());
        assert!(
            sources.iter().all(|source| source.inputs() == inputs),
            "weights stacked along outputs have the same inputs"
        );
        let mut starts = vec![0];
        for source in sources {
            starts.push(starts[starts.len() - 1] + source.outputs());
        }
        Self::fill(weights, starts[sources.len()], inputs, |strip, outputs| {
            with_scratch(outputs.len() * inputs.max(1), |scratch| {
                let rows = outputs.zip(scratch.chunks_exact_mut(inputs.max(1)));
                let rows = rows.map(|(n, scratch)| {
                    let source = starts.partition_point(|&start| start <= n) - 1;
                    sources[source].row(n - starts[source], &mut scratch[..inputs])
                });
                strip.pack(&rows.collect::<Vec<_>>());
            });
        })
    }

    /// Packs the transpose of `weight` `[inputs, outputs]` as it is, for `x·W`: the gradient of the input of a linear layer.
    pub fn transposed(weight: Rows<F>) -> Self {
        let (outputs, inputs) = (weight.width(), weight.rows());
        Self::fill(Weights::F32, outputs, inputs, |strip, outputs| {
            if let Filling::Full(strip, width) = strip {
                for (k, out) in strip.chunks_exact_mut(width).enumerate() {
                    out[..outputs.len()].copy_from_slice(&weight.row(k)[outputs.clone()]);
                }
            }
        })
    }

    /// Fills each strip by `fill(strip, its outputs)`.
    fn fill(
        weights: Weights,
        outputs: usize,
        inputs: usize,
        fill: impl Fn(Filling<F>, Range<usize>) + Sync,
    ) -> Self {
        let (level, format) = (simd::current(), weights.format());
        let width = match format {
            None => F::dispatch(level, Width),
            Some(format) => format.strip_width::<F>(level),
        };
        let count = outputs.next_multiple_of(PANEL) / width;
        let of = |index: usize| outputs.min(index * width)..outputs.min((index + 1) * width);
        let panels = match format {
            None => Panels::Full(Held::Owned(strips(
                count,
                inputs * width,
                |index, strip| {
                    fill(Filling::Full(strip, width), of(index));
                },
            ))),
            Some(format) => {
                let words = format.strip_words(inputs, width);
                let strips = strips(count, words, |index, strip| {
                    fill(Filling::Narrow(format, strip, width), of(index));
                });
                Panels::Narrow(format, Held::Owned(strips))
            }
        };
        Self::of_panels(panels, level, width, [outputs, inputs])
    }

    /// Panels of strips as wide as `level` walks them, or a multiple.
    pub(super) fn of_panels(
        panels: Panels<F>,
        level: Level,
        strip: usize,
        [outputs, inputs]: [usize; 2],
    ) -> Self {
        Self {
            panels: Arc::new(panels),
            level,
            strip,
            outputs,
            inputs,
        }
    }

    pub(super) fn panels(&self) -> &Panels<F> {
        &self.panels
    }

    /// Width of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How it is held.
    pub fn weights(&self) -> Weights {
        match &*self.panels {
            Panels::Full(_) => Weights::F32,
            Panels::Narrow(Format::Bf16, _) => Weights::Bf16,
            Panels::Narrow(Format::Int8, _) => Weights::Int8,
            Panels::Narrow(Format::Int4, _) => Weights::Int4,
        }
    }

    /// The format of narrow weights.
    pub(super) fn format(&self) -> Option<Format> {
        self.weights().format()
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        match &*self.panels {
            Panels::Full(panels) => size_of_val::<[F]>(panels),
            Panels::Narrow(_, panels) => size_of_val::<[u32]>(panels),
        }
    }

    /// Reads the weights of `output` back, as the panels hold them: a row of an embedding table that is also the head.
    ///
    /// # Panics
    /// If there is no such output or `row` is not as long as the inputs.
    pub fn row(&self, output: usize, row: &mut [F]) {
        assert!(output < self.outputs, "output {output} of {}", self.outputs);
        assert_eq!(row.len(), self.inputs, "length of the row");
        let (width, column) = (self.strip, output % self.strip);
        match self.strip(output / self.strip) {
            Strip::Full(strip) => {
                for (w, column) in row.iter_mut().zip(strip.iter().skip(column).step_by(width)) {
                    *w = *column;
                }
            }
            Strip::Narrow(format, strip) => format.unpack(strip, width, column, row),
        }
    }

    /// The level it was packed at.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Outputs in a strip, as wide as the level it was packed at walks them.
    pub fn strip_width(&self) -> usize {
        self.strip
    }

    /// Strip `index`.
    pub(super) fn strip(&self, index: usize) -> Strip<'_, F> {
        match &*self.panels {
            Panels::Full(panels) => {
                let length = self.inputs * self.strip;
                Strip::Full(&panels[index * length..][..length])
            }
            Panels::Narrow(format, panels) => {
                let length = format.strip_words(self.inputs, self.strip);
                Strip::Narrow(*format, &panels[index * length..][..length])
            }
        }
    }
}

/// A strip to be filled, and its width.
enum Filling<'a, F> {
    Full(&'a mut [F], usize),
    Narrow(Format, &'a mut [u32], usize),
}

impl<F: Real> Filling<'_, F> {
    fn pack(self, rows: &[&[F]]) {
        match self {
            // Sixteen inputs at a time: a cache line of each of the rows, which together stay in the first cache.
            Self::Full(strip, width) => {
                for (block, out) in strip.chunks_mut(16 * width).enumerate() {
                    for (n, row) in rows.iter().enumerate() {
                        for (k, &w) in row[block * 16..].iter().take(16).enumerate() {
                            out[k * width + n] = w;
                        }
                    }
                }
            }
            Self::Narrow(format, strip, width) => {
                let inputs = rows.first().map_or(0, |row| row.len());
                format::with_room(inputs, |room| {
                    let pack = format::Pack {
                        format,
                        rows,
                        strip,
                        width,
                        room,
                    };
                    F::dispatch_dot(simd::current(), pack);
                });
            }
        }
    }
}

/// `count` strips of `length`, each filled by `fill(index, strip)`.
fn strips<E: Plain + Send>(
    count: usize,
    length: usize,
    fill: impl Fn(usize, &mut [E]) + Sync,
) -> Buffer<E> {
    let mut panels = Buffer::zeroed(count * length);
    if length > 0 {
        let strips = RowsMut::new(&mut panels, count, length).share();
        // SAFETY: one strip a chunk.
        team::parallel(count, |index| fill(index, unsafe { strips.row(index) }));
    }
    panels
}

/// The width of a level's tile, at least the 16 columns that every level may read.
struct Width;

impl<F: Real> Kernel<F> for Width {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd<F>>(self, _: S) -> usize {
        (S::LANES * S::TILE_VECTORS).max(16)
    }
}
