//! One block of keys against the queries that see it.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rows::{Gathered, first_row, padded};
use super::weights::Weights;
use super::{Saved, bounds};
use crate::attention::Spec;
use crate::attention::bias::Biases;
use crate::attention::block::BLOCK;
use crate::linear::tile::{FETCH, From, Operands, product};
use crate::simd::{Kernel, Simd};
use crate::view::Shared;
use crate::{Real, Rows};

/// Query rows in a tile: the heads of a group are rows too.
const ROWS: usize = 48;

/// A block of keys.
pub(super) struct Job {
    pub sequence: usize,
    /// The key head.
    pub head: usize,
    keys: Range<usize>,
    /// The sequence's own keys, not the prefix's.
    own: bool,
    /// Whether there is no block before it.
    first: bool,
    /// The query that the next tile begins with: earlier ones have got what this block gives them.
    done: AtomicUsize,
}

impl Job {
    pub fn new(sequence: usize, head: usize, keys: Range<usize>, own: bool, first: bool) -> Self {
        Self {
            sequence,
            head,
            keys,
            own,
            first,
            done: AtomicUsize::new(0),
        }
    }

    /// On drop, the block has given all that it ever will.
    pub fn finishing(&self) -> impl Drop + '_ {
        struct Finish<'a>(&'a AtomicUsize);
        impl Drop for Finish<'_> {
            fn drop(&mut self) {
                self.0.store(usize::MAX, Ordering::Release);
            }
        }
        Finish(&self.done)
    }

    /// Waits until the queries below `end` have got what this block gives them.
    ///
    /// Jobs are handed out in order, so whoever has this one is running or has finished.
    fn wait(&self, end: usize) {
        let mut spins = 0_u32;
        while self.done.load(Ordering::Acquire) < end {
            spins += 1;
            if spins.is_multiple_of(256) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// Where the jobs write; each its own rows and columns.
pub(super) struct Outputs<'a, F> {
    pub k: Shared<'a, F>,
    pub v: Shared<'a, F>,
    /// Gradient of the bias table, `[jobs·group, buckets]`.
    pub buckets: Shared<'a, F>,
    /// Gradients of the prefix, `[sequences·(keys, values)·p, width]`.
    pub prefixes: Shared<'a, F>,
}

#[derive(Clone, Copy)]
pub(super) struct Part<'a, F> {
    pub spec: &'a Spec,
    pub saved: &'a Saved<'a, F>,
    pub gathered: &'a Gathered<F>,
    /// The job before this one.
    pub before: Option<&'a Job>,
    pub job: &'a Job,
    pub index: usize,
    pub biases: Option<&'a Biases<F>>,
    pub out: &'a Outputs<'a, F>,
}

impl<'a, F: Real> Part<'a, F> {
    /// Elements that a run needs.
    pub fn scratch(&self) -> usize {
        let (dim, group) = (self.spec.head_dim, self.spec.group());
        let (rows, distances) = (ROWS.max(group), group * self.distances());
        2 * dim * BLOCK + 3 * BLOCK * padded(dim) + 2 * rows * BLOCK + distances
    }

    /// Distances between the block's keys and the queries; 0 if the bias has no gradient.
    fn distances(&self) -> usize {
        let queries = bounds(self.saved.queries, self.job.sequence).len();
        if self.out.buckets.width() == 0 || !self.job.own {
            0
        } else {
            queries + BLOCK
        }
    }

    /// The block's keys and values.
    fn keys(&self) -> (Rows<'a, F>, Rows<'a, F>) {
        let dim = self.spec.head_dim;
        let columns = self.job.head * dim..(self.job.head + 1) * dim;
        let (k, v, start) = match &self.saved.prefix {
            Some(prefix) if !self.job.own => (prefix.keys, prefix.values, 0),
            _ => {
                let start = bounds(self.saved.keys, self.job.sequence).start;
                (self.saved.k, self.saved.v, start)
            }
        };
        let rows = start + self.job.keys.start..start + self.job.keys.end;
        let part = |x: Rows<'a, F>| x.slice(rows.clone()).columns(columns.clone());
        (part(k), part(v))
    }

    /// Which of the block's keys a query sees, counted from the first.
    fn seen(&self, token: usize) -> Range<usize> {
        let block = &self.job.keys;
        if !self.job.own {
            return 0..block.len();
        }
        let keys = bounds(self.saved.keys, self.job.sequence).len();
        let seen = self.spec.seen(token, keys);
        let start = seen.start.clamp(block.start, block.end);
        start - block.start..seen.end.clamp(start, block.end) - block.start
    }

    /// Where the gradients of the block's keys and values go.
    fn targets(&self) -> ((Shared<'a, F>, usize), (Shared<'a, F>, usize)) {
        let (out, start) = (self.out, self.job.keys.start);
        if self.job.own {
            let row = bounds(self.saved.keys, self.job.sequence).start + start;
            ((out.k, row), (out.v, row))
        } else {
            let ahead = self.saved.prefix.map_or(0, |prefix| prefix.keys.rows());
            let row = self.job.sequence * 2 * ahead + start;
            ((out.prefixes, row), (out.prefixes, row + ahead))
        }
    }
}

/// A part with memory to work in.
pub(super) struct Run<'a, 's, F> {
    pub part: Part<'a, F>,
    pub scratch: &'s mut [F],
}

impl<F: Real> Kernel<F> for Run<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<F>>(self, s: S) {
        let Self { part, scratch } = self;
        let Part {
            spec,
            saved,
            gathered,
            before,
            job,
            index,
            biases,
            out,
        } = part;
        let (dim, width, group) = (spec.head_dim, padded(spec.head_dim), spec.group());
        let queries = bounds(saved.queries, job.sequence).len();
        // The block both ways round, `[head_dim][64]` and `[64][padded]`, and the gradients.
        let (k_across, rest) = scratch.split_at_mut(dim * BLOCK);
        let (v_across, rest) = rest.split_at_mut(dim * BLOCK);
        let (k, rest) = rest.split_at_mut(BLOCK * width);
        let (dk, rest) = rest.split_at_mut(BLOCK * width);
        let (dv, rest) = rest.split_at_mut(BLOCK * width);
        let (scores, rest) = rest.split_at_mut(ROWS.max(group) * BLOCK);
        let (slopes, by_distance) = rest.split_at_mut(ROWS.max(group) * BLOCK);
        dk.fill(F::ZERO);
        dv.fill(F::ZERO);
        by_distance.fill(F::ZERO);
        let (keys, values) = part.keys();
        for row in 0..keys.rows() {
            k[row * width..][..dim].copy_from_slice(keys.row(row));
            for (d, (&key, &value)) in keys.row(row).iter().zip(values.row(row)).enumerate() {
                k_across[d * BLOCK + row] = key;
                v_across[d * BLOCK + row] = value;
            }
        }
        let base = first_row(spec, saved, job.sequence, job.head);
        // A weight of 0 does not hide what is not finite: then no two queries, which see different keys, share a tile.
        let finite = gathered.finite(spec, job.sequence, job.head);
        let tokens = if finite { (ROWS / group).max(1) } else { 1 };
        let distances = part.distances();
        for start in (0..queries).step_by(tokens) {
            let end = queries.min(start + tokens);
            let (first, last) = (part.seen(start), part.seen(end - 1));
            let used = first.start..last.end;
            if !used.is_empty() {
                let (row, rows) = (base + start * group, (end - start) * group);
                let from = used.start / 16 * 16;
                for (x, across, to) in [
                    (&gathered.q, &*k_across, &mut *scores),
                    (&gathered.dy, &*v_across, &mut *slopes),
                ] {
                    let o = Operands {
                        a: x[row * width..].as_ptr(),
                        a_row: width,
                        a_step: 1,
                        b: across[from..].as_ptr(),
                        b_step: BLOCK,
                        ahead: FETCH * BLOCK,
                        c: to[from..].as_mut_ptr(),
                        c_row: BLOCK,
                    };
                    // SAFETY: A is `[rows, dim]`, B `[dim, 64]`, C `[rows, 64]`, both from a multiple of 16 on.
                    unsafe { product(s, rows, used.end - from, dim, o, From::Zero) };
                }
                for i in 0..rows {
                    let token = start + i / group;
                    let reach = from..used.end.next_multiple_of(S::LANES);
                    let seen = part.seen(token);
                    let bias = biases.filter(|_| job.own);
                    let bias =
                        bias.map(|b| b.of(job.head * group + i % group, token, job.keys.start));
                    let mut factors = [F::ONE; BLOCK];
                    if let Some(dropout) = spec.dropout {
                        let row = bounds(saved.queries, job.sequence).start + token;
                        let row = row * spec.heads + job.head * group + i % group;
                        let ahead = saved.prefix.filter(|_| job.own);
                        let ahead = ahead.map_or(0, |prefix| prefix.keys.rows());
                        dropout.factors(row, ahead + job.keys.start + from, &mut factors);
                    }
                    let at = i % group * distances + queries - 1 - token;
                    let gradient =
                        (distances > 0).then(|| &mut by_distance[at..at + BLOCK][from..]);
                    Weights {
                        scores: &mut scores[i * BLOCK..][reach.clone()],
                        slopes: &mut slopes[i * BLOCK..][reach],
                        seen: seen.start.max(from) - from..seen.end.max(from) - from,
                        bias: bias.map(|bias| &bias[from..]),
                        gradient,
                        factors: spec.dropout.map(|_| &factors[..]),
                        softcap: spec.softcap.map(F::of),
                        lse: gathered.lse[row + i],
                        delta: gathered.delta[row + i],
                    }
                    .differentiate(s);
                }
                // dv += pᵀ·dy, dk += dsᵀ·q: rows are keys, the depth is queries.
                for (weights, x, to) in [
                    (&*scores, &gathered.dy, &mut *dv),
                    (&*slopes, &gathered.q, &mut *dk),
                ] {
                    let o = Operands {
                        a: weights[used.start..].as_ptr(),
                        a_row: 1,
                        a_step: BLOCK,
                        b: x[row * width..].as_ptr(),
                        b_step: width,
                        ahead: FETCH * width,
                        c: to[used.start * width..].as_mut_ptr(),
                        c_row: width,
                    };
                    // SAFETY: A is `[64, rows]` seen across, B `[rows, padded]`, C `[64, padded]`.
                    unsafe { product(s, used.len(), dim, rows, o, From::Output) };
                }
                if let Some(before) = before.filter(|_| !job.first) {
                    before.wait(end);
                }
                let o = Operands {
                    a: slopes[used.start..].as_ptr(),
                    a_row: BLOCK,
                    a_step: 1,
                    b: k[used.start * width..].as_ptr(),
                    b_step: width,
                    ahead: FETCH * width,
                    c: gathered.dq(row, width),
                    c_row: width,
                };
                // SAFETY: A is `[rows, 64]`, B `[64, padded]`; C is `[rows, padded]`, which the blocks before have left and the
                // blocks behind have not got.
                unsafe { product(s, rows, dim, used.len(), o, From::Output) };
            } else if let Some(before) = before.filter(|_| !job.first) {
                before.wait(end);
            }
            job.done.store(end, Ordering::Release);
        }
        let (to_k, to_v) = part.targets();
        let columns = job.head * dim..(job.head + 1) * dim;
        for i in 0..keys.rows() {
            // SAFETY: the rows and columns of this block are no other job's.
            let (to_k, to_v) = unsafe {
                (
                    to_k.0.part(to_k.1 + i, columns.clone()),
                    to_v.0.part(to_v.1 + i, columns.clone()),
                )
            };
            to_k.copy_from_slice(&dk[i * width..][..dim]);
            to_v.copy_from_slice(&dv[i * width..][..dim]);
        }
        if let (Some(biases), true) = (biases, distances > 0 && queries > 0) {
            for (member, gradient) in by_distance.chunks_exact(distances).enumerate() {
                // SAFETY: as above.
                let to = unsafe { out.buckets.row(index * group + member) };
                biases.reduce(queries - 1, job.keys.start, gradient, to);
            }
        }
    }
}
