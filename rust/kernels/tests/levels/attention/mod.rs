//! Attention against the whole matrix of scores.

mod backward;
mod forward;
mod store;

use half::bf16;
use lmrs_kernels::attention::{
    Dropout, KvStore, KvType, Prefix, Relative, Sequence, Spec, forward,
};
use lmrs_kernels::dropout::Key;
use lmrs_kernels::{Level, Real, Rows, RowsMut};
use proptest::prelude::*;

use crate::{dot, single, values};

/// Calls `body` once for every width of vectors: dot products make no difference here.
fn each_level(mut body: impl FnMut(Level)) {
    crate::each_level(|level| {
        if level == level.vectors() {
            body(level);
        }
    });
}

/// One batch: sequences of (queries, keys), with keys at least as many as queries when causal.
#[derive(Clone, Debug)]
struct Case {
    spec: Spec,
    kind: KvType,
    lengths: Vec<(usize, usize)>,
    prefix: usize,
    seed: u64,
}

#[derive(Clone)]
struct Data<F> {
    q: Vec<F>,
    k: Vec<F>,
    v: Vec<F>,
    table: Option<Vec<F>>,
    prefix: Option<(Vec<F>, Vec<F>)>,
}

impl Case {
    fn queries(&self) -> usize {
        self.lengths.iter().map(|l| l.0).sum()
    }

    fn keys(&self) -> usize {
        self.lengths.iter().map(|l| l.1).sum()
    }

    fn widths(&self) -> (usize, usize) {
        (
            self.spec.heads * self.spec.head_dim,
            self.spec.kv_heads * self.spec.head_dim,
        )
    }

    fn data(&self) -> Data<f64> {
        let (width, kv) = self.widths();
        let table = self
            .spec
            .relative
            .map(|r| values(r.buckets * self.spec.heads, self.seed + 3));
        let prefix = |seed| values(self.prefix * kv, self.seed + seed);
        Data {
            q: values(self.queries() * width, self.seed)
                .iter()
                .map(|v| v * 3.0)
                .collect(),
            k: values(self.keys() * kv, self.seed + 1),
            v: values(self.keys() * kv, self.seed + 2),
            table,
            prefix: (self.prefix > 0).then(|| (prefix(4), prefix(5))),
        }
    }
}

impl Data<f64> {
    fn single(&self) -> Data<f32> {
        Data {
            q: single(&self.q),
            k: single(&self.k),
            v: single(&self.v),
            table: self.table.as_deref().map(single),
            prefix: self.prefix.as_ref().map(|(k, v)| (single(k), single(v))),
        }
    }
}

/// The whole matrix of scores, one query at a time. Every sequence's queries are its last tokens when causal.
fn naive(case: &Case, data: &Data<f64>) -> (Vec<f64>, Vec<f64>) {
    let Spec {
        heads,
        kv_heads,
        head_dim,
        ..
    } = case.spec;
    let (width, kv_width) = case.widths();
    let (mut out, mut lse) = (
        vec![0.0; case.queries() * width],
        vec![f64::NEG_INFINITY; case.queries() * heads],
    );
    let (mut row, mut first) = (0, 0);
    for &(queries, keys) in &case.lengths {
        for i in 0..queries {
            let number = if case.spec.causal {
                keys - queries + i
            } else {
                i
            };
            for head in 0..heads {
                let kv = head / (heads / kv_heads) * head_dim;
                let q = &data.q[row * width + head * head_dim..][..head_dim];
                let score = |key: &[f64]| {
                    let raw = dot(q, key) * case.spec.scale;
                    case.spec
                        .softcap
                        .map_or(raw, |cap| cap * (raw / cap).tanh())
                };
                let mut seen: Vec<(f64, &[f64], usize)> = Vec::new();
                if let Some((k, v)) = &data.prefix {
                    for p in 0..case.prefix {
                        let at = p * kv_width + kv;
                        seen.push((score(&k[at..at + head_dim]), &v[at..at + head_dim], p));
                    }
                }
                for key in 0..keys {
                    let late = case.spec.causal && key > number;
                    let far = |w: usize| key.abs_diff(number) >= w;
                    if late || case.spec.window.is_some_and(far) {
                        continue;
                    }
                    let at = (first + key) * kv_width + kv;
                    let mut bias = match (&data.table, case.spec.relative) {
                        (Some(table), Some(r)) => {
                            table[r.bucket(key as i64 - number as i64) * heads + head]
                        }
                        _ => 0.0,
                    };
                    if let Some(slopes) = &case.spec.alibi {
                        bias -= slopes[head] * key.abs_diff(number) as f64;
                    }
                    seen.push((
                        score(&data.k[at..at + head_dim]) + bias,
                        &data.v[at..at + head_dim],
                        case.prefix + key,
                    ));
                }
                let max = seen.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = seen.iter().map(|s| (s.0 - max).exp()).sum();
                for (score, value, number) in &seen {
                    let mut factor = [1.0];
                    if let Some(dropout) = case.spec.dropout {
                        dropout.factors(row * heads + head, *number, &mut factor);
                    }
                    for d in 0..head_dim {
                        out[row * width + head * head_dim + d] +=
                            (score - max).exp() / total * factor[0] * value[d];
                    }
                }
                if !seen.is_empty() {
                    lse[row * heads + head] = max + total.ln();
                }
            }
            row += 1;
        }
        first += keys;
    }
    (out, lse)
}

/// Rows of keys or values as a store of `kind` holds them, of heads of width `dim`.
fn stored<F: Real>(kind: KvType, rows: &[F], dim: usize) -> Vec<f64> {
    let head = |head: &[F]| -> Vec<f64> {
        let largest = head.iter().fold(0.0, |m, x| x.to_f64().abs().max(m));
        let (scale, inverse) = (F::of(largest) / F::of(127.0), F::of(127.0) / F::of(largest));
        head.iter()
            .map(|&x| match kind {
                KvType::Exact => x.to_f64(),
                KvType::Bf16 => bf16::from_f32(x.to_f64() as f32).to_f64(),
                KvType::Int8 if largest == 0.0 => 0.0,
                KvType::Int8 => {
                    f64::from(((x * inverse).to_f64() as f32).round_ties_even()) * scale.to_f64()
                }
            })
            .collect()
    };
    rows.chunks_exact(dim).flat_map(head).collect()
}

/// The kernel, with the keys appended in steps of `chunk` and the queries of each step asked at once.
fn run<F: Real>(case: &Case, data: &Data<F>, chunk: usize) -> (Vec<F>, Vec<F>) {
    let (width, kv_width) = case.widths();
    let rows = case.queries();
    let (mut out, mut lse) = (
        vec![F::ZERO; rows * width],
        vec![F::ZERO; rows * case.spec.heads],
    );
    let prefix = data.prefix.as_ref().map(|(k, v)| Prefix {
        keys: Rows::new(k, case.prefix, kv_width),
        values: Rows::new(v, case.prefix, kv_width),
    });
    let (k, v) = (
        Rows::new(&data.k, case.keys(), kv_width),
        Rows::new(&data.v, case.keys(), kv_width),
    );
    let mut stores: Vec<_> = case
        .lengths
        .iter()
        .map(|_| KvStore::new(case.spec.kv_heads, case.spec.head_dim, case.kind))
        .collect();
    let longest = case.lengths.iter().map(|l| l.0).max().unwrap_or(0);
    for step in (0..longest).step_by(chunk) {
        let (mut row, mut first, mut parts) = (0, 0, Vec::new());
        for (store, &(queries, keys)) in stores.iter_mut().zip(&case.lengths) {
            let mine = step.min(queries)..(step + chunk).min(queries);
            let number = if case.spec.causal {
                keys - queries + mine.start
            } else {
                mine.start
            };
            let end = if case.spec.causal {
                keys - queries + mine.end
            } else {
                keys
            };
            let new = first + store.len()..first + end;
            store.append(k.slice(new.clone()), v.slice(new));
            parts.push((row + mine.start..row + mine.end, number));
            row += queries;
            first += keys;
        }
        let sequences: Vec<_> = stores
            .iter()
            .zip(parts)
            .map(|(store, (rows, first))| Sequence { rows, store, first })
            .collect();
        forward(
            &case.spec,
            Rows::new(&data.q, rows, width),
            &sequences,
            data.table.as_deref(),
            prefix,
            RowsMut::new(&mut out, rows, width),
            Some(&mut lse),
        );
    }
    (out, lse)
}

/// Cases with up to `longest` queries and keys a sequence; `training` has as many keys as queries when causal.
fn cases(longest: usize, widths: &'static [usize], training: bool) -> impl Strategy<Value = Case> {
    // Some contexts are longer than the spans of keys that are summed by themselves.
    let far = if longest > 100 { 240..560 } else { 0..longest };
    let keys = prop_oneof![3 => 0..longest, 1 => far];
    let spec = (
        1_usize..4,
        prop_oneof![8 => 1_usize..4, 1 => Just(7_usize), 1 => Just(26_usize)],
        prop::sample::select(widths),
        any::<bool>(),
        prop::option::of(1_usize..80),
        prop::option::of(Just(5.0)),
        prop::option::of(any::<bool>()),
        prop::option::of(0.01..0.5),
        prop::option::weighted(0.2, 0.05..0.9),
    );
    let kind = prop::sample::select(if training {
        vec![KvType::Exact]
    } else {
        vec![KvType::Exact, KvType::Bf16, KvType::Int8]
    });
    let batch = (
        prop::collection::vec((0..longest, keys), 0..4),
        0_usize..4,
        0_u64..1 << 40,
    );
    (spec, batch, kind).prop_map(
        move |(
            (kv_heads, group, head_dim, causal, window, softcap, relative, slope, rate),
            (lengths, prefix, seed),
            kind,
        )| {
            let lengths = lengths
                .into_iter()
                .map(|(queries, more)| match (causal, training) {
                    (true, true) => (queries, queries),
                    (true, false) => (queries, queries + more),
                    (false, _) => (queries, more),
                });
            let relative = relative.map(|bidirectional| Relative {
                buckets: 8,
                max_distance: 20,
                bidirectional,
            });
            // What the naive loops can do in a moment.
            let (kv_heads, head_dim) = if group > 3 {
                (1, head_dim.min(8))
            } else {
                (kv_heads, head_dim)
            };
            let spec = Spec {
                heads: kv_heads * group,
                kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f64).sqrt(),
                causal,
                window,
                softcap,
                relative,
                alibi: slope.map(|slope| {
                    (0..kv_heads * group)
                        .map(|h| slope / (1 + h) as f64)
                        .collect()
                }),
                dropout: rate.map(|rate| Dropout {
                    rate,
                    key: Key {
                        seed,
                        step: 3,
                        site: 7,
                    },
                }),
            };
            Case {
                spec,
                kind,
                lengths: lengths.collect(),
                prefix,
                seed,
            }
        },
    )
}
