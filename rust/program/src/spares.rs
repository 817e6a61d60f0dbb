//! Buffers of values that nothing reads any more, for the values to come.

use lmrs_kernels::RowsMut;
use lmrs_tensor::{DType, Element, Result, Tensor};

/// Memory that a run leaves to the next one: with the same rows in both, the next makes no buffer of its own.
#[derive(Default)]
pub struct Spares {
    free: Vec<Vec<f32>>,
    made: usize,
}

impl Spares {
    /// How many buffers had to be made so far.
    pub fn made(&self) -> usize {
        self.made
    }

    /// How many buffers wait for a value.
    pub fn held(&self) -> usize {
        self.free.len()
    }

    /// Takes back the buffer of `tensor`, if it is float32 and nobody else holds it.
    pub fn give(&mut self, tensor: Tensor) {
        self.free.extend(tensor.into_values());
    }

    /// `count` elements, whatever they hold.
    pub(crate) fn buffer<T: Element>(&mut self, count: usize) -> Vec<T> {
        if T::DTYPE != DType::F32 {
            self.made += 1;
            return vec![T::zeroed(); count];
        }
        // The smallest that is large enough; of equals the last given, which the caches may still hold. Else the
        // largest makes room for a larger one, so that there are never more than were in use at once.
        let sizes = self.free.iter().map(Vec::capacity).enumerate();
        let best = sizes.min_by_key(|&(at, size)| {
            if size >= count {
                (0, size, usize::MAX - at)
            } else {
                (1, usize::MAX - size, 0)
            }
        });
        let mut buffer = best.map_or_else(Vec::new, |(at, _)| self.free.remove(at));
        if buffer.capacity() < count {
            self.made += 1;
            buffer = Vec::with_capacity(count);
        }
        buffer.resize(count, 0.0);
        bytemuck::cast_vec(buffer)
    }

    /// A `[rows, width]` tensor that `fill` writes whole.
    pub(crate) fn matrix<T: Element>(
        &mut self,
        rows: usize,
        width: usize,
        fill: impl FnOnce(RowsMut<'_, T>),
    ) -> Result<Tensor> {
        let mut values = self.buffer(rows * width);
        fill(RowsMut::new(&mut values, rows, width));
        Tensor::new(values, [rows, width])
    }
}
