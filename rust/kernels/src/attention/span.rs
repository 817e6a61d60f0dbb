//! Some queries of one key head against a span of keys.
//!
//! Each span is worked on from nothing — its own maximum, sum and weighted values — and the spans of a row are merged in
//! order. So a row's arithmetic depends neither on the rows beside it nor on who computes which span. What the rows of a tile
//! do not all see gets weights of exactly 0 where it is not seen.

use std::ops::Range;

use super::KvStore;
use super::block::{AnyHead, BLOCK, Head, with_head};
use super::partial::{Partial, fill};
use super::score::{cap, mask};
use super::tile::{SPAN, Tile};
use crate::Real;
use crate::linear::tile::{FETCH, From, Operands, product};
use crate::simd::{Element, Kernel, Simd};

/// Scores, weights and weighted values of one span.
pub(super) struct Part<'a, F: Real> {
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
        // The head's part of each block, the place of its first key in the span, and the keys that are used.
        let part = |block: usize| {
            let base = block * BLOCK;
            (
                span.keys.block(span.base / BLOCK + block, tile.kv),
                base,
                base.max(used.start)..(base + BLOCK).min(used.end),
            )
        };
        let blocks = used.start / BLOCK..used.end.div_ceil(BLOCK);
        for index in blocks.clone() {
            let (block, base, keys) = part(index);
            let start = keys.start / 16 * 16;
            let strip = Strip {
                scores,
                rows,
                keys: start..keys.end,
                base,
                alone: tile.tokens == 1,
            };
            // SAFETY: the block has room for the keys up to the next multiple of 16, and so has a row of scores.
            with_head!(block, head => unsafe { strip.score(s, head, q.as_ptr(), dim) });
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
                    if let Some(dropout) = tile.spec.dropout {
                        let weights =
                            std::slice::from_raw_parts_mut(row_scores.add(used.start), used.len());
                        let ahead = tile.prefix.filter(|_| span.own).map_or(0, KvStore::len);
                        let number = (tile.row + token) * tile.spec.heads + head;
                        let mut factors = [F::ONE; SPAN];
                        let factors = &mut factors[..used.len()];
                        dropout.factors(number, ahead + span.base + used.start, factors);
                        weights
                            .iter_mut()
                            .zip(factors)
                            .for_each(|(weight, factor)| *weight = *weight * *factor);
                    }
                    *to.max.add(row) = max;
                    *to.sum.add(row) = sum;
                }
            }
        }
        let mut from = From::Zero;
        for index in blocks {
            let (block, base, keys) = part(index);
            let strip = Strip {
                scores,
                rows,
                keys,
                base,
                alone: tile.tokens == 1,
            };
            // SAFETY: the block holds the values of the keys, readable 16 elements further; the partial has the rows.
            with_head!(block, head => unsafe { strip.gather(s, head, to.values, dim, from) });
            from = From::Output;
        }
    }
}

/// The scores of a tile's rows for some keys of one block.
struct Strip<F> {
    /// `[rows][256]`.
    scores: *mut F,
    rows: usize,
    keys: Range<usize>,
    /// The first key of the block.
    base: usize,
    /// Whether one query alone takes part, which works faster than keys and values come from memory.
    alone: bool,
}

impl<F: Real> Strip<F> {
    /// How far ahead of a row of `step` elements is fetched: if all are read once, as far as the keys of a head are long, which
    /// is the values of these keys, and after these values the keys of the next head.
    #[inline(always)]
    fn ahead(&self, keys: usize, step: usize) -> usize {
        if self.alone { keys } else { FETCH * step }
    }

    /// `scores = q·kᵀ`.
    ///
    /// # Safety
    /// `q` is `[rows][dim]`, the keys begin at a multiple of 16, and the scores can be written up to the next.
    #[inline(always)]
    unsafe fn score<S: Simd<F>, E: Element<F>>(
        self,
        s: S,
        head: Head<F, E>,
        q: *const F,
        dim: usize,
    ) {
        let o = Operands {
            a: q,
            a_row: dim,
            a_step: 1,
            b: head.keys.wrapping_add(self.keys.start - self.base),
            b_step: head.room,
            ahead: self.ahead(head.room * dim, head.room),
            c: self.scores.wrapping_add(self.keys.start),
            c_row: SPAN,
        };
        // SAFETY: the caller's promise.
        unsafe { product(s, self.rows, self.keys.len(), dim, o, From::Zero) };
        if let Some((scales, _)) = head.scales {
            // SAFETY: a block has room, and a scale, for keys up to the next multiple of 16.
            unsafe { self.scale(s, scales) };
        }
    }

    /// `to = weights·v`, or `to += weights·v`.
    ///
    /// # Safety
    /// The head has values of the keys, and `to` is `[rows][dim]`.
    #[inline(always)]
    unsafe fn gather<S: Simd<F>, E: Element<F>>(
        self,
        s: S,
        head: Head<F, E>,
        to: *mut F,
        dim: usize,
        from: From,
    ) {
        if let Some((_, scales)) = head.scales {
            // SAFETY: as for the keys.
            unsafe { self.scale(s, scales) };
        }
        let o = Operands {
            a: self.scores.wrapping_add(self.keys.start).cast_const(),
            a_row: SPAN,
            a_step: 1,
            b: head
                .values
                .wrapping_add((self.keys.start - self.base) * dim),
            b_step: dim,
            ahead: self.ahead(head.room * dim, dim),
            c: to,
            c_row: dim,
        };
        // SAFETY: the caller's promise.
        unsafe { product(s, self.rows, dim, self.keys.len(), o, from) };
    }

    /// Multiplies each column by the scale of its key.
    ///
    /// # Safety
    /// Scores and scales reach to the next multiple of 16 keys.
    #[inline(always)]
    unsafe fn scale<S: Simd<F>>(&self, s: S, scales: *const F) {
        let first = self.keys.start / S::LANES * S::LANES;
        for at in (first..self.keys.end).step_by(S::LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let by = s.load(scales.add(at - self.base));
                for row in 0..self.rows {
                    let to = self.scores.add(row * SPAN + at);
                    s.store(to, s.mul(s.load(to), by));
                }
            }
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
                score = mask(s, score, at, seen, F::NEG_INFINITY);
                s.store(scores.add(at), score);
            }
            largest = s.max(score, largest);
        }
        let max = s.largest(largest);
        // If all scores are −∞, no key counts, whatever the others' are.
        let finite = if max == F::NEG_INFINITY { F::ZERO } else { max };
        let (shift, mut sum) = (s.splat(finite), s.splat(F::ZERO));
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
