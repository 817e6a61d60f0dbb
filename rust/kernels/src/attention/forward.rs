//! The forward pass: softmax over blocks of 64 keys with a running maximum (Dao 2022, Milakov & Gimelshein 2018).

use std::ops::Range;

use super::bias::Biases;
use super::store::{BLOCK, padded};
use super::{KvStore, Prefix, Spec};
use crate::linear::tile::{From, Operands, product};
use crate::memory::Buffer;
use crate::simd::{self, Kernel, Simd};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};

/// The part of a batch that belongs to one sequence.
pub struct Sequence<'a, F> {
    /// Its rows among the queries.
    pub rows: Range<usize>,
    /// Its keys and values, those of `rows` included.
    pub store: &'a KvStore<F>,
    /// The number of the first query: how many keys were there before this call.
    pub first: usize,
}

/// Query rows in a tile: the heads of a group are rows too.
pub(super) const ROWS: usize = 48;

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
    out: RowsMut<F>,
    lse: Option<&mut [F]>,
) {
    spec.check();
    assert_eq!((q.rows(), q.width()), (out.rows(), out.width()));
    assert_eq!(q.width(), spec.heads * spec.head_dim);
    let shape = (spec.kv_heads, spec.head_dim);
    assert!(
        sequences
            .iter()
            .all(|s| s.store.shape() == shape && s.rows.end <= q.rows())
    );
    let prefix = prefix.map(|prefix| {
        let mut store = KvStore::new(shape.0, shape.1);
        store.append(prefix.keys, prefix.values);
        store
    });
    let queries = sequences
        .iter()
        .map(|s| s.first + s.rows.len())
        .max()
        .unwrap_or(0);
    let keys = sequences.iter().map(|s| s.store.len()).max().unwrap_or(0);
    let biases = Biases::new(spec, table, queries, keys);
    let (out, lse) = (
        out.share(),
        lse.map(|lse| RowsMut::new(lse, q.rows(), spec.heads).share()),
    );
    let tokens = (ROWS / spec.group()).max(1);
    let tiles: Vec<_> = sequences
        .iter()
        .flat_map(|sequence| {
            let starts = (0..sequence.rows.len()).step_by(tokens);
            let tile = move |start| start..sequence.rows.len().min(start + tokens);
            starts.flat_map(move |start| {
                (0..spec.kv_heads).map(move |head| (sequence, head, tile(start)))
            })
        })
        .collect();
    let level = simd::current();
    // The last queries see the most keys: with them first, threads finish together.
    team::parallel(tiles.len(), |index| {
        let (sequence, head, tokens) = tiles[tiles.len() - 1 - index].clone();
        let (prefix, biases) = (prefix.as_ref(), biases.as_ref());
        F::dispatch(
            level,
            Tile {
                spec,
                q,
                sequence,
                head,
                tokens,
                prefix,
                biases,
                out,
                lse,
            },
        );
    });
}

/// The queries `tokens` of a sequence, for the heads that share one key head.
struct Tile<'a, F> {
    spec: &'a Spec,
    q: Rows<'a, F>,
    sequence: &'a Sequence<'a, F>,
    head: usize,
    tokens: Range<usize>,
    prefix: Option<&'a KvStore<F>>,
    biases: Option<&'a Biases<F>>,
    out: Shared<'a, F>,
    lse: Option<Shared<'a, F>>,
}

/// Room for the sums of one vector, whatever the level.
const LANES: usize = 16;

impl<F: Real> Kernel<F> for Tile<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            spec,
            q,
            sequence,
            head,
            ref tokens,
            ..
        } = self;
        let (dim, width, group) = (spec.head_dim, padded(spec.head_dim), spec.group());
        let rows = tokens.len() * group;
        // Queries, scores, weighted values, sums of weights and largest scores; rows are (token, head of the group).
        let mut scratch = Buffer::zeroed(rows * (dim + BLOCK + width + LANES + 1));
        let (queries, rest) = scratch.split_at_mut(rows * dim);
        let (scores, rest) = rest.split_at_mut(rows * BLOCK);
        let (values, rest) = rest.split_at_mut(rows * width);
        let (sums, largest) = rest.split_at_mut(rows * LANES);
        largest.fill(F::NEG_INFINITY);
        let scale = F::of(spec.scale);
        for (i, token) in tokens.clone().enumerate() {
            let heads = &q.row(sequence.rows.start + token)[head * group * dim..][..group * dim];
            let to = &mut queries[i * group * dim..][..group * dim];
            to.iter_mut()
                .zip(heads)
                .for_each(|(to, &x)| *to = x * scale);
        }
        for (store, own) in [(self.prefix, false), (Some(sequence.store), true)] {
            let Some(store) = store else { continue };
            let seen = |token: usize| {
                if own {
                    spec.seen(sequence.first + token, store.len())
                } else {
                    0..store.len()
                }
            };
            let all = seen(tokens.start).start..seen(tokens.end - 1).end;
            for block in all.start / BLOCK..all.end.div_ceil(BLOCK) {
                let first = block * BLOCK;
                let filled = BLOCK.min(all.end - first);
                let columns = filled.next_multiple_of(LANES);
                let (k, v) = store.head(block, head);
                let o = Operands {
                    a: queries.as_ptr(),
                    a_row: dim,
                    a_step: 1,
                    b: k.as_ptr(),
                    b_step: BLOCK,
                    c: scores.as_mut_ptr(),
                    c_row: BLOCK,
                };
                // SAFETY: queries are `[rows, dim]`, keys `[dim, 64]`, scores `[rows, 64]`.
                unsafe { product(s, rows, columns, dim, o, From::Zero) };
                for row in 0..rows {
                    let token = tokens.start + row / group;
                    let seen = seen(token);
                    let bias = self.biases.filter(|_| own);
                    let part = Part {
                        scores: &mut scores[row * BLOCK..][..columns],
                        seen: seen.start.saturating_sub(first).min(BLOCK)
                            ..seen.end.saturating_sub(first).min(BLOCK),
                        bias: bias.map(|b| {
                            b.of(head * group + row % group, sequence.first + token, first)
                        }),
                        softcap: spec.softcap.map(F::of),
                        values: &mut values[row * width..][..width],
                        sums: &mut sums[row * LANES..][..LANES],
                        largest: &mut largest[row],
                    };
                    part.soften(s);
                }
                let o = Operands {
                    a: scores.as_ptr(),
                    a_row: BLOCK,
                    a_step: 1,
                    b: v.as_ptr(),
                    b_step: width,
                    c: values.as_mut_ptr(),
                    c_row: width,
                };
                // SAFETY: scores are `[rows, 64]`, values of the block `[64, width]`, the sum `[rows, width]`.
                unsafe { product(s, rows, dim, filled, o, From::Output) };
            }
        }
        for row in 0..rows {
            let (token, head) = (
                sequence.rows.start + tokens.start + row / group,
                head * group + row % group,
            );
            // SAFETY: `LANES` is at least the lanes of any level.
            let total = s.sum(unsafe { s.load(sums[row * LANES..].as_ptr()) });
            let inverse = if total == F::ZERO {
                F::ZERO
            } else {
                F::ONE / total
            };
            // SAFETY: no other tile has this token and head.
            let out = unsafe { self.out.part(token, head * dim..(head + 1) * dim) };
            out.iter_mut()
                .zip(&values[row * width..])
                .for_each(|(y, &v)| *y = v * inverse);
            if let Some(lse) = self.lse {
                // SAFETY: as above.
                unsafe { lse.part(token, head..head + 1)[0] = largest[row] + total.ln() };
            }
        }
    }
}

/// One row of scores on its way to weights.
struct Part<'a, F> {
    scores: &'a mut [F],
    /// The keys of the block that the query sees.
    seen: Range<usize>,
    bias: Option<&'a [F]>,
    softcap: Option<F>,
    values: &'a mut [F],
    sums: &'a mut [F],
    largest: &'a mut F,
}

impl<F: Real> Part<'_, F> {
    /// Scores become weights `exp(score − largest so far)`; what was summed under an older maximum is scaled down.
    ///
    /// A block in which the row sees nothing changes nothing, so a row does not notice what its tile had to visit.
    #[inline(always)]
    fn soften<S: Simd<F>>(self, s: S) {
        let Self {
            scores,
            seen,
            bias,
            softcap,
            values,
            sums,
            largest,
        } = self;
        let mut top = s.splat(F::NEG_INFINITY);
        for (j, chunk) in scores.chunks_exact_mut(S::LANES).enumerate() {
            let at = j * S::LANES;
            // SAFETY: the chunk holds `LANES` elements and the bias 64.
            unsafe {
                let mut v = cap(s, s.load(chunk.as_ptr()), softcap);
                if let Some(bias) = bias {
                    v = s.add(v, s.load(bias[at..].as_ptr()));
                }
                v = mask(s, v, at, &seen);
                top = s.max(v, top);
                s.store(chunk.as_mut_ptr(), v);
            }
        }
        let old = *largest;
        *largest = s.largest(top);
        *largest = if old > *largest { old } else { *largest };
        let shift = if *largest == F::NEG_INFINITY {
            F::ZERO
        } else {
            *largest
        };
        let mut sum = s.splat(F::ZERO);
        for chunk in scores.chunks_exact_mut(S::LANES) {
            // SAFETY: the chunk holds `LANES` elements.
            unsafe {
                let weight = s.exp(s.sub(s.load(chunk.as_ptr()), s.splat(shift)));
                sum = s.add(sum, weight);
                s.store(chunk.as_mut_ptr(), weight);
            }
        }
        // SAFETY: sums hold `LANES` elements; values are padded to a multiple of them.
        unsafe {
            let mut total = s.load(sums.as_ptr());
            if old != *largest {
                let down = s.exp(s.splat(old - shift));
                total = s.mul(total, down);
                for chunk in values.chunks_exact_mut(S::LANES) {
                    s.store(chunk.as_mut_ptr(), s.mul(s.load(chunk.as_ptr()), down));
                }
            }
            s.store(sums.as_mut_ptr(), s.add(total, sum));
        }
    }
}

/// `softcap·tanh(v / softcap)`.
#[inline(always)]
pub(super) fn cap<F: Real, S: Simd<F>>(s: S, v: S::V, softcap: Option<F>) -> S::V {
    let Some(cap) = softcap else { return v };
    s.mul(s.splat(cap), s.tanh(s.mul(v, s.splat(F::ONE / cap))))
}

/// −∞ in the lanes, the first of which is key `at` of the block, that are not seen.
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
