//! The backward pass: probabilities are computed again from the log-sum-exp.

use std::ops::Range;

use super::bias::Biases;
use super::store::BLOCK;
use super::tile::{cap, mask};
use super::{Prefix, Spec};
use crate::linear::tile::{From, Operands, product};
use crate::memory::Buffer;
use crate::simd::{self, Kernel, Simd};
use crate::view::Shared;
use crate::{Real, Rows, RowsMut, team};

/// Query rows in a tile: the heads of a group are rows too.
const ROWS: usize = 48;

/// Elements between rows of heads, which vectors may read to the end.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// Where the gradients go; each is overwritten.
pub struct Gradients<'a, F> {
    /// `[T, heads·head_dim]`.
    pub q: RowsMut<'a, F>,
    /// `[S, kv_heads·head_dim]`.
    pub k: RowsMut<'a, F>,
    /// `[S, kv_heads·head_dim]`.
    pub v: RowsMut<'a, F>,
    /// `[buckets, heads]`.
    pub table: Option<&'a mut [F]>,
    /// Keys and values of the prefix, `[p, kv_heads·head_dim]` each; there if and only if there is a prefix.
    pub prefix: Option<(RowsMut<'a, F>, RowsMut<'a, F>)>,
}

/// What the forward pass saw and made. Sequence `i` is rows `queries[i]..queries[i + 1]` of `q` and `keys[i]..keys[i + 1]`
/// of `k` and `v`; there is no cache in training.
#[derive(Clone, Copy)]
pub struct Saved<'a, F> {
    /// The queries.
    pub q: Rows<'a, F>,
    /// The keys.
    pub k: Rows<'a, F>,
    /// The values.
    pub v: Rows<'a, F>,
    /// Starts of the sequences among the queries.
    pub queries: &'a [usize],
    /// Starts of the sequences among the keys.
    pub keys: &'a [usize],
    /// The bias table.
    pub table: Option<&'a [F]>,
    /// The learned prefix.
    pub prefix: Option<Prefix<'a, F>>,
    /// The result.
    pub out: Rows<'a, F>,
    /// Its log-sum-exp, `[T, heads]`.
    pub lse: &'a [F],
}

/// The gradients of [`super::forward`], given `dout`, that of its result.
///
/// With `p` the probabilities and `D = Σ dout·out` of a row: `dv = pᵀ·dout`, `ds = p·(dout·vᵀ - D)`, `dq = ds·k`,
/// `dk = dsᵀ·q` (Dao 2022). What sequences share, the table and the prefix, is summed over them in order.
///
/// # Panics
/// If the shapes disagree.
pub fn backward<F: Real>(spec: &Spec, saved: &Saved<F>, dout: Rows<F>, grads: &mut Gradients<F>) {
    spec.check();
    assert_eq!(saved.prefix.is_some(), grads.prefix.is_some());
    assert_eq!(
        (saved.q.rows(), saved.q.width()),
        (dout.rows(), dout.width())
    );
    assert_eq!(
        (saved.q.rows(), saved.q.width()),
        (grads.q.rows(), grads.q.width())
    );
    assert_eq!(
        (saved.k.rows(), saved.k.width()),
        (grads.k.rows(), grads.k.width())
    );
    assert_eq!(
        (saved.v.rows(), saved.v.width()),
        (grads.v.rows(), grads.v.width())
    );
    assert_eq!(saved.lse.len(), saved.q.rows() * spec.heads);
    let longest = |starts: &[usize]| starts.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(0);
    let biases = Biases::new(
        spec,
        saved.table,
        longest(saved.queries),
        longest(saved.keys),
    );
    let sequences = saved.queries.len().saturating_sub(1);
    let ahead = saved.prefix.map_or(0, |prefix| prefix.keys.rows());
    let width = spec.kv_heads * spec.head_dim;
    let distances = biases.as_ref().map_or(0, Biases::distances);
    let mut by_distance = vec![F::ZERO; sequences * spec.heads * distances];
    let mut prefixes = vec![F::ZERO; sequences * 2 * ahead * width];
    let shared = Outputs {
        q: grads.q.reborrow().share(),
        k: grads.k.reborrow().share(),
        v: grads.v.reborrow().share(),
        distances: RowsMut::new(&mut by_distance, sequences * spec.heads, distances).share(),
        prefixes: RowsMut::new(&mut prefixes, sequences * 2 * ahead, width).share(),
    };
    let level = simd::current();
    team::parallel(sequences * spec.kv_heads, |index| {
        let (sequence, head) = (index / spec.kv_heads, index % spec.kv_heads);
        let biases = biases.as_ref();
        F::dispatch(
            level,
            Part {
                spec,
                saved,
                dout,
                sequence,
                head,
                biases,
                out: &shared,
            },
        );
    });
    if let Some(table) = grads.table.as_deref_mut() {
        table.fill(F::ZERO);
        if let Some(biases) = &biases {
            let mut column = vec![F::ZERO; table.len() / spec.heads];
            for (row, gradient) in by_distance.chunks_exact(distances.max(1)).enumerate() {
                column.fill(F::ZERO);
                biases.reduce(gradient, &mut column);
                let entries = table.iter_mut().skip(row % spec.heads).step_by(spec.heads);
                entries
                    .zip(&column)
                    .for_each(|(entry, &gradient)| *entry += gradient);
            }
        }
    }
    if let Some((keys, values)) = &mut grads.prefix {
        for row in 0..ahead {
            for (part, rows) in [&mut *keys, &mut *values].into_iter().enumerate() {
                rows.row_mut(row).fill(F::ZERO);
                for sequence in 0..sequences {
                    let gradient =
                        &prefixes[((sequence * 2 + part) * ahead + row) * width..][..width];
                    rows.row_mut(row)
                        .iter_mut()
                        .zip(gradient)
                        .for_each(|(d, &g)| *d += g);
                }
            }
        }
    }
}

/// Where the threads write; each its own sequence and heads.
struct Outputs<'a, F> {
    q: Shared<'a, F>,
    k: Shared<'a, F>,
    v: Shared<'a, F>,
    /// Gradient of the bias, `[sequences·heads, distances]`.
    distances: Shared<'a, F>,
    /// Gradients of the prefix, `[sequences·(keys, values)·p, width]`.
    prefixes: Shared<'a, F>,
}

/// One key head of one sequence, and the query heads that read it.
struct Part<'a, F> {
    spec: &'a Spec,
    saved: &'a Saved<'a, F>,
    dout: Rows<'a, F>,
    sequence: usize,
    head: usize,
    biases: Option<&'a Biases<F>>,
    out: &'a Outputs<'a, F>,
}

/// A block of keys and values, both ways round, and their gradients.
struct Tile<F> {
    /// `[head_dim][64]`.
    k_across: Buffer<F>,
    v_across: Buffer<F>,
    /// `[64][padded]`.
    k: Buffer<F>,
    dk: Buffer<F>,
    dv: Buffer<F>,
}

impl<F: Real> Tile<F> {
    fn new(dim: usize) -> Self {
        let across = || Buffer::zeroed(dim * BLOCK);
        let along = || Buffer::zeroed(BLOCK * padded(dim));
        Self {
            k_across: across(),
            v_across: across(),
            k: along(),
            dk: along(),
            dv: along(),
        }
    }

    fn load(&mut self, keys: Rows<F>, values: Rows<F>) {
        let (dim, width) = (keys.width(), padded(keys.width()));
        self.dk.fill(F::ZERO);
        self.dv.fill(F::ZERO);
        self.v_across.fill(F::ZERO);
        self.k_across.fill(F::ZERO);
        for row in 0..keys.rows() {
            self.k[row * width..][..dim].copy_from_slice(keys.row(row));
            for (d, (&k, &v)) in keys.row(row).iter().zip(values.row(row)).enumerate() {
                self.k_across[d * BLOCK + row] = k;
                self.v_across[d * BLOCK + row] = v;
            }
        }
    }
}

impl<F: Real> Kernel<F> for Part<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self {
            spec,
            saved,
            dout,
            sequence,
            head,
            biases,
            out,
        } = self;
        let (dim, width, group) = (spec.head_dim, padded(spec.head_dim), spec.group());
        let (queries, keys) = (
            bounds(saved.queries, sequence),
            bounds(saved.keys, sequence),
        );
        let rows = queries.len() * group;
        let scale = F::of(spec.scale);
        // Scaled queries, gradients of outputs and of queries, `[rows][padded]`, rows being (token, head of the group).
        let mut q = Buffer::zeroed(rows * width);
        let mut dy = Buffer::zeroed(rows * width);
        let mut dq = Buffer::zeroed(rows * width);
        let mut rest = Buffer::zeroed(rows * 2);
        let (lse, delta) = rest.split_at_mut(rows);
        for row in 0..rows {
            let (token, head) = (queries.start + row / group, head * group + row % group);
            let columns = head * dim..(head + 1) * dim;
            let to = &mut q[row * width..][..dim];
            to.iter_mut()
                .zip(&saved.q.row(token)[columns.clone()])
                .for_each(|(to, &x)| *to = x * scale);
            let (from, y) = (
                &dout.row(token)[columns.clone()],
                &saved.out.row(token)[columns],
            );
            dy[row * width..][..dim].copy_from_slice(from);
            delta[row] = from.iter().zip(y).map(|(&d, &y)| d * y).sum();
            let sum = saved.lse[token * spec.heads + head];
            // A row that sees nothing has weights of 0, not of exp(−∞ + ∞).
            lse[row] = if sum == F::NEG_INFINITY { F::ZERO } else { sum };
        }
        let mut scores = Buffer::zeroed(ROWS.max(group) * BLOCK);
        let mut slopes = Buffer::zeroed(ROWS.max(group) * BLOCK);
        let mut block = Tile::new(dim);
        let columns = head * dim..(head + 1) * dim;
        let ahead = saved.prefix.map_or(0, |prefix| prefix.keys.rows());
        let sources = saved
            .prefix
            .map(|prefix| (prefix.keys, prefix.values, false));
        for (k, v, own) in sources.into_iter().chain([(
            saved.k.slice(keys.clone()),
            saved.v.slice(keys.clone()),
            true,
        )]) {
            let (k, v) = (k.columns(columns.clone()), v.columns(columns.clone()));
            let seen = |token: usize| {
                if own {
                    spec.seen(token, k.rows())
                } else {
                    0..k.rows()
                }
            };
            for first in (0..k.rows()).step_by(BLOCK) {
                let last = k.rows().min(first + BLOCK);
                block.load(k.slice(first..last), v.slice(first..last));
                let tokens = (ROWS / group).max(1);
                for start in (0..queries.len()).step_by(tokens) {
                    let end = queries.len().min(start + tokens);
                    let visible = seen(start).start.max(first)..seen(end - 1).end.min(last);
                    if visible.is_empty() {
                        continue;
                    }
                    let (row, rows) = (start * group, (end - start) * group);
                    // Keys of the block that some row of the tile sees.
                    let used = visible.end - first;
                    for (x, across, to) in [
                        (&q, &block.k_across, &mut scores),
                        (&dy, &block.v_across, &mut slopes),
                    ] {
                        let o = Operands {
                            a: x[row * width..].as_ptr(),
                            a_row: width,
                            a_step: 1,
                            b: across.as_ptr(),
                            b_step: BLOCK,
                            c: to.as_mut_ptr(),
                            c_row: BLOCK,
                        };
                        // SAFETY: A is `[rows, dim]`, B `[dim, 64]`, C `[rows, 64]`.
                        unsafe { product(s, rows, used, dim, o, From::Zero) };
                    }
                    for i in 0..rows {
                        let token = start + i / group;
                        let seen = seen(token);
                        let query_head = head * group + i % group;
                        let bias = biases.filter(|_| own);
                        let whole = used.next_multiple_of(S::LANES);
                        let weights = Weights {
                            scores: &mut scores[i * BLOCK..][..whole],
                            slopes: &mut slopes[i * BLOCK..][..whole],
                            seen: seen.start.saturating_sub(first).min(BLOCK)
                                ..seen.end.saturating_sub(first).min(BLOCK),
                            bias: bias.map(|bias| {
                                let at = bias.at(token, first);
                                // SAFETY: no other thread has this sequence and head.
                                let to = unsafe {
                                    out.distances.row(sequence * spec.heads + query_head)
                                };
                                (bias.of(query_head, token, first), &mut to[at..at + BLOCK])
                            }),
                            softcap: spec.softcap.map(F::of),
                            lse: lse[row + i],
                            delta: delta[row + i],
                        };
                        weights.differentiate(s);
                    }
                    // dv += pᵀ·dy, dk += dsᵀ·q: rows are keys, the depth is queries.
                    for (weights, x, to) in
                        [(&scores, &dy, &mut block.dv), (&slopes, &q, &mut block.dk)]
                    {
                        let o = Operands {
                            a: weights.as_ptr(),
                            a_row: 1,
                            a_step: BLOCK,
                            b: x[row * width..].as_ptr(),
                            b_step: width,
                            c: to.as_mut_ptr(),
                            c_row: width,
                        };
                        // SAFETY: A is `[64, rows]` seen across, B `[rows, padded]`, C `[64, padded]`.
                        unsafe { product(s, used, dim, rows, o, From::Output) };
                    }
                    let o = Operands {
                        a: slopes.as_ptr(),
                        a_row: BLOCK,
                        a_step: 1,
                        b: block.k.as_ptr(),
                        b_step: width,
                        c: dq[row * width..].as_mut_ptr(),
                        c_row: width,
                    };
                    // SAFETY: A is `[rows, 64]`, B `[64, padded]`, C `[rows, padded]`.
                    unsafe { product(s, rows, dim, used, o, From::Output) };
                }
                for i in 0..last - first {
                    let (dk, dv) = if own {
                        let row = keys.start + first + i;
                        ((out.k, row), (out.v, row))
                    } else {
                        let row = sequence * 2 * ahead + first + i;
                        ((out.prefixes, row), (out.prefixes, row + ahead))
                    };
                    // SAFETY: no other thread has this sequence and head.
                    let (dk, dv) = unsafe {
                        (
                            dk.0.part(dk.1, columns.clone()),
                            dv.0.part(dv.1, columns.clone()),
                        )
                    };
                    dk.copy_from_slice(&block.dk[i * width..][..dim]);
                    dv.copy_from_slice(&block.dv[i * width..][..dim]);
                }
            }
        }
        for row in 0..rows {
            let (token, head) = (queries.start + row / group, head * group + row % group);
            // SAFETY: no other thread has this sequence and head.
            let to = unsafe { out.q.part(token, head * dim..(head + 1) * dim) };
            to.iter_mut()
                .zip(&dq[row * width..])
                .for_each(|(to, &d)| *to = d * scale);
        }
    }
}

fn bounds(starts: &[usize], sequence: usize) -> Range<usize> {
    starts[sequence]..starts[sequence + 1]
}

/// One row of raw scores and of `dout·vᵀ`, on its way to weights and gradients of raw scores.
struct Weights<'a, F> {
    scores: &'a mut [F],
    slopes: &'a mut [F],
    seen: Range<usize>,
    /// The bias and where its gradient is added.
    bias: Option<(&'a [F], &'a mut [F])>,
    softcap: Option<F>,
    lse: F,
    delta: F,
}

impl<F: Real> Weights<'_, F> {
    /// `p = exp(score − lse)`, `ds = p·(dout·vᵀ − D)`, times the slope of the soft cap.
    #[inline(always)]
    fn differentiate<S: Simd<F>>(self, s: S) {
        let Self {
            scores,
            slopes,
            seen,
            mut bias,
            softcap,
            lse,
            delta,
        } = self;
        let chunks = scores
            .chunks_exact_mut(S::LANES)
            .zip(slopes.chunks_exact_mut(S::LANES));
        for (j, (p, ds)) in chunks.enumerate() {
            let at = j * S::LANES;
            // SAFETY: the chunks hold `LANES` elements, the bias and its gradient 64.
            unsafe {
                let capped = cap(s, s.load(p.as_ptr()), softcap);
                let mut score = capped;
                if let Some((bias, _)) = &bias {
                    score = s.add(score, s.load(bias[at..].as_ptr()));
                }
                let weight = s.exp(s.sub(mask(s, score, at, &seen), s.splat(lse)));
                let mut slope = s.mul(weight, s.sub(s.load(ds.as_ptr()), s.splat(delta)));
                if let Some((_, gradient)) = &mut bias {
                    let to = gradient[at..].as_mut_ptr();
                    s.store(to, s.add(s.load(to), slope));
                }
                if let Some(cap) = softcap {
                    let t = s.mul(capped, s.splat(F::ONE / cap));
                    slope = s.mul(slope, s.sub(s.splat(F::ONE), s.mul(t, t)));
                }
                s.store(p.as_mut_ptr(), weight);
                s.store(ds.as_mut_ptr(), slope);
            }
        }
    }
}
