//! Distributions against a plain restatement in probabilities, draws against distributions.

use lmrs_engine::{Past, Sampling};
use proptest::prelude::*;

/// After `written`, and nothing read.
fn after(written: &[u32]) -> Past<'_> {
    Past {
        tokens: written,
        written: written.len(),
        max_tokens: 100,
        eos: &[0],
    }
}

/// The processors one after another over the whole vocabulary, as their papers put them.
fn reference(s: &Sampling, logits: &[f32], history: &[u32]) -> Vec<f64> {
    let softmax = |scores: &[f64]| {
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        scores
            .iter()
            .map(|s| (s - top).exp() / total)
            .collect::<Vec<_>>()
    };
    let mut scores: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    for (token, score) in scores.iter_mut().enumerate() {
        if history.contains(&(token as u32)) {
            *score *= if *score < 0.0 {
                s.repetition_penalty
            } else {
                1.0 / s.repetition_penalty
            };
        }
        *score /= s.temperature;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    for &token in order.iter().skip(s.top_k.unwrap_or(usize::MAX)) {
        scores[token] = f64::NEG_INFINITY;
    }
    let mut before = 0.0;
    for (&token, p) in order.iter().zip(
        order
            .iter()
            .map(|&t| softmax(&scores)[t])
            .collect::<Vec<_>>(),
    ) {
        if before >= s.top_p {
            scores[token] = f64::NEG_INFINITY;
        }
        before += p;
    }
    let p = softmax(&scores);
    let top = p.iter().copied().fold(0.0, f64::max);
    for (score, p) in scores.iter_mut().zip(&p) {
        if *p < s.min_p * top {
            *score = f64::NEG_INFINITY;
        }
    }
    softmax(&scores)
}

proptest! {
    #[test]
    fn distributions(
        logits in prop::collection::vec(-12.0..12.0_f32, 2..40),
        history in prop::collection::vec(0..50_u32, 0..9),
        (temperature, top_p, min_p) in (0.1..4.0_f64, 0.05..1.0_f64, 0.0..0.4_f64),
        (repetition_penalty, top_k) in (0.5..2.0_f64, prop::option::of(1..50_usize)),
        seed in any::<u64>(),
    ) {
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed, ..Sampling::default() };
        sampling.check(50).unwrap();
        let kept = sampling.distribution(&logits, &after(&history), None).unwrap();
        prop_assert!(kept.is_sorted_by(|a, b| a.0 < b.0));
        let mut ours = vec![0.0; logits.len()];
        for &(token, p) in &kept {
            ours[token as usize] = p;
        }
        for (a, b) in ours.iter().zip(reference(&sampling, &logits, &history)) {
            prop_assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
        let token = sampling.choose(&logits, &after(&history), None).unwrap();
        prop_assert!(ours[token as usize] > 0.0);
        prop_assert_eq!(token, sampling.choose(&logits, &after(&history), None).unwrap());
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = (0..300).map(|i| -0.02 * i as f32).collect();
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 0.9,
        seed: 11,
        ..Sampling::default()
    };
    let kept = sampling
        .distribution(&logits, &Past::default(), None)
        .unwrap();
    let draws = 200_000;
    let drawn = |step: u32| Past {
        written: step as usize,
        ..Past::default()
    };
    let mut counts = vec![0_u32; logits.len()];
    for step in 0..draws {
        counts[sampling.choose(&logits, &drawn(step), None).unwrap() as usize] += 1;
    }
    // Pearson's statistic has as many degrees of freedom as tokens less one; six standard deviations are 6·sqrt(2n).
    let n = kept.len() as f64;
    let chi: f64 = kept
        .iter()
        .map(|&(token, p)| {
            (f64::from(counts[token as usize]) - p * f64::from(draws)).powi(2)
                / (p * f64::from(draws))
        })
        .sum();
    assert!(
        (chi - n).abs() < 6.0 * (2.0 * n).sqrt(),
        "chi² {chi} for {n} tokens"
    );
    assert_eq!(
        kept.iter()
            .map(|&(token, _)| counts[token as usize])
            .sum::<u32>(),
        draws
    );
}

#[test]
fn a_large_nucleus_in_a_large_vocabulary() {
    let logits = vec![0.0_f32; 50_000];
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 0.5,
        ..Sampling::default()
    };
    let kept = sampling
        .distribution(&logits, &Past::default(), None)
        .unwrap();
    assert_eq!(
        (
            kept.len(),
            kept.first().map(|k| k.0),
            kept.last().map(|k| k.0)
        ),
        (25_000, Some(0), Some(24_999))
    );
}

#[test]
fn broken_logits_are_refused() {
    let sampling = Sampling {
        temperature: 0.5,
        ..Sampling::default()
    };
    for broken in [
        vec![0.0, f32::NAN],
        vec![f32::INFINITY, 0.0],
        vec![f32::NEG_INFINITY; 3],
        vec![],
    ] {
        assert!(sampling.choose(&broken, &Past::default(), None).is_err());
        assert!(
            Sampling::default()
                .choose(&broken, &Past::default(), None)
                .is_err()
        );
    }
    assert_eq!(
        sampling
            .choose(&[f32::NEG_INFINITY, 1.0], &Past::default(), None)
            .unwrap(),
        1
    );
}

#[test]
fn what_is_forbidden_is_not_written() {
    let logits = [3.0, 2.0, 1.0, 0.0];
    let greedy = |sampling: &Sampling, written: &[u32]| {
        sampling.choose(&logits, &after(written), None).unwrap()
    };
    let plain = Sampling::default();
    let cases = [
        (
            Sampling {
                min_tokens: 3,
                ..plain.clone()
            },
            vec![1, 1],
            1,
        ),
        (
            Sampling {
                min_tokens: 2,
                ..plain.clone()
            },
            vec![1, 1],
            0,
        ),
        (
            Sampling {
                begin: vec![3, 2],
                ..plain.clone()
            },
            vec![3],
            2,
        ),
        (
            Sampling {
                no_repeat_ngram_size: 2,
                ..plain.clone()
            },
            vec![1, 0, 1],
            1,
        ),
        (
            Sampling {
                no_repeat_ngram_size: 1,
                ..plain.clone()
            },
            vec![1, 0, 1],
            2,
        ),
        (
            Sampling {
                no_repeat_ngram_size: 9,
                ..plain.clone()
            },
            vec![1],
            0,
        ),
        (
            Sampling {
                bad_words: vec![vec![2, 0], vec![1]],
                ..plain.clone()
            },
            vec![2],
            2,
        ),
        (
            Sampling {
                logit_bias: vec![(3, 3.5)],
                ..plain.clone()
            },
            vec![],
            3,
        ),
        (
            Sampling {
                presence_penalty: 1.5,
                ..plain.clone()
            },
            vec![0, 0],
            1,
        ),
        (
            Sampling {
                frequency_penalty: 0.75,
                ..plain.clone()
            },
            vec![0, 0],
            1,
        ),
        (
            Sampling {
                frequency_penalty: 0.75,
                ..plain.clone()
            },
            vec![0],
            0,
        ),
    ];
    for (sampling, written, expected) in cases {
        sampling.check(4).unwrap();
        assert_eq!(greedy(&sampling, &written), expected, "{sampling:?}");
    }
    let last = Past {
        max_tokens: 3,
        eos: &[2],
        ..after(&[1, 1])
    };
    let forced = Sampling {
        force_eos: true,
        ..plain.clone()
    };
    assert_eq!(forced.choose(&logits, &last, None).unwrap(), 2);
    assert_eq!(
        plain
            .choose(&logits, &last, Some(&[false, false, true]))
            .unwrap(),
        2
    );
    let none = plain.choose(&logits, &last, Some(&[false; 4])).unwrap_err();
    assert!(none.to_string().contains("no token"), "{none}");
}

#[test]
fn options_out_of_range_are_named() {
    let plain = Sampling::default();
    for (sampling, name) in [
        (
            Sampling {
                typical_p: f64::NAN,
                ..plain.clone()
            },
            "typical_p",
        ),
        (
            Sampling {
                presence_penalty: 101.0,
                ..plain.clone()
            },
            "presence_penalty",
        ),
        (
            Sampling {
                frequency_penalty: -101.0,
                ..plain.clone()
            },
            "frequency_penalty",
        ),
        (
            Sampling {
                logit_bias: vec![(4, 1.0)],
                ..plain.clone()
            },
            "logit_bias",
        ),
        (
            Sampling {
                logit_bias: vec![(3, f64::INFINITY)],
                ..plain.clone()
            },
            "logit_bias[3]",
        ),
        (
            Sampling {
                bad_words: vec![vec![1], vec![]],
                ..plain.clone()
            },
            "bad_words[1]",
        ),
        (
            Sampling {
                bad_words: vec![vec![9]],
                ..plain.clone()
            },
            "bad_words[0]",
        ),
        (
            Sampling {
                bad_words: vec![vec![1; 70_000]],
                ..plain.clone()
            },
            "tokens of bad_words",
        ),
        (
            Sampling {
                begin: vec![0, 4],
                ..plain.clone()
            },
            "begin[1]",
        ),
    ] {
        let said = sampling.check(4).unwrap_err().to_string();
        assert!(said.contains(name), "{said}");
    }
}
