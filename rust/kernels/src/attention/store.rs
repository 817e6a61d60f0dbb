//! The keys and values of one sequence.

use crate::memory::Buffer;
use crate::{Real, Rows};

/// Tokens in a block.
pub(super) const BLOCK: usize = 64;

/// Keys and values of one sequence, appended to as it grows.
///
/// They lie in blocks of 64 tokens; in a block each head has its keys transposed, `[head_dim][64]`, so that scores
/// vectorise over tokens, then its values, `[64][head_dim]` with rows padded to 16 elements.
#[derive(Debug)]
pub struct KvStore<F> {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    blocks: Vec<Buffer<F>>,
}

/// The width of a row of values.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

impl<F: Real> KvStore<F> {
    /// An empty store for keys of `kv_heads` heads, each `head_dim` wide.
    pub fn new(kv_heads: usize, head_dim: usize) -> Self {
        Self {
            kv_heads,
            head_dim,
            len: 0,
            blocks: Vec::new(),
        }
    }

    /// Appends rows of keys and values `[n, kv_heads·head_dim]`.
    ///
    /// # Panics
    /// If the shapes disagree with each other or with the store.
    pub fn append(&mut self, keys: Rows<F>, values: Rows<F>) {
        let (dim, width) = (self.head_dim, self.kv_heads * self.head_dim);
        assert_eq!((keys.rows(), keys.width()), (values.rows(), values.width()));
        assert_eq!(keys.width(), width);
        for row in 0..keys.rows() {
            let at = self.len % BLOCK;
            if at == 0 {
                self.blocks
                    .push(Buffer::zeroed(self.kv_heads * self.head_size()));
            }
            for head in 0..self.kv_heads {
                let start = head * self.head_size();
                let block = &mut self.blocks[self.len / BLOCK]
                    [start..start + dim * BLOCK + BLOCK * padded(dim)];
                let (k, v) = block.split_at_mut(dim * BLOCK);
                for (d, &key) in keys.row(row)[head * dim..][..dim].iter().enumerate() {
                    k[d * BLOCK + at] = key;
                }
                v[at * padded(dim)..][..dim].copy_from_slice(&values.row(row)[head * dim..][..dim]);
            }
            self.len += 1;
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The heads and the width of each.
    pub fn shape(&self) -> (usize, usize) {
        (self.kv_heads, self.head_dim)
    }

    /// Forgets all keys from the `len`-th on.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.blocks.truncate(len.div_ceil(BLOCK));
        let (dim, size) = (self.head_dim, self.head_size());
        if let (Some(last), used @ 1..) = (self.blocks.last_mut(), len % BLOCK) {
            // Values beyond the end are multiplied by 0, so they must be finite.
            for head in last.chunks_exact_mut(size.max(1)) {
                head[dim * BLOCK + used * padded(dim)..].fill(F::ZERO);
            }
        }
        self.len = len;
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        self.blocks.len() * self.kv_heads * self.head_size() * size_of::<F>()
    }

    fn head_size(&self) -> usize {
        BLOCK * (self.head_dim + padded(self.head_dim))
    }

    /// Keys `[head_dim][64]` and values `[64][padded]` of one head in one block.
    pub(super) fn head(&self, block: usize, head: usize) -> (&[F], &[F]) {
        self.blocks[block][head * self.head_size()..][..self.head_size()]
            .split_at(self.head_dim * BLOCK)
    }
}
