//! The keys and values of one sequence.

use std::ops::Range;

use crate::{Real, Rows};

/// Keys and values of one sequence, appended to as it grows.
#[derive(Clone, Debug)]
pub struct KvStore<F> {
    kv_heads: usize,
    head_dim: usize,
    keys: Vec<F>,
    values: Vec<F>,
}

impl<F: Real> KvStore<F> {
    /// An empty store for keys of `kv_heads` heads, each `head_dim` wide.
    pub fn new(kv_heads: usize, head_dim: usize) -> Self {
        Self {
            kv_heads,
            head_dim,
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Appends rows of keys and values `[n, kv_heads·head_dim]`.
    ///
    /// # Panics
    /// If the shapes disagree with each other or with the store.
    pub fn append(&mut self, keys: Rows<F>, values: Rows<F>) {
        let width = self.kv_heads * self.head_dim;
        assert_eq!(
            (keys.rows(), keys.width(), values.width()),
            (values.rows(), width, width)
        );
        for row in 0..keys.rows() {
            self.keys.extend_from_slice(keys.row(row));
            self.values.extend_from_slice(values.row(row));
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len() / (self.kv_heads * self.head_dim).max(1)
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The heads and the width of each.
    pub fn shape(&self) -> (usize, usize) {
        (self.kv_heads, self.head_dim)
    }

    /// Forgets all keys from the `len`-th on.
    pub fn truncate(&mut self, len: usize) {
        self.keys.truncate(len * self.kv_heads * self.head_dim);
        self.values.truncate(len * self.kv_heads * self.head_dim);
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        (self.keys.capacity() + self.values.capacity()) * size_of::<F>()
    }

    pub(super) fn key(&self, index: usize, head: usize) -> &[F] {
        &self.keys[self.place(index, head)]
    }

    pub(super) fn value(&self, index: usize, head: usize) -> &[F] {
        &self.values[self.place(index, head)]
    }

    fn place(&self, index: usize, head: usize) -> Range<usize> {
        let start = (index * self.kv_heads + head) * self.head_dim;
        start..start + self.head_dim
    }
}
