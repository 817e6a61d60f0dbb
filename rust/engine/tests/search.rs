//! Beams, guesses and guidance: what they promise, whatever runs beside them.

mod common;

use std::sync::Arc;

use common::{VOCABULARY, generator, generator_with};
use lmrs_engine::{
    Completion, EarlyStopping, Generation, Generator, Guidance, Limits, Request, Sampling, Search,
    StopStrings,
};
use lmrs_kernels::attention::KvType;
use lmrs_tensor::Error;
use proptest::prelude::*;

fn run(generator: &Arc<Generator>, requests: &[Request], limits: Limits) -> Vec<Completion> {
    let mut generation = Generation::new(limits);
    for request in requests {
        generation.add(generator, request.clone()).unwrap();
    }
    generation.finish::<Error>(|| Ok(())).unwrap()
}

fn alone(generator: &Arc<Generator>, request: &Request) -> Completion {
    run(generator, std::slice::from_ref(request), Limits::default()).remove(0)
}

fn prompt() -> impl Strategy<Value = Vec<u32>> {
    // Of few tokens, so that what is there comes again.
    prop::collection::vec(prop_oneof![4 => 0..6_u32, 1 => 0..VOCABULARY as u32], 1..40)
}

fn request() -> impl Strategy<Value = Request> {
    (prompt(), 1..24_usize, 0..2_usize, any::<u64>()).prop_map(|(prompt, max_tokens, hot, seed)| {
        Request {
            prompt,
            max_tokens,
            sampling: Sampling {
                temperature: [0.0, 0.8][hot],
                repetition_penalty: 1.1,
                seed,
                ..Sampling::default()
            },
            eos: vec![5],
            top_logprobs: 2,
            ..Request::default()
        }
    })
}

fn search() -> impl Strategy<Value = Search> {
    let early = prop_oneof![
        Just(EarlyStopping::Yes),
        Just(EarlyStopping::Heuristic),
        Just(EarlyStopping::Never)
    ];
    (2..5_usize, -1.0..2.0_f64, early).prop_map(|(beams, length_penalty, early_stopping)| Search {
        beams,
        length_penalty,
        early_stopping,
    })
}

proptest! {
    #![proptest_config(lmrs_testing::cases(24))]

    /// To the bit, greedy or drawn, whoever guesses and however well.
    #[test]
    fn guesses_change_nothing(request in request(), drafts in 1..6_usize, other in any::<bool>()) {
        let generator = generator();
        let expected = alone(&generator, &request);
        let looked_up = Request { drafts, ..request.clone() };
        prop_assert_eq!(&alone(&generator, &looked_up), &expected);
        // A draft model that is right, or one that is often wrong.
        let drafter = if other { generator_with(KvType::Int8) } else { Arc::clone(&generator) };
        let drafted = Request { drafter: Some(drafter), ..looked_up };
        prop_assert_eq!(&alone(&generator, &drafted), &expected);
        let limits = Limits { step_tokens: 3, sequences: 2, cached_tokens: 150, ..Limits::default() };
        for completion in run(&generator, &[drafted.clone(), request, drafted], limits) {
            prop_assert_eq!(&completion, &expected);
        }
    }

    #[test]
    fn a_search_does_not_depend_on_its_company(
        request in request(),
        search in search(),
        others in prop::collection::vec(request(), 0..4),
        step_tokens in 1..40_usize,
        sequences in 4..7_usize,
    ) {
        let generator = generator();
        let request = Request {
            sampling: Sampling { temperature: 0.0, ..request.sampling },
            search: Some(search),
            top_logprobs: 0,
            ..request
        };
        let expected = alone(&generator, &request);
        let limits = Limits { step_tokens, sequences, cached_tokens: 520, ..Limits::default() };
        let mut requests = others;
        requests.insert(requests.len() / 2, request);
        let found = run(&generator, &requests, limits).remove((requests.len() - 1) / 2);
        prop_assert_eq!(&found, &expected);
        prop_assert!(found.beams.is_sorted_by(|a, b| a.score >= b.score));
        prop_assert!(found.beams.len() <= search.beams);
        prop_assert_eq!(&found.tokens, &found.beams[0].tokens);
    }

    /// With a scale of 1 the other prompt is of no account; with another it is, and company is not.
    #[test]
    fn guidance(request in request(), negative in prompt(), scale in 1.2..3.0_f64) {
        let generator = generator();
        // A penalty on log-probabilities, which guidance gives, is not one on logits.
        let sampling = Sampling { repetition_penalty: 1.0, ..request.sampling.clone() };
        let request = Request { sampling, ..request };
        let guided = |scale| Request {
            guidance: Some(Guidance { negative: negative.clone(), scale }),
            ..request.clone()
        };
        let same = alone(&generator, &guided(1.0));
        let plain = alone(&generator, &request);
        if request.sampling.temperature == 0.0 {
            prop_assert_eq!(&same.tokens, &plain.tokens);
        }
        let steered = alone(&generator, &guided(scale));
        let limits = Limits { step_tokens: 5, sequences: 2, cached_tokens: 150, ..Limits::default() };
        for completion in run(&generator, &[guided(scale), guided(scale), guided(scale)], limits) {
            prop_assert_eq!(&completion, &steered);
        }
    }
}

/// The best of all texts of three tokens, one by one, is what as many beams as there are tokens find.
#[test]
fn enough_beams_find_the_likeliest_text() {
    let generator = generator();
    let request = |prompt: Vec<u32>, max_tokens, beams| Request {
        prompt,
        max_tokens,
        top_logprobs: if beams == 1 { VOCABULARY } else { 0 },
        search: (beams > 1).then_some(Search {
            beams,
            length_penalty: 0.0,
            early_stopping: EarlyStopping::Never,
        }),
        ..Request::default()
    };
    let start = vec![7, 3, 9];
    let (mut best, mut likeliest) = (f64::NEG_INFINITY, vec![]);
    for &(first, p) in &alone(&generator, &request(start.clone(), 1, 1)).top[0] {
        let after = [&*start, &[first]].concat();
        let (second, q) = alone(&generator, &request(after, 1, 1)).top[0][0];
        if f64::from(p) + f64::from(q) > best {
            (best, likeliest) = (f64::from(p) + f64::from(q), vec![first, second]);
        }
    }
    let limits = Limits {
        sequences: VOCABULARY,
        ..Limits::default()
    };
    let found = run(&generator, &[request(start, 2, VOCABULARY)], limits).remove(0);
    assert_eq!(found.tokens, likeliest);
    assert!((found.beams[0].score - best).abs() < 1e-5);
    assert_eq!(found.beams.len(), VOCABULARY);
}

#[test]
fn what_does_not_go_with_a_search_is_named() {
    let good = Request {
        prompt: vec![1],
        max_tokens: 3,
        search: Some(Search {
            beams: 3,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
        }),
        ..Request::default()
    };
    let search = |beams, length_penalty| {
        Some(Search {
            beams,
            length_penalty,
            early_stopping: EarlyStopping::Yes,
        })
    };
    let warm = Sampling {
        temperature: 1.0,
        ..Sampling::default()
    };
    let bad = [
        (
            Request {
                sampling: warm,
                ..good.clone()
            },
            "temperature",
        ),
        (
            Request {
                stop: StopStrings::new(vec!["a".into()]).unwrap(),
                ..good.clone()
            },
            "stop",
        ),
        (
            Request {
                drafts: 2,
                ..good.clone()
            },
            "drafts",
        ),
        (
            Request {
                top_logprobs: 1,
                ..good.clone()
            },
            "top_logprobs",
        ),
        (
            Request {
                search: search(0, 1.0),
                ..good.clone()
            },
            "beams is 0",
        ),
        (
            Request {
                search: search(98, 1.0),
                ..good.clone()
            },
            "beams is 98",
        ),
        (
            Request {
                search: search(70, 1.0),
                ..good.clone()
            },
            "beams is 70",
        ),
        (
            Request {
                search: search(2, f64::NAN),
                ..good.clone()
            },
            "length_penalty",
        ),
    ];
    for (request, name) in bad {
        let mut generation = Generation::new(Limits::default());
        let said = generation
            .add(&generator(), request)
            .unwrap_err()
            .to_string();
        assert!(said.starts_with(name), "{said}");
    }
}

/// Prompts that are not kept cost nothing when the request is over.
#[test]
fn prefixes_are_shared_only_if_asked() {
    let request = Request {
        prompt: (0..100).map(|t| t % 90).collect(),
        max_tokens: 3,
        ..Request::default()
    };
    for share_prefixes in [true, false] {
        let mut generation = Generation::new(Limits {
            share_prefixes,
            ..Limits::default()
        });
        generation.add(&generator(), request.clone()).unwrap();
        generation.finish::<Error>(|| Ok(())).unwrap();
        assert_eq!(generation.prefix_bytes() > 0, share_prefixes);
    }
}
