//! What a request gets does not depend on what runs beside it.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{VOCABULARY, generator, generator_with, programs};
use lmrs_engine::{
    Completion, Finish, Generation, Generator, Limits, Request, Sampling, Service, StopStrings,
    Texts, Window, score_sharing,
};
use lmrs_kernels::attention::KvType;
use lmrs_program::{Bindings, Plan, Ragged, Spares};
use lmrs_tensor::{Error, Tensor};
use proptest::prelude::*;

fn run(
    generator: &Arc<Generator>,
    requests: &[Request],
    limits: Limits,
) -> Vec<(Completion, String)> {
    let mut generation = Generation::new(limits);
    let ids: Vec<_> = requests
        .iter()
        .map(|r| generation.add(generator, r.clone()).unwrap())
        .collect();
    let mut pieces: BTreeMap<_, String> = BTreeMap::new();
    let mut done = BTreeMap::new();
    while !generation.is_idle() {
        for progress in generation.step() {
            pieces
                .entry(progress.id)
                .or_default()
                .push_str(&progress.piece);
            done.extend(
                progress
                    .outcome
                    .map(|outcome| (progress.id, outcome.unwrap())),
            );
        }
    }
    ids.iter()
        .map(|id| {
            (
                done.remove(id).unwrap(),
                pieces.remove(id).unwrap_or_default(),
            )
        })
        .collect()
}

fn request() -> impl Strategy<Value = Request> {
    let prompt = prop::collection::vec(0..VOCABULARY as u32, 1..40);
    let sampling = (0..3_usize, 1..20_usize, 0.3..1.0_f64, any::<u64>());
    (prompt, 1..30_usize, sampling, prop::bool::ANY).prop_map(|(prompt, max_tokens, s, stops)| {
        Request {
            prompt,
            max_tokens,
            sampling: Sampling {
                temperature: [0.0, 0.7, 1.3][s.0],
                top_k: (s.1 > 5).then_some(s.1),
                top_p: s.2,
                min_p: 0.01,
                repetition_penalty: if s.1 % 2 == 0 { 1.2 } else { 1.0 },
                no_repeat_ngram_size: s.1 / 4,
                seed: s.3,
                ..Sampling::default()
            },
            stop: StopStrings::new(if stops {
                vec!["ab".into(), "xé".into()]
            } else {
                vec![]
            })
            .unwrap(),
            eos: vec![5],
            drafts: s.1 % 4,
            ..Request::default()
        }
    })
}

/// Whatever keys and values are kept as, a request gets what it gets alone, and they take the memory that they should.
#[test]
fn narrow_keys_and_values_take_less_and_change_nothing_else() {
    let requests: Vec<_> = (0..5)
        .map(|i| Request {
            prompt: (0..20 + 9 * i)
                .map(|t| (t * 7 + i) % VOCABULARY as u32)
                .collect(),
            max_tokens: 20,
            sampling: Sampling::default(),
            stop: StopStrings::new(vec![]).unwrap(),
            eos: vec![],
            ..Request::default()
        })
        .collect();
    let mut held = Vec::new();
    for kv in [KvType::Exact, KvType::Bf16, KvType::Int8] {
        let generator = generator_with(kv);
        let together = run(&generator, &requests, Limits::default());
        for (request, (completion, _)) in requests.iter().zip(&together) {
            let chunks = Limits {
                step_tokens: 7,
                ..Limits::default()
            };
            let alone = &run(&generator, std::slice::from_ref(request), chunks)[0].0;
            assert_eq!(
                (&alone.tokens, &alone.logprobs),
                (&completion.tokens, &completion.logprobs)
            );
        }
        let mut generation = Generation::new(Limits::default());
        for request in &requests {
            generation.add(&generator, request.clone()).unwrap();
        }
        assert_eq!(generation.cached_bytes(), 0);
        generation.step();
        held.push(generation.cached_bytes());
    }
    // Heads of eight: an int8 scale, of four bytes, comes to every eight bytes.
    let [exact, bf16, int8] = held[..] else {
        unreachable!()
    };
    assert!(bf16 * 2 <= exact + 1024 && exact > 0, "{held:?}");
    assert!(
        int8 * 8 <= exact * 3 + 1024 && int8 * 8 >= exact * 3 - 8192,
        "{held:?}"
    );
}

proptest! {
    #![proptest_config(lmrs_testing::cases(24))]

    #[test]
    fn company_and_chunks_change_nothing(
        requests in prop::collection::vec(request(), 1..9),
        step_tokens in 1..60_usize,
        sequences in 1..6_usize,
        cached_tokens in 128..300_usize,
    ) {
        let generator = generator();
        let alone: Vec<_> = requests.iter().flat_map(|r| run(&generator, std::slice::from_ref(r), Limits::default())).collect();
        let together = run(&generator, &requests, Limits { step_tokens, sequences, cached_tokens, ..Limits::default() });
        prop_assert_eq!(&alone, &together);
        for ((completion, pieces), request) in alone.iter().zip(&requests) {
            prop_assert_eq!(&completion.text, pieces);
            prop_assert_eq!(completion.tokens.len(), completion.logprobs.len());
            prop_assert!(completion.tokens.len() <= request.max_tokens);
        }
    }

    #[test]
    fn decoding_is_the_full_forward_bit_for_bit(requests in prop::collection::vec(request(), 1..5)) {
        let windows: Vec<_> = run(&generator(), &requests, Limits::default()).iter().zip(&requests).map(|((c, _), r)| {
            let ids: Vec<u32> = r.prompt.iter().chain(&c.tokens).copied().collect();
            let judged = |at: usize| if at >= r.prompt.len() { ids[at] as i32 } else { -1 };
            let labels = (1..ids.len()).map(judged).collect();
            (Window { ids: ids[..ids.len() - 1].to_vec(), labels }, c.logprobs.clone())
        }).collect();
        let (windows, chosen): (Vec<_>, Vec<_>) = windows.into_iter().unzip();
        let scores = read(programs().1, windows.clone());
        prop_assert_eq!(scores, chosen);
    }
}

#[test]
fn removing_a_request_leaves_the_others() {
    let generator = generator();
    let request = |first| Request {
        prompt: vec![first, 3, 4],
        max_tokens: 9,
        ..Request::default()
    };
    let alone = run(&generator, &[request(8)], Limits::default());
    let mut generation = Generation::new(Limits::default());
    let gone = generation.add(&generator, request(1)).unwrap();
    let kept = generation.add(&generator, request(8)).unwrap();
    generation.step();
    generation.remove(gone);
    let mut last = None;
    while !generation.is_idle() {
        for progress in generation.step() {
            assert_eq!(progress.id, kept);
            last = progress.outcome.map(Result::unwrap).or(last);
        }
    }
    assert_eq!(
        last.as_ref(),
        alone.first().map(|(completion, _)| completion)
    );
}

#[test]
fn a_text_ends_with_the_context() {
    let request = Request {
        prompt: vec![1; 120],
        max_tokens: 50,
        ..Request::default()
    };
    let completions = run(&generator(), &[request], Limits::default());
    assert_eq!(
        (completions[0].0.tokens.len(), completions[0].0.finish),
        (8, Finish::Length)
    );
}

#[test]
fn a_request_out_of_range_is_refused() {
    let good = Request {
        prompt: vec![1],
        max_tokens: 1,
        ..Request::default()
    };
    let sampling = |change: fn(&mut Sampling)| {
        let mut request = good.clone();
        change(&mut request.sampling);
        request
    };
    let bad = [
        (
            Request {
                prompt: vec![],
                ..good.clone()
            },
            "prompt is empty, expected at least one token",
        ),
        (
            Request {
                prompt: vec![1, 97],
                ..good.clone()
            },
            "prompt[1] is 97, expected 0 to 96",
        ),
        (
            Request {
                prompt: vec![1; 129],
                ..good.clone()
            },
            "length of prompt is 129, expected at most the model's context, 128 tokens",
        ),
        (
            Request {
                max_tokens: 0,
                ..good.clone()
            },
            "max_tokens is 0, expected 1 or more",
        ),
        (
            sampling(|s| s.temperature = f64::NAN),
            "temperature is NaN, expected 0 to 100",
        ),
        (
            sampling(|s| s.temperature = -1.0),
            "temperature is -1, expected 0 to 100",
        ),
        (sampling(|s| s.top_p = 1.5), "top_p is 1.5, expected 0 to 1"),
        (
            sampling(|s| s.min_p = f64::INFINITY),
            "min_p is inf, expected 0 to 1",
        ),
        (
            sampling(|s| s.top_k = Some(0)),
            "top_k is 0, expected 1 or more",
        ),
        (
            sampling(|s| s.repetition_penalty = 0.0),
            "repetition_penalty is 0, expected 0.01 to 100",
        ),
    ];
    for (request, message) in bad {
        let mut generation = Generation::new(Limits::default());
        let error = generation.add(&generator(), request).unwrap_err();
        assert!(matches!(error, Error::Input { .. }));
        assert_eq!(error.to_string(), message);
        assert!(generation.is_idle());
    }
    assert!(StopStrings::new(vec![String::new()]).is_err());
    assert!(StopStrings::new(vec!["a".into(); 65]).is_err());
}

/// Windows that branch off from a few texts, some of them repeated, judged in their last rows.
fn windows() -> impl Strategy<Value = Vec<Window>> {
    let id = 0..VOCABULARY as u32;
    let text = prop::collection::vec(id.clone(), 1..110);
    let window = (
        any::<prop::sample::Index>(),
        0..110_usize,
        prop::collection::vec(id, 1..12),
    );
    let texts = prop::collection::vec(text, 1..4);
    (texts, prop::collection::vec((window, 0..6_usize), 1..20)).prop_map(|(texts, windows)| {
        let window =
            |((text, kept, own), judged): ((prop::sample::Index, usize, Vec<u32>), usize)| {
                let text = text.get(&texts);
                let mut ids = text[..kept.min(text.len())].to_vec();
                ids.extend(own);
                let first = ids.len() - judged.min(ids.len());
                let label = |row: usize| {
                    if row < first {
                        -1
                    } else {
                        (row % VOCABULARY) as i32
                    }
                };
                let labels = (0..ids.len()).map(label).collect();
                Window { ids, labels }
            };
        windows.into_iter().map(window).collect()
    })
}

/// What `plan` says of the judged rows of `window`, computed by themselves and without a cache.
fn whole(plan: &Plan, window: &Window) -> Vec<f32> {
    let count = window.ids.len();
    let column = |values: Vec<i32>| Tensor::new(values, [count]).unwrap();
    let ids: Vec<i32> = window.ids.iter().map(|&id| id as i32).collect();
    let bindings = Bindings {
        inputs: [
            ("ids", ids),
            ("positions", (0..count as i32).collect()),
            ("labels", window.labels.clone()),
        ]
        .map(|(name, values)| (name.to_owned(), column(values)))
        .into_iter()
        .collect(),
        streams: [("tokens".to_owned(), Ragged::single(count))]
            .into_iter()
            .collect(),
    };
    let outputs = plan.run(&bindings, None, &Spares::default()).unwrap();
    let rows = outputs[0].values::<f32>().unwrap().iter();
    let judged = rows.zip(&window.labels).filter(|(_, label)| **label >= 0);
    judged.map(|(&logprob, _)| logprob).collect()
}

/// What a service says of windows, the rows of each beside those of others.
fn read(plan: Plan, windows: Vec<Window>) -> Vec<Vec<f32>> {
    let service = Service::start(Limits::default()).unwrap();
    let between = || Ok::<(), Error>(());
    let found = service.read(&Arc::new(plan), Texts::Judged(windows), between);
    found.unwrap()
}

proptest! {
    #![proptest_config(lmrs_testing::cases(48))]

    #[test]
    fn shared_rows_change_no_bit(windows in windows()) {
        let (_, plan) = programs();
        let alone: Vec<_> = windows.iter().map(|window| whole(&plan, window)).collect();
        prop_assert_eq!(&read(plan.clone(), windows.clone()), &alone);
        prop_assert_eq!(score_sharing::<Error>(&plan, &windows, || Ok(())).unwrap(), alone);
    }
}

/// A window that is cut into parts, beside short ones that share their parts.
#[test]
fn parts_change_no_bit() {
    let (_, plan) = programs();
    let window = |(number, length): (usize, usize)| {
        let ids = (0..length).map(|i| ((i * i + 7 * number) % VOCABULARY) as u32);
        let labels = (0..length).map(|i| ((i + number) % VOCABULARY) as i32);
        Window {
            ids: ids.collect(),
            labels: labels.collect(),
        }
    };
    let lengths = [1500, 3, 256, 0, 511, 1, 700];
    let windows: Vec<_> = lengths.into_iter().enumerate().map(window).collect();
    let alone: Vec<_> = windows.iter().map(|window| whole(&plan, window)).collect();
    let sharing = score_sharing::<Error>(&plan, &windows, || Ok(())).unwrap();
    assert_eq!(sharing, alone);
    assert_eq!(read(plan, windows), alone);
}

/// `n` continuations of a context take one run over it: fewer rows than `n` contexts have.
#[test]
fn a_context_is_computed_once() {
    let (_, plan) = programs();
    let context: Vec<u32> = (0..100).map(|i| i * 7 % VOCABULARY as u32).collect();
    let windows: Vec<_> = (0..64)
        .map(|i| {
            let mut ids = context.clone();
            ids.push(i);
            let mut labels = vec![-1; ids.len()];
            labels[ids.len() - 1] = 3;
            Window { ids, labels }
        })
        .collect();
    // One over the context, and one with all that follows it; seven would read it for each.
    let mut runs = 0;
    let count = || -> Result<(), Error> {
        runs += 1;
        Ok(())
    };
    score_sharing(&plan, &windows, count).unwrap();
    assert_eq!(runs, 2);
}

/// A long corpus is many runs: what they leave to each other must not grow.
#[test]
fn a_run_leaves_no_more_than_the_one_before_it() {
    let (_, plan) = programs();
    let column = || Tensor::new((0..100_i32).map(|i| i * 7 % 90).collect(), [100]).unwrap();
    let bindings = Bindings {
        inputs: ["ids", "positions", "labels"]
            .map(|name| (name.to_owned(), column()))
            .into_iter()
            .collect(),
        streams: [("tokens".to_owned(), Ragged::new(&[0, 60, 100]).unwrap())]
            .into_iter()
            .collect(),
    };
    let spares = Spares::default();
    let left = |spares: &Spares| {
        plan.run(&bindings, None, spares).unwrap();
        spares.held()
    };
    let first = left(&spares);
    assert!(first > 0);
    assert_eq!([left(&spares), left(&spares)], [first; 2]);
}
