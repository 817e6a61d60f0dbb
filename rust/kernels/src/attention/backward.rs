//! The backward pass: probabilities are computed again from the log-sum-exp.

use super::forward::dot;
use super::{Prefix, Spec};
use crate::{Real, Rows, RowsMut};

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
/// `dk = dsᵀ·q` (Dao 2022).
///
/// # Panics
/// If the shapes disagree.
pub fn backward<F: Real>(spec: &Spec, saved: &Saved<F>, dout: Rows<F>, grads: &mut Gradients<F>) {
    let Saved {
        q,
        k,
        v,
        table,
        prefix,
        ..
    } = *saved;
    let (dim, ahead) = (spec.head_dim, prefix.map_or(0, |p| p.keys.rows()));
    assert_eq!(prefix.is_some(), grads.prefix.is_some());
    zero(&mut grads.q);
    zero(&mut grads.k);
    zero(&mut grads.v);
    if let Some(table) = grads.table.as_deref_mut() {
        table.fill(F::ZERO);
    }
    if let Some((pk, pv)) = &mut grads.prefix {
        zero(pk);
        zero(pv);
    }
    for (rows, owned) in saved.queries.windows(2).zip(saved.keys.windows(2)) {
        for row in rows[0]..rows[1] {
            let query = row - rows[0];
            let seen = spec.seen(query, owned[1] - owned[0]);
            for head in 0..spec.heads {
                let kv = spec.kv_head(head);
                let (mine, theirs) = (head * dim..(head + 1) * dim, kv * dim..(kv + 1) * dim);
                let (x, dy) = (&q.row(row)[mine.clone()], &dout.row(row)[mine.clone()]);
                let delta = dot(dy, &saved.out.row(row)[mine.clone()]);
                let lse = saved.lse[row * spec.heads + head];
                for at in 0..ahead + seen.len() {
                    let (key_row, keys, values, dkeys, dvalues) = match (prefix, &mut grads.prefix)
                    {
                        (Some(prefix), Some((dk, dv))) if at < ahead => {
                            (at, prefix.keys, prefix.values, dk, dv)
                        }
                        _ => (
                            owned[0] + seen.start + at - ahead,
                            k,
                            v,
                            &mut grads.k,
                            &mut grads.v,
                        ),
                    };
                    let (key, value) = (
                        &keys.row(key_row)[theirs.clone()],
                        &values.row(key_row)[theirs.clone()],
                    );
                    let (mut score, slope) = spec.score(dot(x, key));
                    let entry = (at >= ahead).then(|| seen.start + at - ahead);
                    let entry = entry.and_then(|key| spec.entry(table, head, query, key));
                    if let (Some(at), Some(table)) = (entry, table) {
                        score += table[at];
                    }
                    let p = (score - lse).exp();
                    let ds = p * (dot(dy, value) - delta);
                    if let (Some(at), Some(table)) = (entry, grads.table.as_deref_mut()) {
                        table[at] += ds;
                    }
                    let raw = ds * slope;
                    accumulate(&mut dvalues.row_mut(key_row)[theirs.clone()], p, dy);
                    accumulate(&mut dkeys.row_mut(key_row)[theirs.clone()], raw, x);
                    accumulate(&mut grads.q.row_mut(row)[mine.clone()], raw, key);
                }
            }
        }
    }
}

fn zero<F: Real>(rows: &mut RowsMut<F>) {
    for i in 0..rows.rows() {
        rows.row_mut(i).fill(F::ZERO);
    }
}

fn accumulate<F: Real>(to: &mut [F], by: F, x: &[F]) {
    to.iter_mut().zip(x).for_each(|(to, &x)| *to += by * x);
}
