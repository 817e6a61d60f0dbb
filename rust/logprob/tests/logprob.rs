//! Against plain 64-bit loops, at every instruction set, and bit for bit where that is promised.

use lmrs_kernels::linear::{Compute, Packed, Weight};
use lmrs_kernels::simd::with_level;
use lmrs_kernels::softmax::softcap;
use lmrs_kernels::{Level, Real, Rows, RowsMut, team};
use lmrs_logprob::{Gradients, Head};
use proptest::prelude::*;

fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f64::from((state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0)
    };
    (0..n).map(|_| next()).collect()
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    width: usize,
    vocabulary: usize,
    labels: Vec<i32>,
    bias: bool,
    softcap: Option<f64>,
    seed: u64,
}

impl Case {
    fn x(&self) -> Vec<f64> {
        values(self.rows * self.width, self.seed)
            .iter()
            .map(|v| v * 4.0)
            .collect()
    }

    fn weight(&self) -> Vec<f64> {
        values(self.vocabulary * self.width, self.seed + 1)
    }

    fn biases(&self) -> Option<Vec<f64>> {
        self.bias.then(|| values(self.vocabulary, self.seed + 2))
    }
}

fn cases() -> impl Strategy<Value = Case> {
    (
        0_usize..12,
        1_usize..40,
        1_usize..2500,
        any::<bool>(),
        prop::option::of(0.5..20.0),
        0_u64..1 << 40,
    )
        .prop_flat_map(|(rows, width, vocabulary, bias, softcap, seed)| {
            let labels = prop::collection::vec(-1..vocabulary as i32, rows);
            labels.prop_map(move |labels| Case {
                rows,
                width,
                vocabulary,
                labels,
                bias,
                softcap,
                seed,
            })
        })
}

/// The softmax of a row, and how much each logit follows the product.
type Predicted = (Vec<f64>, Vec<f64>);

/// Log-probabilities and what each row predicts.
fn naive(case: &Case) -> (Vec<f64>, Vec<Predicted>) {
    let (x, w, b) = (case.x(), case.weight(), case.biases());
    let row = |t: usize| {
        let logit = |n: usize| {
            let products = (0..case.width).map(|k| x[t * case.width + k] * w[n * case.width + k]);
            products.sum::<f64>() + b.as_ref().map_or(0.0, |b| b[n])
        };
        let raw: Vec<f64> = (0..case.vocabulary).map(logit).collect();
        let (logits, slopes): (Vec<f64>, Vec<f64>) = raw
            .iter()
            .map(|&logit| {
                case.softcap.map_or((logit, 1.0), |cap| {
                    (cap * (logit / cap).tanh(), (logit / cap).cosh().powi(-2))
                })
            })
            .unzip();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
        let label = case.labels[t];
        let logprob = if label < 0 {
            0.0
        } else {
            logits[label as usize] - lse
        };
        let probabilities = logits.iter().map(|l| (l - lse).exp()).collect();
        (logprob, (probabilities, slopes))
    };
    (0..case.rows).map(row).unzip()
}

fn score<F: Real>(case: &Case, x: &[F], weight: &Packed<F>, bias: Option<&[F]>) -> Vec<F> {
    let mut out = vec![F::of(f64::NAN); case.rows];
    Head {
        weight,
        bias,
        softcap: case.softcap,
    }
    .token_logprob(Rows::new(x, case.rows, case.width), &case.labels, &mut out);
    out
}

struct Trained<F> {
    logprobs: Vec<F>,
    x: Vec<F>,
    weight: Vec<F>,
    bias: Vec<F>,
}

fn trained<F: Real>(
    case: &Case,
    x: &[F],
    weight: Weight<F>,
    bias: Option<&[F]>,
    scale: &[F],
) -> Trained<F> {
    let nan = |n: usize| vec![F::of(f64::NAN); n];
    let mut t = Trained {
        logprobs: nan(case.rows),
        x: nan(x.len()),
        weight: nan(case.vocabulary * case.width),
        bias: nan(case.vocabulary),
    };
    let mut grads = Gradients {
        x: Some(RowsMut::new(&mut t.x, case.rows, case.width)),
        weight: Some(RowsMut::new(&mut t.weight, case.vocabulary, case.width)),
        bias: Some(&mut t.bias),
    };
    let head = lmrs_logprob::Trained {
        compute: Compute::F32,
        weight,
        bias,
        softcap: case.softcap,
    };
    let x = Rows::new(x, case.rows, case.width);
    let mut logits = nan(head.room(case.rows));
    head.nll_gradients(
        &mut logits,
        x,
        &case.labels,
        scale,
        &mut t.logprobs,
        &mut grads,
    );
    t
}

/// Both ways through a weight give the same bits.
fn train<F: Real>(case: &Case, x: &[F], w: &[F], bias: Option<&[F]>, scale: &[F]) -> Trained<F> {
    let rows = Rows::new(w, case.vocabulary, case.width);
    let plain = trained(case, x, Weight::Plain(rows), bias, scale);
    let packed = trained(case, x, Weight::Packed(&Packed::new(rows)), bias, scale);
    let bits = |values: &[F]| {
        values
            .iter()
            .map(|v| v.to_f64().to_bits())
            .collect::<Vec<_>>()
    };
    for (plain, packed) in [
        (&plain.logprobs, &packed.logprobs),
        (&plain.x, &packed.x),
        (&plain.weight, &packed.weight),
        (&plain.bias, &packed.bias),
    ] {
        assert_eq!(bits(plain), bits(packed));
    }
    plain
}

fn assert_close<F: Real>(got: &[F], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g.to_f64() - w).abs() / w.abs().max(1.0);
        assert!(error <= bound, "{what}[{i}] is {g:?}, expected {w}");
    }
}

fn each_level(body: impl Fn(Level)) {
    for level in Level::ALL.into_iter().filter(|level| level.available()) {
        with_level(level, || body(level));
    }
}

proptest! {
    #![proptest_config(lmrs_testing::cases(40))]

    #[test]
    fn scoring_and_training(case in cases()) {
        let (want, predicted) = naive(&case);
        let scale = values(case.rows, case.seed + 5);
        let (x, w, b) = (case.x(), case.weight(), case.biases());
        let mut dx = vec![0.0; x.len()];
        let mut dw = vec![0.0; w.len()];
        let mut db = vec![0.0; case.vocabulary];
        for (t, &label) in case.labels.iter().enumerate().filter(|(_, label)| **label >= 0) {
            for n in 0..case.vocabulary {
                let one = f64::from(u8::from(label as usize == n));
                let d = scale[t] * (predicted[t].0[n] - one) * predicted[t].1[n];
                db[n] += d;
                for k in 0..case.width {
                    dx[t * case.width + k] += d * w[n * case.width + k];
                    dw[n * case.width + k] += d * x[t * case.width + k];
                }
            }
        }
        let exact = train(&case, &x, &w, b.as_deref(), &scale);
        assert_close(&exact.logprobs, &want, 1e-12, "f64 log-probs");
        assert_close(&exact.x, &dx, 1e-12, "f64 dx");
        assert_close(&exact.weight, &dw, 1e-12, "f64 dw");
        assert_close(&exact.bias, &db, 1e-12, "f64 db");
        let (x, w, b, scale) = (single(&x), single(&w), b.as_deref().map(single), single(&scale));
        let packed = Packed::new(Rows::new(&w, case.vocabulary, case.width));
        each_level(|level| {
            let scored = score(&case, &x, &packed, b.as_deref());
            assert_close(&scored, &want, 4e-6, &format!("{level:?} log-probs"));
            let trained = train(&case, &x, &w, b.as_deref(), &scale);
            assert_eq!(scored, trained.logprobs, "{level:?}: scoring and training agree bit for bit");
            assert_close(&trained.x, &dx, 2e-5, &format!("{level:?} dx"));
            assert_close(&trained.weight, &dw, 2e-5, &format!("{level:?} dw"));
            assert_close(&trained.bias, &db, 2e-5, &format!("{level:?} db"));
            for row in 0..case.rows {
                let alone = Case { rows: 1, labels: vec![case.labels[row]], ..case.clone() };
                let x = &x[row * case.width..][..case.width];
                assert_eq!(score(&alone, x, &packed, b.as_deref())[0], scored[row], "{level:?} alone");
            }
            assert_eq!(scored, team::with_threads(3, || score(&case, &x, &packed, b.as_deref())));
        });
    }
}

#[test]
fn many_rows_are_taken_in_chunks_of_the_logits_that_fit() {
    let case = Case {
        rows: 300,
        width: 3,
        vocabulary: 17_000,
        labels: (0..300).map(|t| t * 50).collect(),
        bias: false,
        softcap: Some(3.0),
        seed: 1,
    };
    let (x, w) = (single(&case.x()), single(&case.weight()));
    let scale = vec![1.0; case.rows];
    let whole = train(&case, &x, &w, None, &scale);
    assert_eq!(
        whole.logprobs,
        score(&case, &x, &Packed::new(Rows::new(&w, 17_000, 3)), None)
    );
    for row in [0, 255, 256, 299] {
        let alone = Case {
            rows: 1,
            labels: vec![case.labels[row]],
            ..case.clone()
        };
        let one = train(&alone, &x[row * 3..row * 3 + 3], &w, None, &[1.0]);
        assert_eq!(one.x, whole.x[row * 3..row * 3 + 3]);
    }
}

#[test]
fn extreme_logits_stay_finite() {
    let case = Case {
        rows: 1,
        width: 1,
        vocabulary: 300,
        labels: vec![0],
        bias: true,
        softcap: None,
        seed: 3,
    };
    let w = vec![0.0_f32; 300];
    let mut bias = vec![-1e30_f32; 300];
    bias[1] = 1e30;
    let packed = Packed::new(Rows::new(&w, 300, 1));
    each_level(|_| {
        assert_eq!(score(&case, &[1.0], &packed, Some(&bias)), [-2e30]);
        let mut masked = vec![f32::NEG_INFINITY; 300];
        masked[0] = 2.0;
        assert_eq!(score(&case, &[1.0], &packed, Some(&masked)), [0.0]);
    });
}

/// Whole numbers, whose products every level computes exactly, so that ties are ties.
fn whole(n: usize, seed: u64) -> Vec<f32> {
    let rounded = values(n, seed)
        .into_iter()
        .map(|v| (v * 2.5).round() as f32);
    rounded.collect()
}

proptest! {
    #![proptest_config(lmrs_testing::cases(40))]

    #[test]
    fn an_evaluation_is_what_sorting_the_logits_gives(case in cases(), k in 0_usize..9) {
        let k = k.min(case.vocabulary);
        let (x, w) = (whole(case.rows * case.width, case.seed), whole(case.vocabulary * case.width, case.seed + 1));
        let bias = case.bias.then(|| whole(case.vocabulary, case.seed + 2));
        let packed = Packed::new(Rows::new(&w, case.vocabulary, case.width));
        let head = Head { weight: &packed, bias: bias.as_deref(), softcap: case.softcap };
        each_level(|level| {
            let found = head.evaluate(Rows::new(&x, case.rows, case.width), &case.labels, k);
            assert_eq!(found.logprob, score(&case, &x, &packed, bias.as_deref()), "{level:?}: the bits of scoring");
            for (t, &label) in case.labels.iter().enumerate() {
                let top = &found.top[t * k..][..k];
                if label < 0 {
                    assert_eq!((found.rank[t], found.entropy[t], found.log_sum_exp[t]), (0, 0.0, 0.0));
                    assert!(top.iter().all(|&pair| pair == (-1, 0.0)));
                    continue;
                }
                let logit = |n: usize| {
                    let product: f32 = (0..case.width).map(|i| x[t * case.width + i] * w[n * case.width + i]).sum();
                    // With 0 added there is one zero.
                    let mut logit = [product + bias.as_ref().map_or(0.0, |b| b[n])];
                    if let Some(cap) = case.softcap {
                        softcap(&mut logit, cap);
                    }
                    f64::from(logit[0]) + 0.0
                };
                let logits: Vec<f64> = (0..case.vocabulary).map(logit).collect();
                let mut order: Vec<usize> = (0..case.vocabulary).collect();
                order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
                let max = logits[order[0]];
                let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
                let entropy: f64 = logits.iter().map(|l| (lse - l) * (l - lse).exp()).sum();
                let place = order.iter().position(|&n| n == label as usize);
                assert_eq!(found.rank[t] as usize, place.map_or(0, |at| at + 1), "{level:?}");
                let ids: Vec<usize> = top.iter().map(|&(id, _)| id as usize).collect();
                assert_eq!(ids, order[..k], "{level:?}");
                let logprobs: Vec<f32> = top.iter().map(|&(_, logprob)| logprob).collect();
                let want: Vec<f64> = order[..k].iter().map(|&n| logits[n] - lse).collect();
                assert_close(&logprobs, &want, 4e-6, &format!("{level:?} top"));
                assert_close(&[found.log_sum_exp[t]], &[lse], 4e-6, &format!("{level:?} log-sum-exp"));
                assert_close(&[found.entropy[t]], &[entropy], 4e-6, &format!("{level:?} entropy"));
            }
            let threads = team::with_threads(3, || head.evaluate(Rows::new(&x, case.rows, case.width), &case.labels, k));
            assert_eq!(found, threads, "{level:?}");
        });
    }
}

#[test]
fn what_is_not_finite_is_said_and_does_not_spread() {
    let case = Case {
        rows: 3,
        width: 1,
        vocabulary: 2000,
        labels: vec![7, 8, 9],
        bias: true,
        softcap: None,
        seed: 3,
    };
    let mut bias = single(&case.biases().unwrap_or_default());
    // −∞ is a token that never comes; its share of the entropy is 0.
    bias[11] = f32::NEG_INFINITY;
    let weight = single(&case.weight());
    let packed = Packed::new(Rows::new(&weight, case.vocabulary, 1));
    each_level(|level| {
        let head = Head {
            weight: &packed,
            bias: Some(&bias),
            softcap: None,
        };
        let x = [1.0, f32::NAN, 2.0];
        let found = head.evaluate(Rows::new(&x, 3, 1), &case.labels, 2);
        for row in [0, 2] {
            assert!(
                found.logprob[row].is_finite() && found.entropy[row] > 0.0,
                "{level:?}"
            );
        }
        assert!(
            found.logprob[1].is_nan() && found.entropy[1].is_nan(),
            "{level:?}"
        );
        assert!(found.top[2].1.is_nan(), "{level:?}");
    });
}
