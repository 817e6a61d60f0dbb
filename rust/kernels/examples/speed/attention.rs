//! Attention: whole sequences forward and backward, and one token against a cache.

use lmrs_kernels::attention::{
    Gradients, KvStore, KvType, Saved, Sequence, Spec, backward, forward,
};
use lmrs_kernels::linear::{Epilogue, Packed, matmul};
use lmrs_kernels::softmax::{exp_scaled, log_sum_exp};
use lmrs_kernels::{Rows, RowsMut, team};

use crate::{Report, values};

pub fn report(report: &Report) {
    prefill(report);
    beside_unfused(report);
    decode(report);
}

/// The same attention with the whole matrix of scores of a head at a time: two products and a softmax.
fn unfused(spec: &Spec, [q, k, v]: [Rows<f32>; 3], scores: &mut [f32], mut out: RowsMut<f32>) {
    let (tokens, dim) = (q.rows(), spec.head_dim);
    let plain = Epilogue::default();
    for head in 0..spec.heads {
        let columns = head * dim..(head + 1) * dim;
        let keys = Packed::new(k.columns(columns.clone()));
        let to = RowsMut::new(scores, tokens, tokens);
        matmul(q.columns(columns.clone()), &keys, to, &plain);
        team::for_rows(
            RowsMut::new(scores, tokens, tokens),
            16,
            |first, mut rows| {
                for i in 0..rows.rows() {
                    let (seen, rest) = rows.row_mut(i).split_at_mut(first + i + 1);
                    for score in seen.iter_mut() {
                        *score *= spec.scale as f32;
                    }
                    let sum = log_sum_exp(seen);
                    exp_scaled(seen, sum as f32, 1.0);
                    rest.fill(0.0);
                }
            },
        );
        let values = Packed::transposed(v.columns(columns.clone()));
        let to = out.reborrow().columns(columns);
        matmul(Rows::new(scores, tokens, tokens), &values, to, &plain);
    }
}

/// Causal attention of every length, and what it is to beat.
fn beside_unfused(report: &Report) {
    let (heads, dim) = (12, 64);
    for tokens in [8, 16, 32, 64, 128, 256, 512, 1024, 2048] {
        let spec = spec(heads, heads, dim, true);
        let width = heads * dim;
        let (q, k, v) = (
            values(tokens * width),
            values(tokens * width),
            values(tokens * width),
        );
        let rows = [&q, &k, &v].map(|x| Rows::new(x, tokens, width));
        let (mut out, mut scores) = (vec![0.0; tokens * width], vec![0.0; tokens * tokens]);
        let work = 2 * tokens * tokens * width;
        report.flops(&format!("attention {tokens} causal fused"), work, || {
            let mut store = KvStore::new(heads, dim, KvType::Exact);
            store.append(rows[1], rows[2]);
            let sequence = Sequence {
                rows: 0..tokens,
                store: &store,
                first: 0,
            };
            let to = RowsMut::new(&mut out, tokens, width);
            forward(&spec, rows[0], &[sequence], None, None, to, None);
        });
        report.flops(&format!("attention {tokens} causal unfused"), work, || {
            unfused(
                &spec,
                rows,
                &mut scores,
                RowsMut::new(&mut out, tokens, width),
            );
        });
    }
}

fn spec(heads: usize, kv_heads: usize, head_dim: usize, causal: bool) -> Spec {
    Spec {
        heads,
        kv_heads,
        head_dim,
        scale: 0.125,
        causal,
        window: None,
        softcap: None,
        relative: None,
        alibi: None,
        dropout: None,
    }
}

fn prefill(report: &Report) {
    for (heads, kv_heads, dim, tokens, sequences, causal) in [
        (9, 3, 64, 256, 4, true),
        (9, 3, 64, 1024, 1, true),
        (12, 12, 32, 128, 8, false),
        (12, 12, 64, 512, 1, true),
        (12, 12, 64, 512, 1, false),
        (12, 12, 64, 2048, 1, true),
        (12, 12, 64, 2048, 1, false),
    ] {
        let spec = spec(heads, kv_heads, dim, causal);
        let (rows, width, kv) = (tokens * sequences, heads * dim, kv_heads * dim);
        let (q, k, v) = (values(rows * width), values(rows * kv), values(rows * kv));
        let (q, k, v) = (
            Rows::new(&q, rows, width),
            Rows::new(&k, rows, kv),
            Rows::new(&v, rows, kv),
        );
        let starts: Vec<usize> = (0..=sequences).map(|s| s * tokens).collect();
        let (mut out, mut lse) = (vec![0.0; rows * width], vec![0.0; rows * heads]);
        let kind = if causal { "causal" } else { "full" };
        let name = format!("{sequences}x{tokens} {heads}/{kv_heads}x{dim} {kind}");
        let mut work = 4 * sequences * tokens * tokens * width;
        if causal {
            work /= 2;
        }
        let mut run = || {
            let stores: Vec<_> = starts
                .windows(2)
                .map(|s| {
                    let mut store = KvStore::new(kv_heads, dim, KvType::Exact);
                    store.append(k.slice(s[0]..s[1]), v.slice(s[0]..s[1]));
                    store
                })
                .collect();
            let sequences: Vec<_> = stores
                .iter()
                .zip(starts.windows(2))
                .map(|(store, s)| Sequence {
                    rows: s[0]..s[1],
                    store,
                    first: 0,
                })
                .collect();
            let to = RowsMut::new(&mut out, rows, width);
            forward(&spec, q, &sequences, None, None, to, Some(&mut lse));
        };
        report.flops(&format!("attention {name}"), work, &mut run);
        run();
        let (mut dq, mut dk, mut dv) = (
            vec![0.0; rows * width],
            vec![0.0; rows * kv],
            vec![0.0; rows * kv],
        );
        report.flops(&format!("attention backward {name}"), work * 5 / 2, || {
            let saved = Saved {
                q,
                k,
                v,
                queries: &starts,
                keys: &starts,
                table: None,
                prefix: None,
                out: Rows::new(&out, rows, width),
                lse: &lse,
            };
            let mut grads = Gradients {
                q: RowsMut::new(&mut dq, rows, width),
                k: RowsMut::new(&mut dk, rows, kv),
                v: RowsMut::new(&mut dv, rows, kv),
                table: None,
                prefix: None,
            };
            backward(&spec, &saved, q, &mut grads);
        });
    }
}

/// One token against many: keys and values of as many layers as exceed the caches, each read once.
fn decode(report: &Report) {
    let dim = 64;
    for (tokens, heads, kv_heads, kind) in [
        (2048, 12, 12, KvType::Exact),
        (2048, 12, 12, KvType::Bf16),
        (2048, 12, 12, KvType::Int8),
        (2048, 9, 3, KvType::Exact),
        (32768, 9, 3, KvType::Exact),
        (32768, 8, 1, KvType::Exact),
        (32768, 8, 1, KvType::Int8),
    ] {
        let name = format!("attention decode {kind:?} {tokens} {heads}/{kv_heads}x{dim}");
        if !report.wants(&name) {
            continue;
        }
        let spec = spec(heads, kv_heads, dim, true);
        let (width, kv) = (heads * dim, kv_heads * dim);
        let (keys, q, mut out) = (values(tokens * kv), values(width), vec![0.0; width]);
        let keys = Rows::new(&keys, tokens, kv);
        let mut stores: Vec<KvStore<f32>> = Vec::new();
        while stores.iter().map(KvStore::bytes).sum::<usize>() < 160 << 20 {
            let mut store = KvStore::new(kv_heads, dim, kind);
            store.append(keys, keys);
            stores.push(store);
        }
        let bytes = stores.iter().map(KvStore::bytes).sum();
        report.bytes(&name, bytes, || {
            for store in &stores {
                let sequence = Sequence {
                    rows: 0..1,
                    store,
                    first: tokens - 1,
                };
                let q = Rows::new(&q, 1, width);
                let to = RowsMut::new(&mut out, 1, width);
                forward(&spec, q, &[sequence], None, None, to, None);
            }
        });
    }
}
