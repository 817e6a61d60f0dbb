//! Memory of values that nothing reads any more, for the values to come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lmrs_kernels::RowsMut;
use lmrs_tensor::{DType, Element, Keeper, Result, Tensor};

/// Elements that may lie idle beyond what was ever in use at once.
const SLACK: usize = 4 << 20;
/// A buffer of up to so many elements may hold a value of any size.
const SMALL: usize = 16 << 10;

/// Memory that values leave to those after them and a run to the next one: the system hands out a page cleared, which costs
/// more than most of what is written to it. A clone is the same memory.
#[derive(Clone, Debug, Default)]
pub struct Spares(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Whether buffers are handed out full of NaN.
    poisoned: bool,
}

#[derive(Debug, Default)]
struct State {
    /// The longest idle first.
    free: Vec<Vec<f32>>,
    made: usize,
    /// Elements of all buffers in use.
    used: usize,
    /// The most there were of them.
    most: usize,
}

impl State {
    /// The smallest buffer for `count` elements that is not far too large; of equals the last that came back, which the
    /// caches may still hold.
    fn take(&mut self, count: usize) -> Vec<f32> {
        let sizes = self.free.iter().map(Vec::capacity).enumerate();
        let fits = sizes.filter(|&(_, size)| size >= count && size <= SMALL.max(2 * count));
        let best = fits.min_by_key(|&(at, size)| (size, usize::MAX - at));
        let buffer = best.map(|(at, _)| self.free.remove(at));
        self.used += buffer.as_ref().map_or(count, Vec::capacity);
        self.most = self.most.max(self.used);
        buffer.unwrap_or_else(|| {
            self.made += 1;
            let mut idle: usize = self.free.iter().map(Vec::capacity).sum();
            while self.used + idle > self.most + SLACK && !self.free.is_empty() {
                idle -= self.free.remove(0).capacity();
            }
            Vec::new()
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of a state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Shared {
    fn keep(&self, values: Vec<f32>) {
        if values.capacity() > 0 {
            let mut state = self.state();
            state.used = state.used.saturating_sub(values.capacity());
            state.free.push(values);
        }
    }
}

impl Spares {
    /// Memory that is NaN throughout until it is written: an op that reads or leaves a part of its output as it found it
    /// shows. For tests.
    pub fn poisoned() -> Self {
        let (state, poisoned) = (Mutex::default(), true);
        Self(Arc::new(Shared { state, poisoned }))
    }

    /// How many buffers had to be made so far.
    pub fn made(&self) -> usize {
        self.0.state().made
    }

    /// How many buffers wait for a value.
    pub fn held(&self) -> usize {
        self.0.state().free.len()
    }

    /// Takes memory that was made elsewhere.
    pub fn keep(&self, values: Vec<f32>) {
        self.0.keep(values);
    }

    /// `count` elements, whatever they hold. They come back with the [`Self::tensor`] made of them.
    pub fn buffer<T: Element>(&self, count: usize) -> Vec<T> {
        let mut buffer = self.dirty(count);
        if self.0.poisoned {
            bytemuck::cast_slice_mut::<T, u8>(&mut buffer).fill(0xFF);
        }
        buffer
    }

    fn dirty<T: Element>(&self, count: usize) -> Vec<T> {
        if T::DTYPE != DType::F32 || count == 0 {
            return vec![T::zeroed(); count];
        }
        let mut buffer = self.0.state().take(count);
        if buffer.capacity() == 0 {
            // Pages are touched, and so cleared, by the threads that write them.
            buffer = vec![0.0; count];
        }
        buffer.resize(count, 0.0);
        bytemuck::cast_vec(buffer)
    }

    /// `count` elements, each 0.
    pub(crate) fn zeros<T: Element>(&self, count: usize) -> Vec<T> {
        let mut buffer = self.buffer(count);
        buffer.fill(T::zeroed());
        buffer
    }

    /// A tensor of `values`, whose memory comes back here when nobody holds it any more.
    pub fn tensor<T: Element>(
        &self,
        values: Vec<T>,
        shape: impl Into<Vec<usize>>,
    ) -> Result<Tensor> {
        let keeper: Weak<Shared> = Arc::downgrade(&self.0);
        Tensor::lent(values, shape, keeper)
    }

    /// A `[rows, width]` tensor that `fill` writes whole.
    pub(crate) fn matrix<T: Element>(
        &self,
        rows: usize,
        width: usize,
        fill: impl FnOnce(RowsMut<'_, T>),
    ) -> Result<Tensor> {
        let mut values = self.buffer(rows * width);
        fill(RowsMut::new(&mut values, rows, width));
        self.tensor(values, [rows, width])
    }

    /// An `[n]` tensor that `fill` writes whole.
    pub(crate) fn vector<T: Element>(
        &self,
        n: usize,
        fill: impl FnOnce(&mut [T]),
    ) -> Result<Tensor> {
        let mut values = self.buffer(n);
        fill(&mut values);
        self.tensor(values, [n])
    }
}
