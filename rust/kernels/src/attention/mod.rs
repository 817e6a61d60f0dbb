//! Attention over ragged packed batches, with the keys and values of each sequence in a [`KvStore`].
//!
//! A query row's result depends on that row and on the keys it sees, in their order, and on nothing else: not on the rows
//! it travels with, nor on how the sequence was cut into calls. Prefill plus decode is the full forward, bit for bit. What a
//! query does not see cannot reach it, infinite or NaN though it be.

mod backward;
mod bias;
mod block;
mod dropped;
mod forward;
mod partial;
mod pool;
mod score;
mod span;
mod store;
mod tile;

pub use backward::{Gradients, Saved, backward};
pub use block::KvType;
pub use dropped::Dropout;
pub use forward::{Sequence, forward};
pub use store::KvStore;

use crate::Rows;

/// What attention computes: `softmax(scale·q·kᵀ + bias)·v` for each head.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Query heads.
    pub heads: usize,
    /// Key heads; query head `h` reads key head `h·kv_heads / heads`.
    pub kv_heads: usize,
    /// The width of a head, in queries, keys and values.
    pub head_dim: usize,
    /// Multiplies the scores.
    pub scale: f64,
    /// Whether query number `n` sees only keys `0..=n`.
    pub causal: bool,
    /// Only keys less than so far from the query's own number are seen, on either side if not causal.
    pub window: Option<usize>,
    /// A score `s` becomes `softcap·tanh(s / softcap)`.
    pub softcap: Option<f64>,
    /// How the bias table is indexed.
    pub relative: Option<Relative>,
    /// The slope of each head: `slope·|key − query|` is taken from a score (`ALiBi`, Press et al. 2022, for keys on either side).
    pub alibi: Option<Vec<f64>>,
    /// Which weights are left out, in training.
    pub dropout: Option<Dropout>,
}

/// T5's buckets of relative positions (Raffel et al. 2020, §2.1; `modeling_t5.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relative {
    /// Rows of the bias table.
    pub buckets: usize,
    /// Distances from here on share the last bucket.
    pub max_distance: usize,
    /// Whether keys after the query have buckets of their own.
    pub bidirectional: bool,
}

impl Relative {
    /// The bucket of a key `distance` places after the query (negative: before it).
    ///
    /// Half of the buckets are exact distances; the others grow logarithmically up to `max_distance`.
    pub fn bucket(&self, distance: i64) -> usize {
        let (buckets, first, far) = if self.bidirectional {
            let half = self.buckets / 2;
            (
                half,
                if distance > 0 { half } else { 0 },
                distance.unsigned_abs() as usize,
            )
        } else {
            (self.buckets, 0, (-distance).max(0) as usize)
        };
        let exact = buckets / 2;
        if far < exact {
            return first + far;
        }
        // In f32, as the reference computes it: the borders between buckets depend on it.
        let ratio =
            (far as f32 / exact as f32).ln() / (self.max_distance as f32 / exact as f32).ln();
        let grown = exact + (ratio * (buckets - exact) as f32) as usize;
        first + grown.min(buckets - 1)
    }
}

/// Learned keys and values `[p, kv_heads·head_dim]` that every query sees before its own, without bias.
#[derive(Clone, Copy)]
pub struct Prefix<'a, F> {
    /// The keys.
    pub keys: Rows<'a, F>,
    /// The values.
    pub values: Rows<'a, F>,
}

impl Spec {
    /// The keys that query number `query` sees, of `keys` there are.
    fn seen(&self, query: usize, keys: usize) -> std::ops::Range<usize> {
        let ahead = if self.causal { Some(1) } else { self.window };
        let end = ahead.map_or(keys, |ahead| keys.min(query.saturating_add(ahead)));
        let start = self
            .window
            .map_or(0, |window| (query + 1).saturating_sub(window));
        start.min(end)..end
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn check(&self) {
        let whole = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        assert!(
            whole && self.head_dim > 0,
            "{} heads of {} over {}",
            self.heads,
            self.head_dim,
            self.kv_heads
        );
        if let Some(slopes) = &self.alibi {
            assert_eq!(slopes.len(), self.heads, "a slope for each head");
        }
    }
}
