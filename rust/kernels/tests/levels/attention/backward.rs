use lmrs_kernels::attention::{Gradients, Prefix, Saved, backward};
use lmrs_kernels::{Real, Rows, RowsMut, team};
use proptest::prelude::*;

use super::{Case, Data, cases, each_level, naive, run};
use crate::{assert_close, assert_gradient, dot, single, values};

#[derive(Debug, PartialEq)]
struct Grads<F> {
    q: Vec<F>,
    k: Vec<F>,
    v: Vec<F>,
    table: Vec<F>,
    prefix: (Vec<F>, Vec<F>),
}

fn gradients<F: Real>(case: &Case, data: &Data<F>, dout: &[F]) -> Grads<F> {
    let (width, kv_width) = case.widths();
    let (rows, keys) = (case.queries(), case.keys());
    let (out, lse) = run(case, data, usize::MAX / 2);
    let starts = |pick: fn(&(usize, usize)) -> usize| -> Vec<usize> {
        let mut at = 0;
        std::iter::once(0)
            .chain(case.lengths.iter().map(|l| {
                at += pick(l);
                at
            }))
            .collect()
    };
    let (query_starts, key_starts) = (starts(|l| l.0), starts(|l| l.1));
    let nan = |n: usize| vec![F::of(f64::NAN); n];
    let mut g = Grads {
        q: nan(rows * width),
        k: nan(keys * kv_width),
        v: nan(keys * kv_width),
        table: nan(data.table.as_ref().map_or(0, Vec::len)),
        prefix: (nan(case.prefix * kv_width), nan(case.prefix * kv_width)),
    };
    let saved = Saved {
        q: Rows::new(&data.q, rows, width),
        k: Rows::new(&data.k, keys, kv_width),
        v: Rows::new(&data.v, keys, kv_width),
        queries: &query_starts,
        keys: &key_starts,
        table: data.table.as_deref(),
        prefix: data.prefix.as_ref().map(|(k, v)| Prefix {
            keys: Rows::new(k, case.prefix, kv_width),
            values: Rows::new(v, case.prefix, kv_width),
        }),
        out: Rows::new(&out, rows, width),
        lse: &lse,
    };
    let mut into = Gradients {
        q: RowsMut::new(&mut g.q, rows, width),
        k: RowsMut::new(&mut g.k, keys, kv_width),
        v: RowsMut::new(&mut g.v, keys, kv_width),
        table: data.table.is_some().then_some(&mut g.table[..]),
        prefix: data.prefix.is_some().then_some((
            RowsMut::new(&mut g.prefix.0, case.prefix, kv_width),
            RowsMut::new(&mut g.prefix.1, case.prefix, kv_width),
        )),
    };
    backward(&case.spec, &saved, Rows::new(dout, rows, width), &mut into);
    g
}

proptest! {
    #![proptest_config(lmrs_testing::cases(60))]

    #[test]
    fn backward_is_the_derivative(case in cases(7, &[1, 3], true)) {
        let data = case.data();
        let dout = values(case.queries() * case.widths().0, case.seed + 9);
        let g = gradients(&case, &data, &dout);
        let loss = |data: &Data<f64>| dot(&naive(&case, data).0, &dout);
        let with = |change: &dyn Fn(&mut Data<f64>)| {
            let mut data = case.data();
            change(&mut data);
            loss(&data)
        };
        assert_gradient(|q| with(&|d| d.q = q.to_vec()), &data.q, &g.q, "dq");
        assert_gradient(|k| with(&|d| d.k = k.to_vec()), &data.k, &g.k, "dk");
        assert_gradient(|v| with(&|d| d.v = v.to_vec()), &data.v, &g.v, "dv");
        if let Some(table) = &data.table {
            assert_gradient(|t| with(&|d| d.table = Some(t.to_vec())), table, &g.table, "dtable");
        }
        if let Some((k, v)) = &data.prefix {
            assert_gradient(|k| with(&|d| d.prefix = Some((k.to_vec(), v.clone()))), k, &g.prefix.0, "dprefix k");
            assert_gradient(|v| with(&|d| d.prefix = Some((k.clone(), v.to_vec()))), v, &g.prefix.1, "dprefix v");
        }
    }

    #[test]
    fn backward_at_every_level(case in cases(150, &[8, 20, 64], true)) {
        let data = case.data();
        let dout = values(case.queries() * case.widths().0, case.seed + 9);
        let want = gradients(&case, &data, &dout);
        let (data, dout) = (data.single(), single(&dout));
        each_level(|level| {
            let g = gradients(&case, &data, &dout);
            let what = |name: &str| format!("{level:?} {name}");
            assert_close(&g.q, &want.q, 2e-5, &what("dq"));
            assert_close(&g.k, &want.k, 2e-5, &what("dk"));
            assert_close(&g.v, &want.v, 2e-5, &what("dv"));
            // Sums over every query and head.
            assert_close(&g.table, &want.table, 1e-4, &what("dtable"));
            assert_close(&g.prefix.0, &want.prefix.0, 1e-4, &what("dprefix k"));
            assert_close(&g.prefix.1, &want.prefix.1, 1e-4, &what("dprefix v"));
            for threads in [1, 2, 8] {
                let other = team::with_threads(threads, || gradients(&case, &data, &dout));
                assert_eq!(other, g, "{level:?} {threads} threads");
            }
        });
    }

    /// A query that sees nothing bad has the gradient it has without it.
    #[test]
    fn what_is_not_seen_has_no_gradient(
        case in cases(100, &[8, 20], true),
        at in any::<prop::sample::Index>(),
        bad in prop::sample::select(vec![f32::NAN, f32::INFINITY]),
        values_too in any::<bool>(),
    ) {
        let spec = lmrs_kernels::attention::Spec { causal: true, ..case.spec };
        let lengths: Vec<_> = case.lengths.iter().map(|&(q, _)| (q, q)).collect();
        let case = Case { spec, lengths, ..case };
        prop_assume!(case.keys() > 0);
        let data = case.data().single();
        let dout = single(&values(case.queries() * case.widths().0, case.seed + 9));
        let (width, kv_width) = case.widths();
        let key = at.index(case.keys());
        let mut poisoned = data.clone();
        let rows = if values_too { &mut poisoned.v } else { &mut poisoned.k };
        rows[key * kv_width..(key + 1) * kv_width].fill(bad);
        each_level(|level| {
            let clean = gradients(&case, &data, &dout);
            let g = gradients(&case, &poisoned, &dout);
            let mut first = 0;
            for &(queries, _) in &case.lengths {
                for row in first..first + queries {
                    let seen = (first..=row).contains(&key)
                        && case.spec.window.is_none_or(|w| key + w > row);
                    if !seen {
                        let range = row * width..(row + 1) * width;
                        assert_eq!(g.q[range.clone()], clean.q[range], "{level:?} row {row}, key {key}");
                    }
                }
                first += queries;
            }
        });
    }
}
