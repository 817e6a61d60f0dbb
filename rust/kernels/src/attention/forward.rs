//! The forward pass.

use std::ops::Range;

use super::{KvStore, Prefix, Spec};
use crate::{Real, Rows, RowsMut};

/// The part of a batch that belongs to one sequence.
pub struct Sequence<'a, F> {
    /// Its rows among the queries.
    pub rows: Range<usize>,
    /// Its keys and values, those of `rows` included.
    pub store: &'a KvStore<F>,
    /// The number of the first query: how many keys were there before this call.
    pub first: usize,
}

/// `out = softmax(scale·q·kᵀ + bias)·v`; `[T, heads·head_dim]`. A query that sees no key gives zeros.
///
/// `table` is `[buckets, heads]`. `lse`, if asked for, gets `log Σ exp(score)` as `[T, heads]`.
///
/// # Panics
/// If the shapes disagree.
pub fn forward<F: Real>(
    spec: &Spec,
    q: Rows<F>,
    sequences: &[Sequence<F>],
    table: Option<&[F]>,
    prefix: Option<Prefix<F>>,
    mut out: RowsMut<F>,
    mut lse: Option<&mut [F]>,
) {
    let (dim, ahead) = (spec.head_dim, prefix.map_or(0, |p| p.keys.rows()));
    assert_eq!((q.rows(), q.width()), (out.rows(), out.width()));
    assert_eq!(q.width(), spec.heads * dim);
    let mut scores = Vec::new();
    for sequence in sequences {
        for (i, row) in sequence.rows.clone().enumerate() {
            let query = sequence.first + i;
            let seen = spec.seen(query, sequence.store.len());
            for head in 0..spec.heads {
                let kv = spec.kv_head(head);
                let columns = kv * dim..(kv + 1) * dim;
                let x = &q.row(row)[head * dim..(head + 1) * dim];
                scores.clear();
                if let Some(prefix) = prefix {
                    let rows = 0..ahead;
                    scores.extend(
                        rows.map(|p| spec.score(dot(x, &prefix.keys.row(p)[columns.clone()])).0),
                    );
                }
                scores.extend(seen.clone().map(|key| {
                    let (score, _) = spec.score(dot(x, sequence.store.key(key, kv)));
                    score + spec.bias(table, head, query, key)
                }));
                let max = scores
                    .iter()
                    .fold(F::NEG_INFINITY, |m, &s| if s > m { s } else { m });
                let y = &mut out.row_mut(row)[head * dim..(head + 1) * dim];
                y.fill(F::ZERO);
                let mut total = F::ZERO;
                for (at, &score) in scores.iter().enumerate() {
                    let weight = (score - max).exp();
                    total += weight;
                    let value = match prefix {
                        Some(prefix) if at < ahead => &prefix.values.row(at)[columns.clone()],
                        _ => sequence.store.value(seen.start + at - ahead, kv),
                    };
                    y.iter_mut().zip(value).for_each(|(y, &v)| *y += weight * v);
                }
                if !scores.is_empty() {
                    let inverse = F::ONE / total;
                    y.iter_mut().for_each(|y| *y = *y * inverse);
                }
                if let Some(lse) = lse.as_deref_mut() {
                    lse[row * spec.heads + head] = max + total.ln();
                }
            }
        }
    }
}

pub(super) fn dot<F: Real>(x: &[F], y: &[F]) -> F {
    x.iter().zip(y).fold(F::ZERO, |sum, (&x, &y)| sum + x * y)
}
