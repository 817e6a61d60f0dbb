//! Some queries of one key head against a span of keys.
//!
//! A span is 256 keys, beginning at a multiple of 256. Each is worked on from nothing — its own maximum, sum and weighted
//! values — and the spans of a row are merged in order. So a row's arithmetic depends neither on the rows beside it nor on
//! who computes which span. What the rows of a tile do not all see gets weights of exactly 0 where it is not seen.

use std::ops::Range;

use super::bias::Biases;
use super::store::BLOCK;
use super::{KvStore, Spec};
use crate::linear::tile::{From, Operands, product};
use crate::simd::{Kernel, Simd};
use crate::view::Shared;
use crate::{Real, Rows};

/// Keys in a span.
pub(super) const SPAN: usize = 256;
/// Rows (queries times heads of a group) in a tile, if a group is not larger: four strips of the matrix tile.
pub(super) const ROWS: usize = 24;

/// The queries of a tile and what they attend to.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a, F> {
    pub spec: &'a Spec,
    pub q: Rows<'a, F>,
    /// First of the tile's rows in `q`.
    pub row: usize,
    /// How many of them.
    pub tokens: usize,
    /// The number of the first.
    pub first: usize,
    /// The key head.
    pub kv: usize,
    /// The learned keys and values before the sequence's own.
    pub prefix: Option<&'a KvStore<F>>,
    pub store: &'a KvStore<F>,
    pub bias: Option<&'a Biases<F>>,
}

/// Sums over some keys for each row of a tile: weights relative to the maximum, their sum, and the weighted values.
#[derive(Clone, Copy)]
pub(super) struct Partial<F> {
    /// `[rows][head_dim]`.
    values: *mut F,
    /// `[rows]`.
    max: *mut F,
    /// `[rows]`; 0 if the row sees none of the keys.
    sum: *mut F,
}

// SAFETY: a partial is memory that one job writes and, after all jobs, one thread reads.
unsafe impl<F: Send> Send for Partial<F> {}
// SAFETY: as above.
unsafe impl<F: Send> Sync for Partial<F> {}

impl<F: Real> Partial<F> {
    /// Elements of a partial.
    pub fn size(rows: usize, head_dim: usize) -> usize {
        rows * (head_dim + 2)
    }

    /// Makes it the sums over no keys.
    pub fn clear(self, rows: usize, head_dim: usize) {
        // SAFETY: it was taken with this size.
        unsafe {
            fill(self.values, 0..rows * head_dim, F::ZERO);
            fill(self.max, 0..rows, F::NEG_INFINITY);
            fill(self.sum, 0..rows, F::ZERO);
        }
    }

    /// Takes a partial from the start of `memory`.
    pub fn take(memory: &mut [F], rows: usize, head_dim: usize) -> (Self, &mut [F]) {
        let (mine, rest) = memory.split_at_mut(Self::size(rows, head_dim));
        let (values, ends) = mine.split_at_mut(rows * head_dim);
        let (max, sum) = ends.split_at_mut(rows);
        let partial = Self {
            values: values.as_mut_ptr(),
            max: max.as_mut_ptr(),
            sum: sum.as_mut_ptr(),
        };
        (partial, rest)
    }
}

/// A span of the prefix or of the sequence's own keys.
#[derive(Clone, Copy)]
struct Span<'a, F> {
    keys: &'a KvStore<F>,
    own: bool,
    /// The number of its first key.
    base: usize,
}

impl<'a, F: Real> Tile<'a, F> {
    /// Rows of the tile: query after query, the heads of the group side by side.
    pub fn rows(&self) -> usize {
        self.tokens * self.spec.group()
    }

    fn prefix_spans(&self) -> usize {
        self.prefix.map_or(0, |prefix| prefix.len().div_ceil(SPAN))
    }

    /// The spans that some row sees, the prefix's first.
    pub fn spans(&self) -> Range<usize> {
        let ahead = self.prefix_spans();
        let own = self.union(self.tokens);
        if ahead > 0 {
            return 0..ahead + own.end.div_ceil(SPAN);
        }
        own.start / SPAN..own.end.div_ceil(SPAN)
    }

    /// The keys that one of the first `tokens` queries sees: from the first's first to the last's last.
    fn union(&self, tokens: usize) -> Range<usize> {
        let first = self.spec.seen(self.first, self.store.len());
        let last = self.spec.seen(self.first + tokens - 1, self.store.len());
        first.start..last.end.max(first.start)
    }

    fn span(&self, index: usize) -> Span<'a, F> {
        let ahead = self.prefix_spans();
        match self.prefix {
            Some(prefix) if index < ahead => Span {
                keys: prefix,
                own: false,
                base: index * SPAN,
            },
            _ => Span {
                keys: self.store,
                own: true,
                base: (index - ahead) * SPAN,
            },
        }
    }

    /// The keys of a span, counted from its base, that query `token` sees.
    fn seen(&self, span: Span<F>, token: usize) -> Range<usize> {
        let keys = if span.own {
            self.spec.seen(self.first + token, span.keys.len())
        } else {
            0..span.keys.len()
        };
        let start = keys.start.max(span.base).min(span.base + SPAN);
        let end = keys.end.min(span.base + SPAN).max(start);
        start - span.base..end - span.base
    }

    /// Elements of [`Part::q`] and [`Part::scores`] together.
    pub fn scratch(&self) -> usize {
        self.rows() * (self.spec.head_dim + SPAN)
    }

    /// Prepares both in `scratch`.
    pub fn prepare<'s>(&self, scratch: &'s mut [F]) -> (&'s [F], &'s mut [F]) {
        let (q, scores) = scratch.split_at_mut(self.rows() * self.spec.head_dim);
        self.gather(q);
        (q, scores)
    }

    /// Copies the queries, scaled, to `to` `[rows][head_dim]`.
    fn gather(&self, to: &mut [F]) {
        let (dim, group) = (self.spec.head_dim, self.spec.group());
        let (columns, scale) = (
            self.kv * group * dim..(self.kv + 1) * group * dim,
            F::of(self.spec.scale),
        );
        for (token, to) in to.chunks_exact_mut(group * dim).enumerate() {
            let from = &self.q.row(self.row + token)[columns.clone()];
            to.iter_mut().zip(from).for_each(|(to, &q)| *to = q * scale);
        }
    }
}

/// Where a tile's result goes.
#[derive(Clone, Copy)]
pub(super) struct Target<'a, F> {
    pub out: Shared<'a, F>,
    /// `[T, heads]`.
    pub lse: Option<Shared<'a, F>>,
}

/// Scores, weights and weighted values of one span.
pub(super) struct Part<'a, F> {
    pub tile: Tile<'a, F>,
    pub span: usize,
    /// The gathered queries.
    pub q: &'a [F],
    /// `[rows][256]`.
    pub scores: &'a mut [F],
    pub to: Partial<F>,
}

impl<F: Real> Kernel<F> for Part<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            tile,
            span,
            q,
            scores,
            to,
        } = self;
        let (rows, dim, group) = (tile.rows(), tile.spec.head_dim, tile.spec.group());
        let span = tile.span(span);
        let used = tile.seen(span, 0).start..tile.seen(span, tile.tokens - 1).end;
        if used.is_empty() {
            to.clear(rows, dim);
            return;
        }
        let scores = scores.as_mut_ptr();
        let blocks = || {
            (used.start / BLOCK..used.end.div_ceil(BLOCK)).map(|block| {
                let keys = (block * BLOCK).max(used.start)..((block + 1) * BLOCK).min(used.end);
                (
                    span.keys.block(span.base / BLOCK + block, tile.kv),
                    block * BLOCK,
                    keys,
                )
            })
        };
        for (block, base, keys) in blocks() {
            let start = keys.start / 16 * 16;
            let o = Operands {
                a: q.as_ptr(),
                a_row: dim,
                a_step: 1,
                b: block.keys.wrapping_add(start - base),
                b_step: block.room,
                c: scores.wrapping_add(start),
                c_row: SPAN,
            };
            // SAFETY: the block has room for the keys up to the next multiple of 16, and so has a row of scores.
            unsafe { product(s, rows, keys.end - start, dim, o, From::Zero) };
        }
        let softcap = tile.spec.softcap.map(F::of);
        for token in 0..tile.tokens {
            let seen = tile.seen(span, token);
            for member in 0..group {
                let row = token * group + member;
                let head = tile.kv * group + member;
                let bias = tile.bias.filter(|_| span.own);
                let bias = bias.map(|b| b.of(head, tile.first + token, span.base).as_ptr());
                // SAFETY: the row of scores is this row's, the bias covers the keys to the end of their block.
                unsafe {
                    let row_scores = scores.add(row * SPAN);
                    let (max, sum) = weigh(s, softcap, row_scores, bias, &used, &seen);
                    *to.max.add(row) = max;
                    *to.sum.add(row) = sum;
                }
            }
        }
        for (at, (block, base, keys)) in blocks().enumerate() {
            let o = Operands {
                a: scores.wrapping_add(keys.start).cast_const(),
                a_row: SPAN,
                a_step: 1,
                b: block.values.wrapping_add((keys.start - base) * dim),
                b_step: dim,
                c: to.values,
                c_row: dim,
            };
            let from = if at == 0 { From::Zero } else { From::Output };
            // SAFETY: the block holds the values of the keys, readable 16 elements further; the partial has the rows.
            unsafe { product(s, rows, dim, keys.len(), o, from) };
        }
    }
}

/// Turns the scores of a row into weights: `exp(score − max)` where seen and 0 elsewhere in `used`. Returns max and sum.
///
/// Lane `i` of the span is in the same place of the same vector whatever is seen of it, so the sum does not depend on that.
///
/// # Safety
/// `scores` is a row of a span; `bias` can be read as far as it is seen, in whole vectors.
#[inline(always)]
unsafe fn weigh<F: Real, S: Simd<F>>(
    s: S,
    softcap: Option<F>,
    scores: *mut F,
    bias: Option<*const F>,
    used: &Range<usize>,
    seen: &Range<usize>,
) -> (F, F) {
    let lanes = S::LANES;
    // SAFETY: 256 is a multiple of the lanes, so all that is touched lies in the row.
    unsafe {
        if seen.is_empty() {
            fill(scores, used.clone(), F::ZERO);
            return (F::NEG_INFINITY, F::ZERO);
        }
        let (start, end) = (seen.start / lanes * lanes, seen.end.next_multiple_of(lanes));
        let raw = softcap.is_none() && bias.is_none();
        let mut largest = s.splat(F::NEG_INFINITY);
        for at in (start..end).step_by(lanes) {
            let mut score = s.load(scores.add(at));
            if !(raw && seen.start <= at && at + lanes <= seen.end) {
                score = cap(s, score, softcap);
                if let Some(bias) = bias {
                    score = s.add(score, s.load(bias.add(at)));
                }
                score = mask(s, score, at, seen);
                s.store(scores.add(at), score);
            }
            largest = s.max(score, largest);
        }
        let max = s.largest(largest);
        let (shift, mut sum) = (s.splat(max), s.splat(F::ZERO));
        for at in (start..end).step_by(lanes) {
            let weight = s.exp(s.sub(s.load(scores.add(at)), shift));
            s.store(scores.add(at), weight);
            sum = s.add(sum, weight);
        }
        fill(scores, used.start.min(start)..start, F::ZERO);
        fill(scores, end..used.end.max(end), F::ZERO);
        (max, s.sum(sum))
    }
}

/// `softcap·tanh(v / softcap)`.
#[inline(always)]
pub(super) fn cap<F: Real, S: Simd<F>>(s: S, v: S::V, softcap: Option<F>) -> S::V {
    let Some(cap) = softcap else { return v };
    s.mul(s.splat(cap), s.tanh(s.mul(v, s.splat(F::ONE / cap))))
}

/// −∞ in the lanes, the first of which is key `at`, that are not seen.
#[inline(always)]
pub(super) fn mask<F: Real, S: Simd<F>>(s: S, v: S::V, at: usize, seen: &Range<usize>) -> S::V {
    if seen.start <= at && at + S::LANES <= seen.end {
        return v;
    }
    let never = s.splat(F::NEG_INFINITY);
    let bound = |key: usize| s.splat(F::of(key as f64 - at as f64));
    // SAFETY: there are at least as many numbers as lanes.
    let number = unsafe { s.load(F::NUMBERS.as_ptr()) };
    let v = s.select_less(number, bound(seen.end), v, never);
    s.select_less(number, bound(seen.start), never, v)
}

/// # Safety
/// The elements can be written.
#[inline(always)]
unsafe fn fill<F: Real>(row: *mut F, range: Range<usize>, value: F) {
    for at in range {
        // SAFETY: the caller's promise.
        unsafe { *row.add(at) = value };
    }
}

/// `total += part`, both brought to the larger maximum. Where one of them has seen no key, its values are not looked at.
pub(super) struct Merge<F> {
    pub total: Partial<F>,
    pub part: Partial<F>,
    pub rows: usize,
    pub dim: usize,
}

impl<F: Real> Kernel<F> for Merge<F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            total,
            part,
            rows,
            dim,
        } = self;
        for row in 0..rows {
            // SAFETY: both partials have this size, and nobody else has the first.
            unsafe {
                let (sum, max) = (total.sum.add(row), total.max.add(row));
                let (part_sum, part_max) = (*part.sum.add(row), *part.max.add(row));
                if part_sum == F::ZERO {
                    continue;
                }
                let (first, both) = (
                    *sum == F::ZERO,
                    if part_max > *max { part_max } else { *max },
                );
                let old = s.exp(s.splat(*max - both));
                let new = s.exp(s.splat(part_max - both));
                *max = both;
                let joined = s.fma(s.splat(*sum), old, s.mul(s.splat(part_sum), new));
                s.store_part(sum, joined, 1);
                let (to, from) = (total.values.add(row * dim), part.values.add(row * dim));
                let mut at = 0;
                while at < dim {
                    let n = S::LANES.min(dim - at);
                    let kept = s.load_part(to.add(at), if first { 0 } else { n });
                    let kept = s.mul(kept, old);
                    s.store_part(
                        to.add(at),
                        s.fma(s.load_part(from.add(at), n), new, kept),
                        n,
                    );
                    at += n;
                }
            }
        }
    }
}

/// Divides by the sums and writes the result.
pub(super) struct Finish<'a, F> {
    pub tile: Tile<'a, F>,
    pub total: Partial<F>,
    pub target: Target<'a, F>,
}

impl<F: Real> Kernel<F> for Finish<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            tile,
            total,
            target,
        } = self;
        let (dim, group) = (tile.spec.head_dim, tile.spec.group());
        for row in 0..tile.rows() {
            let (token, head) = (tile.row + row / group, tile.kv * group + row % group);
            // SAFETY: the partial is of this tile, and nobody else has the tile's part of the target.
            unsafe {
                let (sum, max) = (*total.sum.add(row), *total.max.add(row));
                let seen = sum != F::ZERO;
                let by = s.splat(if seen { F::ONE / sum } else { F::ZERO });
                let (from, to) = (
                    total.values.add(row * dim),
                    target.out.row_ptr(token).add(head * dim),
                );
                let mut at = 0;
                while at < dim {
                    let n = S::LANES.min(dim - at);
                    let value = s.load_part(from.add(at), if seen { n } else { 0 });
                    // Adding 0 makes −0 of an underflow the 0 it is beside keys that are not seen.
                    let value = s.fma(value, by, s.splat(F::ZERO));
                    s.store_part(to.add(at), value, n);
                    at += n;
                }
                if let Some(lse) = target.lse {
                    *lse.row_ptr(token).add(head) = if seen {
                        max + sum.ln()
                    } else {
                        F::NEG_INFINITY
                    };
                }
            }
        }
    }
}
