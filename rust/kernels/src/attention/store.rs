//! The keys and values of one sequence.

use std::sync::Arc;

use super::pool::Lent;
use crate::{Real, Rows};

/// Keys in a block. Blocks begin at fixed key numbers, however the keys were appended.
pub(super) const BLOCK: usize = 64;
/// What vectors may read past the end of a row of values.
const MARGIN: usize = 16;
/// Keys transposed together.
const SIDE: usize = 16;

/// Keys and values of one sequence, appended to as it grows.
///
/// They lie in blocks of 64. In a block each head has its keys transposed, `[head_dim][64]`, so that scores of neighbouring keys
/// are neighbouring lanes, then its values, `[64][head_dim]`: a decoding step reads a block from end to end. A clone shares the
/// blocks, and copies one only to append to it.
#[derive(Clone, Debug)]
pub struct KvStore<F> {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    blocks: Vec<Arc<Block<F>>>,
}

/// A block with room for 16, 32, 48 or 64 keys: a short sequence should not pay for 64.
#[derive(Debug)]
struct Block<F> {
    room: usize,
    /// What was never written is never used, whatever it is.
    data: Lent<F>,
}

/// A block as one head sees it.
#[derive(Clone, Copy)]
pub(super) struct HeadBlock<F> {
    /// `[head_dim][room]`, readable as far as the room.
    pub keys: *const F,
    /// Elements between rows of `keys`; a multiple of 16.
    pub room: usize,
    /// `[keys][head_dim]`, readable 16 elements further.
    pub values: *const F,
}

impl<F: Real> Clone for Block<F> {
    fn clone(&self) -> Self {
        Self {
            room: self.room,
            data: self.data.clone(),
        }
    }
}

impl<F: Real> Block<F> {
    fn new(room: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self {
            room,
            data: Lent::new(2 * kv_heads * head_dim * room + MARGIN),
        }
    }

    /// Writes rows of keys and values of one head at `at`.
    fn write(&mut self, head: usize, at: usize, keys: Rows<F>, values: Rows<F>) {
        let (room, dim) = (self.room, keys.width());
        let data = &mut self.data[2 * head * dim * room..];
        let (to_keys, to_values) = data.split_at_mut(dim * room);
        for row in 0..values.rows() {
            to_values[(at + row) * dim..][..dim].copy_from_slice(values.row(row));
        }
        // Squares small enough for the first cache, whichever way they are read.
        let mut square = [[F::ZERO; SIDE]; SIDE];
        for first in (0..keys.rows()).step_by(SIDE) {
            let count = SIDE.min(keys.rows() - first);
            for from in (0..dim).step_by(SIDE) {
                let width = SIDE.min(dim - from);
                for (i, side) in square[..count].iter_mut().enumerate() {
                    side[..width].copy_from_slice(&keys.row(first + i)[from..from + width]);
                }
                let columns = to_keys.chunks_exact_mut(room).skip(from).take(width);
                for (d, column) in columns.enumerate() {
                    let column = column[at + first..].iter_mut();
                    column
                        .zip(&square[..count])
                        .for_each(|(to, side)| *to = side[d]);
                }
            }
        }
    }

    /// The same keys and values with room for more.
    fn grown(&self, room: usize, kv_heads: usize, head_dim: usize) -> Self {
        let mut block = Self::new(room, kv_heads, head_dim);
        let heads = block.data.chunks_exact_mut(2 * head_dim * room);
        let old = self.data.chunks_exact(2 * head_dim * self.room);
        for (to, from) in heads.zip(old).take(kv_heads) {
            let (to_keys, to_values) = to.split_at_mut(head_dim * room);
            let (keys, values) = from.split_at(head_dim * self.room);
            let rows = to_keys.chunks_exact_mut(room);
            for (to, from) in rows.zip(keys.chunks_exact(self.room)) {
                to[..self.room].copy_from_slice(from);
            }
            to_values[..values.len()].copy_from_slice(values);
        }
        block
    }
}

impl<F: Real> KvStore<F> {
    /// An empty store for keys of `kv_heads` heads, each `head_dim` wide.
    ///
    /// # Panics
    /// If either is 0.
    pub fn new(kv_heads: usize, head_dim: usize) -> Self {
        assert!(kv_heads > 0 && head_dim > 0, "heads of some width");
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
        let (width, dim) = (self.kv_heads * self.head_dim, self.head_dim);
        assert_eq!(
            (keys.rows(), keys.width(), values.width()),
            (values.rows(), width, width)
        );
        let mut done = 0;
        while done < keys.rows() {
            let (index, at) = (self.len / BLOCK, self.len % BLOCK);
            let take = (BLOCK - at).min(keys.rows() - done);
            let block = self.block_for(index, at + take);
            let rows = done..done + take;
            let (keys, values) = (keys.slice(rows.clone()), values.slice(rows));
            for head in 0..width / dim {
                let columns = head * dim..(head + 1) * dim;
                let (keys, values) = (keys.columns(columns.clone()), values.columns(columns));
                block.write(head, at, keys, values);
            }
            self.len += take;
            done += take;
        }
    }

    /// Block `index` with room for `keys`, owned by this store alone.
    fn block_for(&mut self, index: usize, keys: usize) -> &mut Block<F> {
        let (heads, dim, room) = (self.kv_heads, self.head_dim, keys.next_multiple_of(MARGIN));
        if index == self.blocks.len() {
            self.blocks.push(Arc::new(Block::new(room, heads, dim)));
        }
        let block = &mut self.blocks[index];
        if block.room < room {
            // A sequence that grows key by key is moved once, not three times.
            let room = if keys > MARGIN { BLOCK } else { room };
            *block = Arc::new(block.grown(room, heads, dim));
        }
        Arc::make_mut(block)
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
        self.len = self.len.min(len);
        self.blocks.truncate(self.len.div_ceil(BLOCK));
    }

    /// Memory held; blocks shared with a clone count for both.
    pub fn bytes(&self) -> usize {
        let bytes = |block: &Arc<Block<F>>| size_of_val::<[F]>(&block.data);
        self.blocks.iter().map(bytes).sum()
    }

    /// Block `index` as head `head` sees it.
    pub(super) fn block(&self, index: usize, head: usize) -> HeadBlock<F> {
        let block = &self.blocks[index];
        let size = self.head_dim * block.room;
        let (keys, values) = block.data[2 * head * size..].split_at(size);
        HeadBlock {
            keys: keys.as_ptr(),
            room: block.room,
            values: values.as_ptr(),
        }
    }
}
