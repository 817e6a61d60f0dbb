use lmrs_kernels::attention::KvType;
use lmrs_kernels::team;
use proptest::prelude::*;

use super::{Case, Data, cases, each_level, naive, run, stored};
use crate::{assert_close, values};

proptest! {
    #![proptest_config(lmrs_testing::cases(60))]

    #[test]
    fn forward_is_softmax(case in cases(150, &[8, 12, 16, 32, 64, 80, 128], false)) {
        let data = case.data();
        let dim = case.spec.head_dim;
        let kept = |k: Vec<f64>, v: Vec<f64>| naive(&case, &Data { k, v, ..data.clone() });
        let (want, _) = kept(stored(case.kind, &data.k, dim), stored(case.kind, &data.v, dim));
        let (out64, _) = run(&case, &data, usize::MAX / 2);
        prop_assert!(out64.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12));
        let narrow = data.single();
        let (want, lse) = kept(stored(case.kind, &narrow.k, dim), stored(case.kind, &narrow.v, dim));
        let data = narrow;
        each_level(|level| {
            let (out, sums) = run(&case, &data, usize::MAX / 2);
            assert_close(&out, &want, 3e-6, &format!("{level:?}"));
            let seen = |v: &&f64| v.is_finite();
            assert_close(
                &sums.iter().copied().filter(|s| s.is_finite()).collect::<Vec<_>>(),
                &lse.iter().filter(seen).copied().collect::<Vec<_>>(),
                3e-6,
                &format!("{level:?} log-sum-exp"),
            );
        });
    }

    #[test]
    fn steps_company_and_threads_change_no_bit(case in cases(150, &[8, 20, 64], false), chunk in 1_usize..70) {
        let data = case.data().single();
        let (width, kv_width) = case.widths();
        each_level(|level| {
            let whole = run(&case, &data, usize::MAX / 2);
            assert_eq!(run(&case, &data, chunk), whole, "{level:?} in steps of {chunk}");
            // Enough threads to share out one sequence by spans of its keys.
            for threads in [1, 3, 32] {
                let other = team::with_threads(threads, || run(&case, &data, usize::MAX / 2));
                assert_eq!(other, whole, "{level:?} {threads} threads");
            }
            // What dropout leaves out depends on where in the batch a row is.
            if case.spec.dropout.is_some() {
                return;
            }
            let (mut row, mut key) = (0, 0);
            for &(queries, keys) in &case.lengths {
                let alone = Case { lengths: vec![(queries, keys)], ..case.clone() };
                let part = Data {
                    q: data.q[row * width..(row + queries) * width].to_vec(),
                    k: data.k[key * kv_width..(key + keys) * kv_width].to_vec(),
                    v: data.v[key * kv_width..(key + keys) * kv_width].to_vec(),
                    table: data.table.clone(),
                    prefix: data.prefix.clone(),
                };
                assert_eq!(run(&alone, &part, 50).0, whole.0[row * width..(row + queries) * width], "{level:?} alone");
                row += queries;
                key += keys;
            }
        });
    }

    /// With every key off by at most `δ/(2·scale·Σ|q|)`, a score is off by at most `δ/2`, a weight by a factor of at most
    /// `exp δ`, and the result by `max |Δv| + (exp δ − 1)·max |v|`.
    #[test]
    fn what_is_stored_narrow_is_off_by_no_more_than_its_rounding(
        case in cases(100, &[16, 64], false),
        kind in prop::sample::select(vec![KvType::Bf16, KvType::Int8]),
    ) {
        let case = Case { kind, ..case };
        let data = case.data();
        let (want, _) = naive(&case, &data);
        let (out, _) = run(&case, &data.single(), usize::MAX / 2);
        let largest = |x: &[f64]| x.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let off = |x: &[f64]| largest(x) * match kind {
            KvType::Exact => 0.0,
            KvType::Bf16 => 1.0 / 256.0,
            KvType::Int8 => 1.0 / 254.0,
        };
        let reach = data.q.chunks_exact(case.spec.head_dim).map(|q| q.iter().map(|x| x.abs()).sum());
        let delta = 2.0 * case.spec.scale * reach.fold(0.0, f64::max) * off(&data.k);
        let prefix = data.prefix.as_ref().map_or(0.0, |(_, v)| largest(v));
        let bound = off(&data.v) + delta.exp_m1() * largest(&data.v).max(prefix) + 1e-5;
        let error = out.iter().zip(&want).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        prop_assert!(error <= bound, "{kind:?}: {error} > {bound}");
    }

    /// NaN and ±∞ in keys and values reach the queries that see them and change no bit of the others.
    #[test]
    fn what_is_not_seen_does_not_matter(
        case in cases(60, &[8, 20, 64], false),
        at in any::<prop::sample::Index>(),
        bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        values in any::<bool>(),
    ) {
        let case = Case { spec: lmrs_kernels::attention::Spec { causal: true, ..case.spec }, ..case };
        let lengths: Vec<_> = case.lengths.iter().map(|&(q, k)| (q, k.max(q))).collect();
        let case = Case { lengths, ..case };
        prop_assume!(case.keys() > 0);
        let data = case.data().single();
        let (width, kv_width) = case.widths();
        let key = at.index(case.keys());
        let mut poisoned = data.clone();
        let rows = if values { &mut poisoned.v } else { &mut poisoned.k };
        rows[key * kv_width..(key + 1) * kv_width].fill(bad);
        each_level(|level| {
            let (clean, _) = run(&case, &data, usize::MAX / 2);
            let (out, _) = run(&case, &poisoned, usize::MAX / 2);
            assert_eq!(
                run(&case, &poisoned, 7).0.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                out.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            );
            let (mut row, mut first) = (0, 0);
            for &(queries, keys) in &case.lengths {
                for number in keys - queries..keys {
                    let seen = (first..first + number + 1).contains(&key)
                        && case.spec.window.is_none_or(|w| key - first + w > number);
                    let range = row * width..(row + 1) * width;
                    if seen {
                        assert!(!values || out[range].iter().any(|x| !x.is_finite()), "{level:?}");
                    } else {
                        assert_eq!(out[range.clone()], clean[range], "{level:?} row {row}, key {key}");
                    }
                    row += 1;
                }
                first += keys;
            }
        });
    }
}

/// A bias of −∞ hides a key; a query from which all are hidden gets zeros, and −∞ for its log-sum-exp.
#[test]
fn a_bias_may_hide_every_key() {
    use lmrs_kernels::attention::{Relative, Spec};
    let spec = Spec {
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        scale: 1.0,
        causal: true,
        window: None,
        softcap: None,
        relative: Some(Relative {
            buckets: 8,
            max_distance: 20,
            bidirectional: false,
        }),
        alibi: None,
        dropout: None,
    };
    let case = Case {
        spec,
        kind: KvType::Exact,
        lengths: vec![(300, 300)],
        prefix: 0,
        seed: 3,
    };
    let mut data = case.data();
    let mut table = values(16, 1);
    // The first head sees nothing at all, the second nothing nearer than four tokens.
    table
        .iter_mut()
        .step_by(2)
        .for_each(|b| *b = f64::NEG_INFINITY);
    table[..8].fill(f64::NEG_INFINITY);
    data.table = Some(table);
    let (want, want_lse) = naive(&case, &data);
    let want: Vec<f64> = want
        .iter()
        .map(|x| if x.is_nan() { 0.0 } else { *x })
        .collect();
    let data = data.single();
    each_level(|level| {
        let (out, lse) = run(&case, &data, 41);
        assert_close(&out, &want, 3e-6, &format!("{level:?}"));
        for (got, want) in lse.iter().zip(&want_lse) {
            let hidden = want.is_nan() || *want == f64::NEG_INFINITY;
            assert_eq!(*got == f32::NEG_INFINITY, hidden, "{level:?}");
        }
    });
}
