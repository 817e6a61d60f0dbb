//! The relative bias of every distance that occurs, laid out so that the keys of a query are consecutive.

use super::Spec;
use super::store::BLOCK;
use crate::Real;

/// `[heads][distances]` with `distance = key − query` from `−farthest query` up.
pub(super) struct Biases<F> {
    values: Vec<F>,
    /// Bucket of each distance.
    buckets: Vec<usize>,
    /// Where distance 0 is.
    zero: usize,
}

impl<F: Real> Biases<F> {
    /// `None` without a table or without `relative`. `queries` and `keys` bound the numbers of both.
    pub(super) fn new(
        spec: &Spec,
        table: Option<&[F]>,
        queries: usize,
        keys: usize,
    ) -> Option<Self> {
        let (table, relative) = (table?, spec.relative?);
        assert_eq!(
            table.len(),
            relative.buckets * spec.heads,
            "shape of the bias table"
        );
        // A block of keys may reach past the last one.
        let distances = -(queries as i64)..(keys.next_multiple_of(BLOCK) as i64);
        // Beyond the largest distance with a bucket of its own all are equal: no logarithm for each.
        let far = relative.max_distance as i64 + 1;
        let near: Vec<usize> = (-far..=far).map(|d| relative.bucket(d)).collect();
        let buckets: Vec<usize> = distances
            .map(|distance| near[(distance.clamp(-far, far) + far) as usize])
            .collect();
        let head = |head: usize| {
            buckets
                .iter()
                .map(move |bucket| table[bucket * spec.heads + head])
        };
        Some(Self {
            values: (0..spec.heads).flat_map(head).collect(),
            zero: queries,
            buckets,
        })
    }

    /// The biases of the keys from `first_key` to the end of the last block, seen by `query`.
    pub(super) fn of(&self, head: usize, query: usize, first_key: usize) -> &[F] {
        let distances = self.distances();
        &self.values[head * distances..][..distances][self.at(query, first_key)..]
    }

    /// Where the distance of `key` from `query` is in a row of [`Self::distances`].
    pub(super) fn at(&self, query: usize, key: usize) -> usize {
        self.zero + key - query
    }

    /// How many distances there are.
    pub(super) fn distances(&self) -> usize {
        self.buckets.len()
    }

    /// Adds gradients by distance to gradients by bucket.
    pub(super) fn reduce(&self, by_distance: &[F], by_bucket: &mut [F]) {
        for (&bucket, &gradient) in self.buckets.iter().zip(by_distance) {
            by_bucket[bucket] += gradient;
        }
    }
}
